//! What a server needs to know before it starts.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::{
    fault::Faults,
    store::{MemoryStore, Store},
    token::{Clock, SessionKey},
};

/// A server's configuration. [`Config::local`] has what tests need; `cli` reads the rest from the environment.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The drain port; none where no token was given.
    pub drain: Option<DrainPort>,
    /// Hashes the identities that the drain port tells; without it, it tells none.
    pub identity_key: Option<Secret>,
    /// Where sessions live.
    pub store: Store,
    /// Signs and checks session tokens.
    pub session_key: SessionKey,
    /// What the expiry of tokens is checked against.
    pub clock: Clock,
    /// The revision, as shown in `welcome` and on the drain port.
    pub revision: String,
    /// The pod's name, as shown in `welcome`.
    pub pod: String,
    /// Whether clients that ask for it may open the new socket before they leave the old one.
    pub make_before_break: bool,
    /// Switched-on faults.
    pub faults: Faults,
    /// Bounds and timeouts.
    pub limits: Limits,
}

/// The port on which the operator gives drain orders.
#[derive(Clone, Debug)]
pub struct DrainPort {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What callers must bear.
    pub token: Secret,
}

/// A string whose `Debug` shows nothing.
#[derive(Clone)]
pub struct Secret(String);

/// Bounds and timeouts. Every queue has a bound and every wait an end.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open sockets; further upgrades get 503.
    pub max_sockets: usize,
    /// Bytes in one message from a client.
    pub max_message: usize,
    /// Longest wait for a request's headers.
    pub header_timeout: Duration,
    /// Longest time a reader may take one message; then it is cut.
    pub write_timeout: Duration,
    /// Longest wait for the client's half of the close handshake.
    pub close_timeout: Duration,
    /// Time between pings on a quiet socket.
    pub ping_every: Duration,
    /// A socket from which nothing came for so long, not even a pong, is given up.
    pub idle_timeout: Duration,
    /// How long the process stays after it was told to end.
    pub shutdown_grace: Duration,
}

// === impl Config ===

impl Config {
    /// A server on free ports of the loopback interface, with sessions in memory and no drain port.
    pub fn local(session_key: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            drain: None,
            identity_key: None,
            store: Store::Memory(MemoryStore::new(Duration::from_hours(1))),
            session_key: SessionKey::new(session_key),
            clock: Clock::System,
            revision: "local".to_owned(),
            pod: "local".to_owned(),
            make_before_break: true,
            faults: Faults::default(),
            limits: Limits::default(),
        }
    }

    /// The same with a drain port on a free port.
    #[must_use]
    pub fn with_drain(mut self, token: &str) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        self.drain = Some(DrainPort {
            listen,
            token: Secret::new(token),
        });
        self
    }

    /// The same with events, whose identities are hashed by this key.
    #[must_use]
    pub fn with_identity_key(mut self, key: &str) -> Self {
        self.identity_key = Some(Secret::new(key));
        self
    }
}

// === impl Secret ===

impl Secret {
    /// Keeps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sockets: 20_000,
            max_message: 16 * 1024,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(3),
            ping_every: Duration::from_secs(25),
            idle_timeout: Duration::from_secs(75),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
