//! Sessions in PostgreSQL. Every access is one call of a function in `schema.sql`, so it is one transaction and costs one
//! round trip; what was answered has been committed.

mod listen;
mod schema;
mod tls;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
    tokio_postgres::{
        Config, Row,
        error::SqlState,
        types::{FromSql, ToSql},
    },
};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use self::tls::Tls;
use super::{
    Claim, ClaimRequest, Lease, MAX_HISTORY, MAX_IDS, MAX_OUTBOX, MAX_VALUES, Reply, Result, Snapshot,
    StateKeys, StoreError, Takeovers, Write,
    entry::{self, Entries, odd},
    random_id,
};

/// Longest wait for one answer; the database gives up a little earlier.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2500);
/// Longest wait for a connection: for a free one of the pool, and for a new one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections for accesses; there is one more that listens.
const DEFAULT_CONNECTIONS: usize = 8;
/// What every connection is told first: nothing waits for ever, whatever the database's own settings are.
const SETTINGS: &str = "SET statement_timeout = '2s'; SET idle_in_transaction_session_timeout = '10s'; \
    SET default_transaction_isolation = 'read committed'";
/// Announcements that may wait; more are dropped, and the loser finds out at its next access.
const TAKEOVER_QUEUE: usize = 1024;
/// Time between two looks for expired sessions, on average.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Sessions deleted in one transaction.
const SWEEP_BATCH: i64 = 50;
/// Transactions in a row; what is left waits for the next look.
const SWEEP_BATCHES: u32 = 40;
/// Longest time that one of them may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The store.
#[derive(Clone)]
pub struct PostgresStore {
    pool: Pool,
    config: Config,
    tls: Tls,
    /// The schema was seen to be there.
    is_up: Arc<AtomicBool>,
    keys: StateKeys,
    ttl: Duration,
}

/// Why a store cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The URL cannot be read.
    #[error("the URL cannot be read: write postgres://user:password@host:port/database")]
    Url(#[source] deadpool_postgres::tokio_postgres::Error),
    /// The certificate authorities cannot be read: file and reason.
    #[error("the certificate authorities in {0} cannot be used: {1}")]
    Authorities(String, String),
    /// TLS cannot be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// The pool cannot be made.
    #[error("failed to set up the connection pool")]
    Pool(#[source] deadpool_postgres::BuildError),
}

// === impl PostgresStore ===

impl PostgresStore {
    /// A store at `url` (`postgres://user:password@host:port/database`), whose sessions outlive their last use by `ttl`,
    /// within a tenth. TLS is used if the server offers it, always or never with `sslmode=require` or `disable` in the
    /// URL; `authorities` is a PEM file, without which those of the machine are trusted. Connects at the first use and
    /// again after every loss.
    pub fn new(url: &str, ttl: Duration, authorities: Option<&Path>) -> Result<Self, SetupError> {
        let mut config: Config = url.parse().map_err(SetupError::Url)?;
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(10));
        if config.get_application_name().is_none() {
            config.application_name("session-server");
        }
        let tls = Tls::new(authorities)?;
        Ok(Self {
            pool: pool(&config, &tls, DEFAULT_CONNECTIONS)?,
            config,
            tls,
            is_up: Arc::default(),
            keys: StateKeys::default(),
            ttl,
        })
    }

    /// The same with so many connections.
    pub fn with_connections(mut self, connections: usize) -> Result<Self, SetupError> {
        self.pool = pool(&self.config, &self.tls, connections)?;
        Ok(self)
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
        let row = self
            .call("SELECT session_server.owner_v1($1)", &[&session])
            .await?;
        match column::<Option<String>>(&row, 0)? {
            Some(owner) if owner != user => Err(StoreError::Forbidden),
            owner => Ok(owner.is_some()),
        }
    }

    pub(super) async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claim> {
        let nonce = random_id();
        let user = &request.identity.user;
        let row = self
            .call(
                "SELECT * FROM session_server.claim_v1($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                &[
                    &request.session,
                    user,
                    &request.identity.tier,
                    &request.identity.permissions.to_string(),
                    &nonce,
                    &request.instance,
                    &number(request.last),
                    &self.ttl.as_secs_f64(),
                    &request.forget,
                ],
            )
            .await?;
        accepted(&row)?;
        let sealer = self.keys.of(user, request.session);
        let replay = numbered(&row, 4, |seq, entry| entry::reply(&sealer, seq, entry))?;
        Ok(Claim {
            lease: Lease {
                session: request.session.into(),
                user: user.as_str().into(),
                epoch: count(&row, 1)?,
                nonce: nonce.into(),
            },
            found: column(&row, 2)?,
            seq: count(&row, 3)?,
            replay,
        })
    }

    pub(super) async fn write(&self, lease: &Lease, write: &Write<'_>) -> Result<Reply> {
        let Entries {
            ids,
            reply,
            history,
            value,
        } = Entries::new(&self.keys, lease, write)?;
        let (names, item) = value.unzip();
        let row = self
            .call(
                "SELECT * FROM session_server.write_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
                &[
                    &&*lease.session,
                    &&*lease.user,
                    &number(lease.epoch),
                    &&*lease.nonce,
                    &self.ttl.as_secs_f64(),
                    &ids,
                    &number(write.ack),
                    &reply,
                    &history,
                    &names,
                    &item,
                    &(MAX_HISTORY as i64),
                    &(MAX_OUTBOX as i64),
                    &(MAX_IDS as i64),
                    &(MAX_VALUES as i64),
                ],
            )
            .await?;
        accepted(&row)?;
        let seq = count(&row, 1)?;
        match column::<Option<Vec<u8>>>(&row, 2)? {
            Some(kept) => entry::reply(&self.keys.of(&lease.user, &lease.session), seq, kept),
            None => Ok(write.reply_as(seq)),
        }
    }

    pub(super) async fn read(&self, lease: &Lease) -> Result<Snapshot> {
        let row = self
            .call(
                "SELECT * FROM session_server.read_v1($1, $2, $3, $4)",
                &[
                    &&*lease.session,
                    &&*lease.user,
                    &number(lease.epoch),
                    &&*lease.nonce,
                ],
            )
            .await?;
        accepted(&row)?;
        let sealer = self.keys.of(&lease.user, &lease.session);
        let mut snapshot = Snapshot {
            tier: column(&row, 1)?,
            permissions: column::<String>(&row, 2)?.parse().map_err(odd)?,
            history: numbered(&row, 3, |seq, entry| entry::history(&sealer, seq, entry))?,
            ..Snapshot::default()
        };
        for item in column::<Option<Vec<Vec<u8>>>>(&row, 5)?.unwrap_or_default() {
            entry::value(&sealer, item, &mut snapshot)?;
        }
        Ok(snapshot)
    }

    pub(super) async fn touch(&self, lease: &Lease) -> Result<()> {
        let row = self
            .call(
                "SELECT session_server.touch_v1($1, $2, $3, $4, $5)",
                &[
                    &&*lease.session,
                    &&*lease.user,
                    &number(lease.epoch),
                    &&*lease.nonce,
                    &self.ttl.as_secs_f64(),
                ],
            )
            .await?;
        accepted(&row)
    }

    pub(super) fn takeovers(&self, instance: &str, stop: CancellationToken) -> Takeovers {
        let (sender, receiver) = mpsc::channel(TAKEOVER_QUEUE);
        let listening = listen::listen(self.config.clone(), self.tls.clone(), instance.to_owned(), sender);
        tokio::spawn(async move {
            let _ = stop.run_until_cancelled(listening).await;
        });
        receiver
    }

    /// Brings up the schema, and deletes what has expired. Every server tries; one at a time does it.
    pub(super) async fn keep_house(&self) {
        let mut wait = Duration::ZERO;
        loop {
            time::sleep(wait).await;
            match self.sweep().await {
                Ok(0) => {}
                Ok(swept) => tracing::debug!(swept, "deleted expired sessions"),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to delete expired sessions"
                ),
            }
            wait = SWEEP_EVERY.mul_f64(rand::random_range(0.5..1.5));
        }
    }

    /// Deletes expired sessions in small transactions; how many it deleted.
    pub async fn sweep(&self) -> Result<u64> {
        let mut swept = 0;
        for _ in 0..SWEEP_BATCHES {
            let mut client = self.client().await?;
            let batch = async {
                let transaction = client.transaction().await?;
                transaction
                    .batch_execute("SET LOCAL statement_timeout = '29s'")
                    .await?;
                let sql = "SELECT session_server.sweep_v1($1)";
                let row = transaction.query_one(sql, &[&SWEEP_BATCH]).await?;
                transaction.commit().await?;
                row.try_get::<_, i64>(0)
            };
            let Ok(outcome) = time::timeout(SWEEP_TIMEOUT, batch).await else {
                drop(Object::take(client));
                return Err(odd("timed out"));
            };
            let batch = outcome.map_err(|error| self.failed(error))?;
            swept += batch.unsigned_abs();
            if batch < SWEEP_BATCH {
                break;
            }
        }
        Ok(swept)
    }

    /// Calls a function that answers with one row.
    async fn call(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let client = self.client().await?;
        let call = async {
            let statement = client.prepare_cached(sql).await?;
            client.query_one(&statement, parameters).await
        };
        if let Ok(outcome) = time::timeout(ANSWER_TIMEOUT, call).await {
            return outcome.map_err(|error| self.failed(error));
        }
        // Whoever had this connection next would wait behind what we no longer wait for.
        drop(Object::take(client));
        Err(odd("timed out"))
    }

    /// A connection to a database whose schema is there.
    async fn client(&self) -> Result<Object> {
        let mut client = self.pool.get().await.map_err(odd)?;
        if !self.is_up.load(Ordering::Relaxed) {
            let bringing_up = schema::bring_up(&mut client);
            match time::timeout(SWEEP_TIMEOUT, bringing_up).await {
                Ok(outcome) => outcome.map_err(|error| self.failed(error))?,
                Err(_) => return Err(odd("timed out")),
            }
            self.is_up.store(true, Ordering::Relaxed);
        }
        Ok(client)
    }

    fn failed(&self, error: deadpool_postgres::tokio_postgres::Error) -> StoreError {
        // Somebody gave us an empty database: have it looked at again.
        let lost = [
            SqlState::UNDEFINED_FUNCTION,
            SqlState::UNDEFINED_TABLE,
            SqlState::INVALID_SCHEMA_NAME,
        ];
        if error.code().is_some_and(|code| lost.contains(code)) {
            self.is_up.store(false, Ordering::Relaxed);
        }
        odd(error)
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("PostgresStore")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

fn pool(config: &Config, tls: &Tls, connections: usize) -> Result<Pool, SetupError> {
    let manager = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    Pool::builder(Manager::from_config(config.clone(), tls.clone(), manager))
        .max_size(connections.max(1))
        .timeouts(Timeouts {
            wait: Some(CONNECT_TIMEOUT),
            create: Some(CONNECT_TIMEOUT),
            recycle: Some(CONNECT_TIMEOUT),
        })
        .runtime(Runtime::Tokio1)
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move { client.batch_execute(SETTINGS).await.map_err(HookError::Backend) })
        }))
        .build()
        .map_err(SetupError::Pool)
}

/// The first column of every answer says whether it is one.
fn accepted(row: &Row) -> Result<()> {
    match column::<&str>(row, 0)? {
        "ok" | "repeat" => Ok(()),
        "gone" => Err(StoreError::Gone),
        "stale" => Err(StoreError::Stale),
        "forbidden" => Err(StoreError::Forbidden),
        "full" => Err(StoreError::Full),
        _ => Err(odd("an unknown answer of a function")),
    }
}

fn column<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(odd)
}

fn count(row: &Row, index: usize) -> Result<u64> {
    column::<i64>(row, index)?.try_into().map_err(odd)
}

/// Entries with their numbers, from two columns side by side; none is null.
fn numbered<T>(row: &Row, index: usize, read: impl Fn(u64, Vec<u8>) -> Result<T>) -> Result<Vec<T>> {
    let seqs: Vec<i64> = column::<Option<_>>(row, index)?.unwrap_or_default();
    let entries: Vec<Vec<u8>> = column::<Option<_>>(row, index + 1)?.unwrap_or_default();
    let both = seqs.into_iter().zip(entries);
    both.map(|(seq, entry)| read(seq.unsigned_abs(), entry)).collect()
}

/// A number as the database knows them; one that it does not know is larger than all of ours.
fn number(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
