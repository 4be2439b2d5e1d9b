//! Sessions in this process's memory. Clones share the sessions, so that tests can run several servers on one store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Claim, ClaimRequest, Lease, Reply, Result, Snapshot, StoreError, Takeover, Takeovers, Write, random_id,
    state::SessionState,
};

/// Announcements that may wait per server; more are dropped, and the loser finds out at its next access.
const TAKEOVER_QUEUE: usize = 1024;
/// Claims between two sweeps for expired sessions.
const SWEEP_EVERY: u32 = 256;

/// The store.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<String, Kept>,
    listeners: HashMap<String, mpsc::Sender<Takeover>>,
    claims: u32,
}

#[derive(Debug)]
struct Kept {
    state: SessionState,
    expires: Instant,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store whose sessions outlive their last use by `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self {
            inner: Arc::default(),
            ttl,
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn may_claim(&self, session: &str, user: &str) -> Result<bool> {
        match self.lock().sessions.get(session) {
            Some(kept) if kept.expires <= Instant::now() => Ok(false),
            Some(kept) if kept.state.user != user => Err(StoreError::Forbidden),
            other => Ok(other.is_some()),
        }
    }

    pub(super) fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claim> {
        let now = Instant::now();
        let mut inner = self.lock();
        let Inner {
            sessions,
            listeners,
            claims,
        } = &mut *inner;
        *claims = claims.wrapping_add(1);
        if *claims % SWEEP_EVERY == 0 {
            sessions.retain(|_, kept| kept.expires > now);
        } else if sessions
            .get(request.session)
            .is_some_and(|kept| kept.expires <= now)
        {
            sessions.remove(request.session);
        }

        let existed = sessions.contains_key(request.session);
        let kept = sessions
            .entry(request.session.to_owned())
            .or_insert_with(|| Kept {
                state: SessionState::new(&request.identity.user),
                expires: now,
            });
        let state = &mut kept.state;
        if state.user != request.identity.user {
            return Err(StoreError::Forbidden);
        }
        kept.expires = now + self.ttl;
        if request.forget {
            state.wipe();
        }
        state.epoch += 1;
        state.nonce = random_id();
        state.tier.clone_from(&request.identity.tier);
        state.permissions = request.identity.permissions;
        let loser = std::mem::replace(&mut state.instance, request.instance.to_owned());
        if let Some(listener) = listeners.get(&loser) {
            let taken = Takeover::Taken {
                session: request.session.to_owned(),
                epoch: state.epoch,
            };
            let _ = listener.try_send(taken);
        }
        Ok(Claim {
            lease: Lease {
                session: request.session.into(),
                user: request.identity.user.as_str().into(),
                epoch: state.epoch,
                nonce: state.nonce.as_str().into(),
            },
            found: existed && !request.forget,
            seq: state.seq(),
            replay: state.replay(request.last),
        })
    }

    pub(super) fn write(&self, lease: &Lease, write: &Write<'_>) -> Result<Reply> {
        self.owned(lease, |state| state.apply(write))
    }

    pub(super) fn read(&self, lease: &Lease) -> Result<Snapshot> {
        self.owned(lease, |state| Ok(state.snapshot()))
    }

    pub(super) fn touch(&self, lease: &Lease) -> Result<()> {
        self.owned(lease, |_| Ok(()))
    }

    pub(super) fn takeovers(&self, instance: &str) -> Takeovers {
        let (sender, receiver) = mpsc::channel(TAKEOVER_QUEUE);
        let mut inner = self.lock();
        inner.listeners.retain(|_, listener| !listener.is_closed());
        inner.listeners.insert(instance.to_owned(), sender);
        receiver
    }

    /// Runs `act` on the session if `lease` still owns it.
    fn owned<T>(&self, lease: &Lease, act: impl FnOnce(&mut SessionState) -> Result<T>) -> Result<T> {
        let mut inner = self.lock();
        let now = Instant::now();
        let kept = inner.sessions.get_mut(&*lease.session);
        let kept = kept.filter(|kept| kept.expires > now).ok_or(StoreError::Gone)?;
        if kept.state.user != *lease.user {
            return Err(StoreError::Forbidden);
        }
        if kept.state.epoch != lease.epoch || kept.state.nonce != *lease.nonce {
            return Err(StoreError::Stale);
        }
        kept.expires = now + self.ttl;
        act(&mut kept.state)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics while it holds the lock; if it did, the sessions are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
