//! The sessions of this pod, and the counts that are told of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::peer::Peer;

/// Every session that is open.
#[derive(Debug, Default)]
pub(super) struct Registry {
    open: Mutex<HashMap<u64, Arc<Peer>>>,
    /// Who has an identity, by it. Polling sessions stay for a while after their end, so that a late request of theirs is
    /// known.
    known: Mutex<HashMap<Box<str>, Arc<Peer>>>,
    last: AtomicU64,
    /// Upgrades, and polling sessions that began.
    accepted: AtomicU64,
    refused: AtomicU64,
    closed: Mutex<BTreeMap<u16, u64>>,
}

/// How many are open, and the oldest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) open: u64,
    pub(super) dormant: u64,
    pub(super) oldest_ms: Option<u64>,
}

// === impl Registry ===

impl Registry {
    /// A number for a session.
    pub(super) fn next_id(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds a session. If it goes on with what was a polling session, that one is taken out and given back.
    pub(super) fn add(&self, peer: &Arc<Peer>) -> Option<Arc<Peer>> {
        let known = |identity: &str| self.known().insert(identity.into(), Arc::clone(peer));
        let before = peer.identity.as_deref().and_then(known);
        let before = before.filter(|before| before.as_polling().is_some() && !before.is_gone());
        if let Some(before) = &before {
            before.leave();
        }
        let mut open = self.lock();
        if let Some(before) = &before {
            open.remove(&before.id);
        } else if !peer.forwarded {
            self.accepted.fetch_add(1, Ordering::Relaxed);
        }
        open.insert(peer.id, Arc::clone(peer));
        before
    }

    /// The session with this identity.
    pub(super) fn find(&self, identity: &str) -> Option<Arc<Peer>> {
        self.known().get(identity).cloned()
    }

    /// Forgets polling sessions that are old, and gives back those of them that are not over.
    pub(super) fn forget_polling(&self, is_old: impl Fn(&Peer) -> bool) -> Vec<Arc<Peer>> {
        let mut old = Vec::new();
        self.known().retain(|_, peer| {
            let keep = peer.as_polling().is_none() || !is_old(peer);
            if !keep && !peer.is_gone() {
                old.push(Arc::clone(peer));
            }
            keep
        });
        old
    }

    /// Takes a session out; false if it was not there.
    pub(super) fn remove(&self, peer: &Peer, code: Option<u16>) -> bool {
        peer.leave();
        let there = self.lock().remove(&peer.id).is_some();
        if peer.as_polling().is_none()
            && let Some(identity) = peer.identity.as_deref()
        {
            let mut known = self.known();
            if known.get(identity).is_some_and(|known| known.id == peer.id) {
                known.remove(identity);
            }
        }
        let is_socket = peer.as_polling().is_none() && !peer.forwarded;
        if let Some(code) = code.filter(|_| there && is_socket) {
            let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            *closed.entry(code).or_default() += 1;
        }
        there
    }

    /// An upgrade that could not be served.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn closed(&self) -> BTreeMap<String, u64> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed
            .iter()
            .map(|(code, count)| (code.to_string(), *count))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn peers(&self) -> Vec<Arc<Peer>> {
        self.lock().values().cloned().collect()
    }

    /// Looks at every session, under the lock: to be short.
    pub(super) fn each(&self, look: impl FnMut(&Arc<Peer>)) {
        self.lock().values().for_each(look);
    }

    /// What is reported; `ping_interval_ms` where dormant ones can be told.
    pub(super) fn count(&self, now_ms: u64, ping_interval_ms: Option<u64>) -> Count {
        let mut count = Count::default();
        self.each(|peer| {
            count.open += 1;
            let age = now_ms.saturating_sub(peer.opened_ms);
            count.oldest_ms = count.oldest_ms.max(Some(age));
            if ping_interval_ms.is_some_and(|interval| peer.is_dormant(now_ms, interval)) {
                count.dormant += 1;
            }
        });
        count
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Peer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Peer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
