//! The WebSocket-aware relay: today a sidecar in front of an application that is left as it is.
//!
//! `front` speaks HTTP with clients and hands upgraded sockets to `relay`, which moves frames. `registry` knows every
//! session, `drain` lets them go in their turn, `api` is the drain port, `server` holds listeners and the end together.
//! Sessions are told what to do through a mailbox ([`peer`]), so that the relay of frames knows nothing of orders.

mod api;
mod clock;
mod drain;
mod events;
mod fields;
pub mod frame;
mod front;
mod metrics;
pub mod peer;
mod polling;
mod registry;
pub mod relay;
mod server;
pub mod settings;
mod sweep;
mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::registry::Registry as MetricRegistry;

pub use self::clock::Clock;
pub use self::drain::Tally;
use self::drain::{Drain, Went};
use self::events::Events;
pub use self::fields::FieldError;
use self::metrics::Metrics;
use self::peer::{Peer, Why};
use self::registry::Registry;
use self::relay::{By, Ending};
pub use self::server::{Config, Exit, Sidecar, StartError};
pub use self::settings::Settings;
pub use self::tls::{DrainTls, TlsError};
use crate::api::spec::CloseCodes;
use crate::drain::identity::IdentityKey;
use crate::drain::protocol::ReleasedHow;

/// What all parts of a sidecar share.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    /// Where the application is.
    application: SocketAddr,
    /// Random per process: tells a restarted one from the one before.
    instance: String,
    revision: Option<String>,
    identity_key: Option<IdentityKey>,
    /// What identities are kept under where there is no key of the rollout's.
    own_key: IdentityKey,
    clock: Clock,
    registry: Registry,
    /// Sessions that are over while their sockets still end.
    leaving: Mutex<Vec<Arc<Peer>>>,
    drain: Drain,
    events: Events,
    metrics: Metrics,
    exposed: MetricRegistry,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy for an application at this address.
    pub fn new(settings: Settings, application: SocketAddr) -> Self {
        let mut exposed = MetricRegistry::with_prefix("wsroll_sidecar");
        Self {
            settings,
            application,
            instance: hex::encode(rand::random::<[u8; 8]>()),
            revision: None,
            identity_key: None,
            own_key: IdentityKey::new(&hex::encode(rand::random::<[u8; 16]>())),
            clock: Clock::start(),
            registry: Registry::default(),
            leaving: Mutex::default(),
            drain: Drain::default(),
            events: Events::default(),
            metrics: Metrics::register(&mut exposed),
            exposed,
        }
    }

    /// A session begins; it is counted from now on.
    fn session_began(&self, peer: Peer) -> Arc<Peer> {
        let peer = Arc::new(peer);
        if self.registry.add(&peer).is_some() {
            // The same session, now over a socket: nobody came and nobody went.
            self.drain.opened(&peer);
            return peer;
        }
        self.metrics.sessions.inc();
        if peer.forwarded {
            self.metrics.forwarded.inc();
        } else {
            self.metrics.accepted.inc();
            if let Some(identity) = peer.identity.as_deref() {
                self.events.arrived(identity, self.clock.now_ms());
            }
        }
        self.drain.opened(&peer);
        peer
    }

    /// A session is over.
    fn session_over(&self, peer: &Arc<Peer>, ending: Ending) {
        if !self.registry.remove(peer, Some(ending.code())) {
            return;
        }
        self.leaving().push(Arc::clone(peer));
        let now_ms = self.clock.now_ms();
        let (how, went) = judge(ending, peer.told.get().is_some());
        let tally = peer.told.get();
        if let Some(tally) = tally {
            tally.closed(went);
        }
        self.metrics.sessions.dec();
        if peer.forwarded {
            // The pod that has it tells of it.
            self.metrics.forwarded.dec();
            return;
        }
        self.metrics.ended(ending, now_ms.saturating_sub(peer.opened_ms));
        if let Some(identity) = peer.identity.as_deref() {
            let order = tally.map(|tally| tally.id.as_str());
            self.events.released(identity, now_ms, how, order);
        }
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the pod takes new connections. One that drains does: the route decides who comes.
    fn is_accepting(&self) -> bool {
        let most = i64::from(self.settings.limits.connections);
        self.metrics.connections.get() < most
    }

    /// The close codes of a session's subprotocol.
    fn codes(&self, peer: &Peer) -> Option<&CloseCodes> {
        self.settings.close_codes.get(usize::from(peer.codes?))
    }

    /// Whether a session's client has been silent for two ping intervals. Unknown is no.
    fn is_dormant(&self, peer: &Peer, now_ms: u64) -> bool {
        let interval = self.settings.ping_interval.map(clock::millis);
        interval.is_some_and(|interval| peer.is_dormant(now_ms, interval))
    }
}

/// How a session went, for the account of sessions and for the order's counts.
fn judge(ending: Ending, told: bool) -> (ReleasedHow, Went) {
    match ending.by {
        By::Proxy(Why::Dormant, _) => (ReleasedHow::Dormant, Went::Dormant),
        By::Proxy(Why::Forced, _) => (ReleasedHow::Forced, Went::Forced),
        By::Proxy(Why::Turn | Why::Shutdown, _) if ending.clean => (ReleasedHow::Moved, Went::Clean),
        By::Proxy(Why::Turn | Why::Shutdown, _) => (ReleasedHow::Moved, Went::Forced),
        By::ApplicationDied => (ReleasedHow::Cut, Went::Forced),
        // Whoever was told and went has followed the order.
        By::Client(_) | By::ClientCut | By::Application(_) if told => (ReleasedHow::Moved, Went::Clean),
        By::ClientCut => (ReleasedHow::Cut, Went::Clean),
        By::Client(_) | By::Application(_) | By::Proxy(Why::Idle, _) => (ReleasedHow::Left, Went::Clean),
    }
}
