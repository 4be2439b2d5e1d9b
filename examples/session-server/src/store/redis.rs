//! Sessions in Redis. Every access is one Lua script, so it is atomic and costs one round trip.
//!
//! A session is five keys that share a hash tag: `session:{id}` (hash: user, tier, permissions, epoch, nonce, instance,
//! seq), and under its user's name `…:<user>:history` (list), `…:outbox` (sorted by reply number), `…:ids` (sorted by reply
//! number), `…:values` (hash). Entries of history and outbox are `<seq> <entry>`; see [`super::seal`] for what an entry is.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use redis::{Client, RedisError, Script, aio::ConnectionManager, aio::ConnectionManagerConfig};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use super::{
    Claim, ClaimRequest, Lease, MAX_HISTORY, MAX_IDS, MAX_OUTBOX, MAX_VALUES, Reply, Result, Snapshot,
    StateKeys, StoreError, Takeover, Takeovers, Write,
    entry::{self, Entries, odd},
    random_id,
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
    keys: StateKeys,
    ttl: Duration,
}

struct Scripts {
    claim: Script,
    write: Script,
    read: Script,
    touch: Script,
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
            keys: StateKeys::default(),
            ttl,
        })
    }

    /// The same, with what it stores sealed.
    #[must_use]
    pub fn sealed_by(mut self, keys: StateKeys) -> Self {
        self.keys = keys;
        self
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) async fn may_claim(&self, session: &str, user: &str) -> Result<bool> {
        let [key, ..] = keys(session, user);
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
        for key in keys(request.session, &request.identity.user) {
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
            .arg(request.session)
            .arg(request.identity.permissions.to_string());
        let mut connection = self.connection.clone();
        let answer: redis::Value = call.invoke_async(&mut connection).await.map_err(unavailable)?;
        // A refusal has one element, a claim five.
        if let Ok((status,)) = redis::from_redis_value::<(String,)>(answer.clone()) {
            return Err(refusal(&status));
        }
        let (_, epoch, found, seq, replay): (String, u64, bool, u64, Vec<Vec<u8>>) =
            redis::from_redis_value(answer).map_err(odd)?;
        let sealer = self.keys.of(&request.identity.user, request.session);
        Ok(Claim {
            lease: Lease {
                session: request.session.into(),
                user: request.identity.user.as_str().into(),
                epoch,
                nonce: nonce.into(),
            },
            found,
            seq,
            replay: replay
                .iter()
                .map(|entry| {
                    let (seq, entry) = numbered(entry)?;
                    entry::reply(&sealer, seq, entry)
                })
                .collect::<Result<_>>()?,
        })
    }

    pub(super) async fn write(&self, lease: &Lease, write: &Write<'_>) -> Result<Reply> {
        let Entries {
            ids,
            reply,
            history,
            value,
        } = Entries::new(&self.keys, lease, write)?;
        let (fields, value) = value.unwrap_or_default();
        let mut call = call(&self.scripts.write, lease);
        call.arg(self.ttl.as_secs().max(1))
            .arg(write.ack)
            .arg(reply)
            .arg(history.unwrap_or_default())
            .arg(value)
            .arg(MAX_HISTORY)
            .arg(MAX_OUTBOX)
            .arg(MAX_IDS)
            .arg(MAX_VALUES)
            .arg(ids.len());
        for name in ids.into_iter().chain(fields) {
            call.arg(name);
        }
        let mut connection = self.connection.clone();
        let answer: redis::Value = call.invoke_async(&mut connection).await.map_err(unavailable)?;
        if let Ok((status,)) = redis::from_redis_value::<(String,)>(answer.clone()) {
            return Err(refusal(&status));
        }
        let (_, seq, kept): (String, u64, Vec<u8>) = redis::from_redis_value(answer).map_err(odd)?;
        if kept.is_empty() {
            return Ok(write.reply_as(seq));
        }
        let (seq, kept) = numbered(&kept)?;
        entry::reply(&self.keys.of(&lease.user, &lease.session), seq, kept)
    }

    pub(super) async fn read(&self, lease: &Lease) -> Result<Snapshot> {
        let call = call(&self.scripts.read, lease);
        let mut connection = self.connection.clone();
        let answer: redis::Value = call.invoke_async(&mut connection).await.map_err(unavailable)?;
        if let Ok((status,)) = redis::from_redis_value::<(String,)>(answer.clone()) {
            return Err(refusal(&status));
        }
        let (_, tier, permissions, history, values): (String, String, String, Vec<Vec<u8>>, Vec<Vec<u8>>) =
            redis::from_redis_value(answer).map_err(odd)?;
        let mut snapshot = Snapshot {
            tier,
            permissions: permissions.parse().map_err(odd)?,
            ..Snapshot::default()
        };
        let sealer = self.keys.of(&lease.user, &lease.session);
        for entry in &history {
            let (seq, entry) = numbered(entry)?;
            snapshot.history.push(entry::history(&sealer, seq, entry)?);
        }
        for value in values {
            entry::value(&sealer, value, &mut snapshot)?;
        }
        Ok(snapshot)
    }

    pub(super) async fn touch(&self, lease: &Lease) -> Result<()> {
        let mut call = call(&self.scripts.touch, lease);
        call.arg(self.ttl.as_secs().max(1));
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

/// A script with what every access under a claim names.
fn call<'s>(script: &'s Script, lease: &Lease) -> redis::ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    for key in keys(&lease.session, &lease.user) {
        call.key(key);
    }
    call.arg(&*lease.user).arg(lease.epoch).arg(&*lease.nonce);
    call
}

fn keys(session: &str, user: &str) -> [String; 5] {
    let content = |part| format!("session:{{{session}}}:{user}:{part}");
    [
        format!("session:{{{session}}}"),
        content("history"),
        content("outbox"),
        content("ids"),
        content("values"),
    ]
}

/// Takes an entry of history or outbox apart.
fn numbered(stored: &[u8]) -> Result<(u64, Vec<u8>)> {
    let space = stored.iter().position(|byte| *byte == b' ');
    let (seq, entry) = stored.split_at(space.ok_or_else(|| odd("an entry without a number"))?);
    let seq = std::str::from_utf8(seq).map_err(odd)?.parse().map_err(odd)?;
    Ok((seq, entry[1..].to_vec()))
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
