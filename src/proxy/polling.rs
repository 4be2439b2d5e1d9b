//! Sessions over polling requests: they are there while they are seen, and are told of their end at their next request,
//! or at once where one is waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::sync::Notify;

use super::Proxy;
use super::peer::{Goodbye, Peer};
use super::relay::{By, Ending};

/// How long a session is there without a request, milliseconds: the drain protocol's own figure. Afterwards so long it is
/// remembered that it was drained.
const SEEN_WITHIN_MS: u64 = 60_000;

/// What a polling session is.
#[derive(Debug, Default)]
pub(super) struct Polling {
    state: Mutex<State>,
    closing: Notify,
}

#[derive(Debug, Default)]
struct State {
    goodbye: Option<Goodbye>,
    /// Requests that are being answered.
    visits: u32,
    /// What a browser needs to be allowed to read an answer of ours: as in the application's last one.
    allowing: HeaderMap,
}

/// A request of a session that is being answered.
#[derive(Debug)]
pub(super) struct Visit {
    proxy: Arc<Proxy>,
    peer: Arc<Peer>,
}

// === impl Polling ===

impl Polling {
    /// It is to end: whoever waits is told now, the others when they come.
    pub(super) fn close(&self, goodbye: Goodbye) {
        self.lock().goodbye.get_or_insert(goodbye);
        self.closing.notify_waiters();
    }

    /// How it is to end, if it is.
    pub(super) fn goodbye(&self) -> Option<Goodbye> {
        self.lock().goodbye.clone()
    }

    /// Waits until it is to end.
    pub(super) async fn closed(&self) -> Goodbye {
        loop {
            let mut notified = std::pin::pin!(self.closing.notified());
            notified.as_mut().enable();
            if let Some(goodbye) = self.goodbye() {
                return goodbye;
            }
            notified.await;
        }
    }

    /// Keeps what an answer of ours needs.
    pub(super) fn remember(&self, answer: &HeaderMap) {
        let allowing = answer
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("access-control-"))
            .map(|(name, value)| (name.clone(), value.clone()));
        self.lock().allowing = allowing.collect();
    }

    pub(super) fn allowing(&self) -> HeaderMap {
        self.lock().allowing.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Visit ===

impl Visit {
    /// A request of the session with this identity. None where it is a socket's by now.
    pub(super) fn of(proxy: &Arc<Proxy>, identity: &str) -> Option<Self> {
        let peer = match proxy.registry.find(identity) {
            Some(peer) if peer.as_polling().is_none() => return None,
            Some(peer) if !peer.is_gone() || peer.told.get().is_some() => peer,
            _ => {
                let mut peer =
                    Peer::polling(proxy.registry.next_id(), proxy.clock.now_ms(), Polling::default());
                peer.identity = Some(identity.into());
                proxy.session_began(peer)
            }
        };
        let visit = Self {
            proxy: Arc::clone(proxy),
            peer,
        };
        visit.count(1);
        Some(visit)
    }

    pub(super) fn polling(&self) -> Option<&Polling> {
        self.peer.as_polling()
    }

    /// Whether it has been told of its end before.
    pub(super) fn is_over(&self) -> bool {
        self.peer.is_gone()
    }

    /// The client has been told.
    pub(super) fn told(&self, goodbye: &Goodbye) {
        let by = By::Proxy(goodbye.why, goodbye.code);
        self.proxy.session_over(&self.peer, Ending { by, clean: true });
    }

    /// The application does not know it, or no longer.
    pub(super) fn unknown(&self) {
        let by = By::Application(1000);
        self.proxy.session_over(&self.peer, Ending { by, clean: true });
    }

    fn count(&self, change: i32) {
        let now_ms = self.proxy.clock.now_ms();
        self.peer.heard(now_ms);
        self.peer.data(now_ms, 0);
        if let Some(polling) = self.polling() {
            let mut state = polling.lock();
            state.visits = state.visits.saturating_add_signed(change);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.count(-1);
    }
}

// === impl Proxy ===

impl Proxy {
    /// Ends polling sessions that have not been seen for too long, and forgets those that are over.
    pub(super) fn sweep_polling(&self, now_ms: u64) {
        let is_old = |peer: &Peer| {
            let visits = peer.as_polling().map_or(0, |polling| polling.lock().visits);
            visits == 0 && now_ms.saturating_sub(peer.heard_ms()) >= SEEN_WITHIN_MS
        };
        for peer in self.registry.forget_polling(is_old) {
            let told = peer.as_polling().and_then(Polling::goodbye);
            let by = told.map_or(By::Client(1000), |goodbye| By::Proxy(goodbye.why, goodbye.code));
            // Whoever was to be told and did not come back is gone by its own will.
            self.session_over(&peer, Ending { by, clean: true });
        }
    }
}
