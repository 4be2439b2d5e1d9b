//! Where sessions live: apart from the pod, so that they survive it.
//!
//! A session has one owner at a time. Every connect *claims* the session, which raises its epoch by one; every later
//! access names the user and the claim it was made under and is refused as [`StoreError::Stale`] once somebody else has claimed the
//! session. So an old pod that is slow, partitioned or merely late can neither write nor read over the new owner.
//! The loser is told at once through [`Takeovers`], so that an idle socket does not linger either.

mod entry;
mod memory;
mod postgres;
mod redis;
mod seal;
mod state;

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

pub use self::{
    memory::MemoryStore,
    postgres::{PostgresStore, SetupError},
    redis::RedisStore,
    seal::{KeyError, SealError, StateKeys},
};
use crate::token::{Identity, Permissions};

/// Entries of history kept per session, the newest.
pub const MAX_HISTORY: usize = 50;
/// Numbered replies kept for replay, beyond those the client acknowledged.
pub const MAX_OUTBOX: usize = 256;
/// Message ids remembered so that a repeat is not applied again.
pub const MAX_IDS: usize = 512;
/// Values in context, tools and preferences together.
pub const MAX_VALUES: usize = 128;

/// Any store. An enum and not a trait object: there are three, and all are here.
#[derive(Clone, Debug)]
pub enum Store {
    /// Sessions die with the process: resumes on another pod lose their state.
    Memory(MemoryStore),
    /// Sessions live in Redis.
    Redis(RedisStore),
    /// Sessions live in PostgreSQL.
    Postgres(PostgresStore),
}

/// A claim on a session: the right to read and write it until somebody else claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The session.
    pub session: Arc<str>,
    /// Whose it is: no access names a session without its user.
    pub user: Arc<str>,
    /// Rises by one with every claim.
    pub epoch: u64,
    /// Random per claim: tells two first claims apart where the store lost the session in between.
    pub nonce: Arc<str>,
}

/// What somebody asks for who connects.
#[derive(Clone, Debug)]
pub struct ClaimRequest<'a> {
    /// The session to take over, or the id for a new one.
    pub session: &'a str,
    /// Who connects.
    pub identity: &'a Identity,
    /// Random per server process; takeovers are announced to the previous owner's.
    pub instance: &'a str,
    /// The last numbered message the client has.
    pub last: u64,
    /// Fault switch: behave as if there were no state.
    pub forget: bool,
}

/// A session taken.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The right to use it.
    pub lease: Lease,
    /// Whether there was state to go on from.
    pub found: bool,
    /// The number of the newest reply.
    pub seq: u64,
    /// Replies after the client's last, oldest first.
    pub replay: Vec<Reply>,
}

/// A numbered reply to a client's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// Its number; the session's replies count up from 1 without gaps.
    pub seq: u64,
    /// The id of the message that it answers.
    pub id: String,
    /// What it says.
    pub text: String,
}

/// One message to apply.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// Chosen by the client; applied once.
    pub id: &'a str,
    /// Replies up to here have reached the client and need not be kept.
    pub ack: u64,
    /// The reply's text.
    pub reply: &'a str,
    /// What changes.
    pub change: Change<'a>,
}

/// What a message changes in the session.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// Adds to the history.
    Say(&'a str),
    /// Sets one value.
    Set {
        /// Where.
        section: Section,
        /// Under which name.
        key: &'a str,
        /// To what.
        value: &'a Value,
    },
}

/// The parts of a session's state that clients may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// What the agent knows.
    Context,
    /// What its tools are doing.
    Tools,
    /// What the user prefers.
    Preferences,
}

/// A session's whole state, as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// What was said, oldest first, at most [`MAX_HISTORY`].
    pub history: Vec<HistoryEntry>,
    /// The agent's context.
    pub context: serde_json::Map<String, Value>,
    /// Tool states.
    pub tools: serde_json::Map<String, Value>,
    /// The user's preferences.
    pub preferences: serde_json::Map<String, Value>,
    /// The user's tier, as the token of the last connect had it.
    pub tier: String,
    /// What that token permitted.
    pub permissions: Permissions,
}

/// One thing that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct HistoryEntry {
    /// The number of its reply.
    pub seq: u64,
    /// The client's id for it.
    pub id: String,
    /// What was said.
    pub text: String,
}

/// A session that somebody else took from this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// This one, under this epoch.
    Taken {
        /// The session.
        session: String,
        /// Its new epoch.
        epoch: u64,
    },
    /// Announcements may have been missed: look at every session once.
    Unsure,
}

/// Takeovers as they happen.
pub type Takeovers = mpsc::Receiver<Takeover>;

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has claimed the session, or it was lost and made anew.
    #[error("the session was taken over by another connection")]
    Stale,
    /// The session's state is gone from the store.
    #[error("the session's state is gone")]
    Gone,
    /// The session is another user's.
    #[error("the session belongs to another user")]
    Forbidden,
    /// The session holds as many values as it may.
    #[error("the session holds {MAX_VALUES} values already")]
    Full,
    /// What the store holds cannot be opened.
    #[error("the session's state cannot be read")]
    Unreadable(#[source] SealError),
    /// The store did not answer in time, or not as it should.
    #[error("failed to reach the store")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What stores return.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

// === impl Store ===

impl Store {
    /// Whether `session` could be claimed by `user`: true if it is theirs, false if there is none,
    /// [`StoreError::Forbidden`] if it is another's. Changes nothing; asked before the upgrade, so that a refusal can
    /// be an HTTP answer and a connect that never finishes takes nothing from anybody.
    pub async fn may_claim(&self, session: &str, user: &str) -> Result<bool> {
        match self {
            Self::Memory(store) => store.may_claim(session, user),
            Self::Redis(store) => store.may_claim(session, user).await,
            Self::Postgres(store) => store.may_claim(session, user).await,
        }
    }

    /// Takes a session, making it if there is none. One round trip.
    pub async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claim> {
        match self {
            Self::Memory(store) => store.claim(request),
            Self::Redis(store) => store.claim(request).await,
            Self::Postgres(store) => store.claim(request).await,
        }
    }

    /// Applies one message once, and gives its reply: for a repeat, the reply of the first time. One round trip.
    pub async fn write(&self, lease: &Lease, write: &Write<'_>) -> Result<Reply> {
        match self {
            Self::Memory(store) => store.write(lease, write),
            Self::Redis(store) => store.write(lease, write).await,
            Self::Postgres(store) => store.write(lease, write).await,
        }
    }

    /// Reads the whole state.
    pub async fn read(&self, lease: &Lease) -> Result<Snapshot> {
        match self {
            Self::Memory(store) => store.read(lease),
            Self::Redis(store) => store.read(lease).await,
            Self::Postgres(store) => store.read(lease).await,
        }
    }

    /// Keeps an idle session from expiring, and tells whether it is still ours.
    pub async fn touch(&self, lease: &Lease) -> Result<()> {
        match self {
            Self::Memory(store) => store.touch(lease),
            Self::Redis(store) => store.touch(lease).await,
            Self::Postgres(store) => store.touch(lease).await,
        }
    }

    /// Starts listening for sessions that others take from `instance`.
    pub fn takeovers(&self, instance: &str, stop: tokio_util::sync::CancellationToken) -> Takeovers {
        match self {
            Self::Memory(store) => store.takeovers(instance),
            Self::Redis(store) => store.takeovers(instance, stop),
            Self::Postgres(store) => store.takeovers(instance, stop),
        }
    }

    /// How long a session outlives its last use.
    pub fn ttl(&self) -> Duration {
        match self {
            Self::Memory(store) => store.ttl(),
            Self::Redis(store) => store.ttl(),
            Self::Postgres(store) => store.ttl(),
        }
    }

    /// Deletes what has expired, now and then, for as long as it is polled. PostgreSQL asks for it; Redis does it by
    /// itself, and memory as sessions come.
    pub async fn keep_house(&self) {
        match self {
            Self::Memory(_) | Self::Redis(_) => {}
            Self::Postgres(store) => store.keep_house().await,
        }
    }

    /// The name of its kind, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
            Self::Postgres(_) => "postgres",
        }
    }
}

// === impl Section ===

impl Section {
    /// Its name on the wire and in stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Tools => "tools",
            Self::Preferences => "preferences",
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The map of one section.
    pub fn section_mut(&mut self, section: Section) -> &mut serde_json::Map<String, Value> {
        match section {
            Section::Context => &mut self.context,
            Section::Tools => &mut self.tools,
            Section::Preferences => &mut self.preferences,
        }
    }
}

/// A fresh random nonce, session id or instance name: 128 bits in hex.
pub(crate) fn random_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
