//! Sessions in Redis. Every access is one Lua script, so it is atomic and costs one round trip.
//!
//! A session is five keys that share a hash tag: `session:{id}` (hash: user, tier, epoch, nonce, instance, seq),
//! `…:history` (list), `…:outbox` (sorted by reply number), `…:ids` (sorted by reply number), `…:values` (hash).
//! Entries of history and outbox are `<seq> <json>`.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use redis::{Client, RedisError, Script, aio::ConnectionManager, aio::ConnectionManagerConfig};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use super::{
    Change, Claim, ClaimRequest, HistoryEntry, Lease, MAX_HISTORY, MAX_IDS, MAX_OUTBOX, MAX_VALUES, Reply,
    Result, Section, Snapshot, StoreError, Takeover, Takeovers, Write, random_id,
};

/// Longest wait for one answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests in flight at once; more wait their turn in their own sockets.
const PIPELINE: usize = 512;
/// Announcements that may wait; more are dropped, and the loser finds out at its next access.
const TAKEOVER_QUEUE: usize = 1024;
/// Prefix of the channel on which a server process hears that it lost a session.
const TAKEOVER_CHANNEL: &str = "session-server:takeover:";

/// The store.
#[derive(Clone)]
pub struct RedisStore {
    client: Client,
    connection: ConnectionManager,
    scripts: Arc<Scripts>,
    ttl: Duration,
}

struct Scripts {
    claim: Script,
    write: Script,
    read: Script,
    touch: Script,
}

/// What an outbox entry carries beside its number.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    id: std::borrow::Cow<'a, str>,
    text: std::borrow::Cow<'a, str>,
}

// === impl RedisStore ===

impl RedisStore {
    /// A store at `url` (`redis://host:port`). Connects at the first use and again after every loss.
    pub fn new(url: &str, ttl: Duration) -> Result<Self> {
        let client = Client::open(url).map_err(unavailable)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_number_of_retries(2)
            .set_max_delay(Duration::from_secs(1))
            .set_pipeline_buffer_size(PIPELINE);
        let connection =
            ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(unavailable)?;
        let scripts = Scripts {
            claim: Script::new(include_str!("claim.lua")),
            write: Script::new(include_str!("write.lua")),
            read: Script::new(include_str!("read.lua")),
            touch: Script::new(include_str!("touch.lua")),
        };
        Ok(Self {
            client,
            connection,
            scripts: Arc::new(scripts),
            ttl,
        })
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) async fn may_claim(&self, session: &str, user: &str) -> Result<bool> {
        let [key, ..] = keys(session);
        let mut connection = self.connection.clone();
        let owner: Option<String> = redis::cmd("HGET")
            .arg(key)
            .arg("user")
            .query_async(&mut connection)
            .await
            .map_err(unavailable)?;
        match owner {
            Some(owner) if owner != user => Err(StoreError::Forbidden),
            owner => Ok(owner.is_some()),
        }
    }

    pub(super) async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claim> {
        let nonce = random_id();
        let mut call = self.scripts.claim.prepare_invoke();
        for key in keys(request.session) {
            call.key(key);
        }
        call.arg(&request.identity.user)
            .arg(&request.identity.tier)
            .arg(&nonce)
            .arg(request.instance)
            .arg(request.last)
            .arg(self.ttl.as_secs().max(1))
            .arg(u8::from(request.forget))
            .arg(TAKEOVER_CHANNEL)
            .arg(request.session);
        let mut connection = self.connection.clone();
        let answer: redis::Value = call.invoke_async(&mut connection).await.map_err(unavailable)?;
        // A refusal has one element, a claim five.
        if let Ok((status,)) = redis::from_redis_value::<(String,)>(answer.clone()) {
            return Err(refusal(&status));
        }
        let (_, epoch, found, seq, replay): (String, u64, bool, u64, Vec<String>) =
            redis::from_redis_value(answer).map_err(odd)?;
        Ok(Claim {
            lease: Lease {
                session: request.session.into(),
                epoch,
                nonce: nonce.into(),
            },
            found,
            seq,
            replay: replay
                .iter()
                .map(|entry| parse_reply(entry))
                .collect::<Result<_>>()?,
        })
    }

    pub(super) async fn write(&self, lease: &Lease, write: &Write<'_>) -> Result<Reply> {
        let reply = to_json(&Kept {
            id: write.id.into(),
            text: write.reply.into(),
        })?;
        let (history, field, value) = match &write.change {
            Change::Say(text) => (
                to_json(&Kept {
                    id: write.id.into(),
                    text: (*text).into(),
                })?,
                None,
                None,
            ),
            Change::Set { section, key, value } => (
                String::new(),
                Some(format!("{}/{key}", section.as_str())),
                Some(to_json(value)?),
            ),
        };
        let mut call = self.scripts.write.prepare_invoke();
        for key in keys(&lease.session) {
            call.key(key);
        }
        call.arg(lease.epoch)
            .arg(&*lease.nonce)
            .arg(self.ttl.as_secs().max(1))
            .arg(write.id)
            .arg(write.ack)
            .arg(reply)
            .arg(history)
            .arg(field.unwrap_or_default())
            .arg(value.unwrap_or_default())
            .arg(MAX_HISTORY)
            .arg(MAX_OUTBOX)
            .arg(MAX_IDS)
            .arg(MAX_VALUES);
        let mut connection = self.connection.clone();
        let answer: redis::Value = call.invoke_async(&mut connection).await.map_err(unavailable)?;
        if let Ok((status,)) = redis::from_redis_value::<(String,)>(answer.clone()) {
            return Err(refusal(&status));
        }
        let (_, seq, kept): (String, u64, String) = redis::from_redis_value(answer).map_err(odd)?;
        if kept.is_empty() {
            Ok(write.reply_as(seq))
        } else {
            parse_reply(&kept)
        }
    }

    pub(super) async fn read(&self, lease: &Lease) -> Result<Snapshot> {
        let mut call = self.scripts.read.prepare_invoke();
        for key in keys(&lease.session) {
            call.key(key);
        }
        call.arg(lease.epoch).arg(&*lease.nonce);
        let mut connection = self.connection.clone();
        let (status, tier, history, values): (String, String, Vec<String>, Vec<(String, String)>) =
            call.invoke_async(&mut connection).await.map_err(unavailable)?;
        if status != "ok" {
            return Err(refusal(&status));
        }
        let mut snapshot = Snapshot {
            tier,
            ..Snapshot::default()
        };
        for entry in &history {
            let Reply { seq, id, text } = parse_reply(entry)?;
            snapshot.history.push(HistoryEntry { seq, id, text });
        }
        for (field, json) in values {
            let (section, key) = split_field(&field)?;
            let value = serde_json::from_str(&json).map_err(odd)?;
            snapshot.section_mut(section).insert(key.to_owned(), value);
        }
        Ok(snapshot)
    }

    pub(super) async fn touch(&self, lease: &Lease) -> Result<()> {
        let mut call = self.scripts.touch.prepare_invoke();
        for key in keys(&lease.session) {
            call.key(key);
        }
        call.arg(lease.epoch)
            .arg(&*lease.nonce)
            .arg(self.ttl.as_secs().max(1));
        let mut connection = self.connection.clone();
        let status: String = call.invoke_async(&mut connection).await.map_err(unavailable)?;
        if status == "ok" {
            Ok(())
        } else {
            Err(refusal(&status))
        }
    }

    pub(super) fn takeovers(&self, instance: &str, stop: CancellationToken) -> Takeovers {
        let (sender, receiver) = mpsc::channel(TAKEOVER_QUEUE);
        let client = self.client.clone();
        let channel = format!("{TAKEOVER_CHANNEL}{instance}");
        tokio::spawn(async move {
            let _ = stop.run_until_cancelled(listen(client, channel, sender)).await;
        });
        receiver
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisStore")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Hears takeovers for as long as somebody listens, subscribing again after every loss.
async fn listen(client: Client, channel: String, sender: mpsc::Sender<Takeover>) {
    let mut failures = 0u32;
    while !sender.is_closed() {
        match subscribe(&client, &channel).await {
            Ok(mut messages) => {
                failures = 0;
                // Whatever was announced while nobody listened is lost: have every session looked at once.
                let _ = sender.try_send(Takeover::Unsure);
                while let Some(message) = messages.next().await {
                    let Ok(payload) = message.get_payload::<String>() else {
                        continue;
                    };
                    let Some((session, epoch)) = payload.rsplit_once(' ') else {
                        continue;
                    };
                    let Ok(epoch) = epoch.parse() else { continue };
                    let _ = sender.try_send(Takeover::Taken {
                        session: session.to_owned(),
                        epoch,
                    });
                }
                tracing::warn!("lost the subscription to takeovers");
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to subscribe to takeovers"
                );
            }
        }
        failures = failures.saturating_add(1);
        let most = 100u64.saturating_mul(1 << failures.min(5));
        time::sleep(Duration::from_millis(rand::random_range(50..=most))).await;
    }
}

async fn subscribe(client: &Client, channel: &str) -> redis::RedisResult<redis::aio::PubSubStream> {
    let attempt = async {
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(channel).await?;
        Ok(pubsub.into_on_message())
    };
    match time::timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err((redis::ErrorKind::Io, "timed out").into()),
    }
}

fn keys(session: &str) -> [String; 5] {
    ["", ":history", ":outbox", ":ids", ":values"].map(|part| format!("session:{{{session}}}{part}"))
}

fn parse_reply(entry: &str) -> Result<Reply> {
    let (seq, json) = entry
        .split_once(' ')
        .ok_or_else(|| odd("an entry without a number"))?;
    let Kept { id, text } = serde_json::from_str(json).map_err(odd)?;
    Ok(Reply {
        seq: seq.parse().map_err(odd)?,
        id: id.into_owned(),
        text: text.into_owned(),
    })
}

fn split_field(field: &str) -> Result<(Section, &str)> {
    let (section, key) = field
        .split_once('/')
        .ok_or_else(|| odd("a value without a section"))?;
    [Section::Context, Section::Tools, Section::Preferences]
        .into_iter()
        .find(|known| known.as_str() == section)
        .map(|known| (known, key))
        .ok_or_else(|| odd("a value in an unknown section"))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(odd)
}

fn refusal(status: &str) -> StoreError {
    match status {
        "gone" => StoreError::Gone,
        "stale" => StoreError::Stale,
        "forbidden" => StoreError::Forbidden,
        "full" => StoreError::Full,
        _ => odd("an unknown answer of a script"),
    }
}

fn unavailable(error: RedisError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

/// What the store holds is not what this program writes.
fn odd(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}
