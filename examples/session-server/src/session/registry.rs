//! The open sockets, and what became of those that closed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::peer::{Goodbye, Peer};
use crate::{drain::Events, store::Takeover};

/// The open sockets of this process.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    next_id: AtomicU64,
    /// What has happened since the process started.
    pub(crate) totals: Totals,
}

#[derive(Debug, Default)]
struct Inner {
    peers: HashMap<u64, Arc<Peer>>,
    by_session: HashMap<Arc<str>, Vec<u64>>,
    closed: BTreeMap<u16, u64>,
}

/// Counters since the process started.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Upgrades.
    pub(crate) accepted: AtomicU64,
    /// Sessions resumed with their state.
    pub(crate) resumed: AtomicU64,
    /// Resumes that were refused or failed.
    pub(crate) resume_failed: AtomicU64,
    /// Resumes that found no state.
    pub(crate) state_lost: AtomicU64,
    /// Messages from clients.
    pub(crate) messages: AtomicU64,
    /// Sockets cut because their reader was too slow.
    pub(crate) slow_readers: AtomicU64,
    /// Sockets given up because nothing came any more.
    pub(crate) idle: AtomicU64,
    /// Sessions that another connection took.
    pub(crate) superseded: AtomicU64,
    /// Store accesses that failed.
    pub(crate) store_errors: AtomicU64,
    /// Upgrades refused for want of room.
    pub(crate) refused_full: AtomicU64,
    /// Upgrades answered with 503, for whatever reason.
    pub(crate) refused: AtomicU64,
}

/// How a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The close code the client saw or sent; 1006 where the socket was cut.
    pub(crate) code: u16,
    /// Whether both halves of the close handshake were seen.
    pub(crate) clean: bool,
    /// Whether a deadline's end closed it.
    pub(crate) forced: bool,
    /// Whether the client ended it, or took the session elsewhere.
    pub(crate) by_client: bool,
}

/// Takes the socket out of the registry when dropped, even if its task was killed.
#[derive(Debug)]
pub(crate) struct Registration<'a> {
    registry: &'a Registry,
    events: &'a Events,
    /// The socket.
    pub(crate) peer: Arc<Peer>,
    /// How it ended; a cut until set.
    pub(crate) ending: Ending,
}

// === impl Registry ===

impl Registry {
    /// Adds a socket. `mute` is asked with the number of open sockets, this one included.
    pub(crate) fn open<'a>(
        &'a self,
        events: &'a Events,
        session: &str,
        takes_notices: bool,
        overlaps: bool,
        mute: impl FnOnce(usize) -> bool,
    ) -> Registration<'a> {
        bump(&self.totals.accepted);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let session: Arc<str> = session.into();
        let mut inner = self.lock();
        let mute = mute(inner.peers.len() + 1);
        let peer = Arc::new(Peer::new(id, Arc::clone(&session), takes_notices, overlaps, mute));
        inner.peers.insert(id, Arc::clone(&peer));
        inner.by_session.entry(session).or_default().push(id);
        Registration {
            registry: self,
            events,
            peer,
            ending: Ending::CUT,
        }
    }

    /// How many sockets are open.
    pub(crate) fn len(&self) -> usize {
        self.lock().peers.len()
    }

    /// All open sockets.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.lock().peers.values().cloned().collect()
    }

    /// How long the oldest socket has been open.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let inner = self.lock();
        inner
            .peers
            .values()
            .map(|peer| peer.opened)
            .min()
            .map(|opened| opened.elapsed())
    }

    /// Closed sockets by code.
    pub(crate) fn closed(&self) -> BTreeMap<u16, u64> {
        self.lock().closed.clone()
    }

    /// Says goodbye to all.
    pub(crate) fn close_all(&self, goodbye: &Goodbye) {
        for peer in self.peers() {
            peer.mailbox.post_goodbye(goodbye.clone());
        }
    }

    /// Tells sockets that somebody else took their session.
    pub(crate) fn taken(&self, takeover: &Takeover) {
        match takeover {
            Takeover::Unsure => self.peers().iter().for_each(|peer| peer.mailbox.post_check()),
            Takeover::Taken { session, epoch } => {
                let inner = self.lock();
                let losers = inner.by_session.get(session.as_str()).into_iter().flatten();
                for peer in losers.filter_map(|id| inner.peers.get(id)) {
                    if peer.lease.get().is_some_and(|lease| lease.epoch < *epoch) {
                        peer.mailbox.post_goodbye(Goodbye::Superseded);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Registration ===

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.peer.set_closed();
        if let Some(tally) = self.peer.told.get() {
            tally.closed(self.ending);
        }
        self.events.released(&self.peer, self.ending);
        let mut inner = self.registry.lock();
        inner.peers.remove(&self.peer.id);
        if let Some(ids) = inner.by_session.get_mut(&self.peer.session) {
            ids.retain(|id| *id != self.peer.id);
            if ids.is_empty() {
                inner.by_session.remove(&self.peer.session);
            }
        }
        *inner.closed.entry(self.ending.code).or_default() += 1;
    }
}

// === impl Ending ===

impl Ending {
    /// Ended without a close frame.
    pub(crate) const CUT: Self = Self {
        code: 1006,
        clean: false,
        forced: false,
        by_client: true,
    };
}

/// Counts one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
