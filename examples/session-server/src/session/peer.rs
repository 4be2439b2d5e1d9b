//! What the rest of the server knows about one open socket, and how it speaks to it.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    drain::{Notice, Tally},
    store::Lease,
};

/// An open socket.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Unique in this process.
    pub(crate) id: u64,
    /// Its session.
    pub(crate) session: Arc<str>,
    /// The client reads `wsroll.notice`.
    pub(crate) takes_notices: bool,
    /// The client opens its new socket before it lets go of this one.
    pub(crate) overlaps: bool,
    /// A fault: nothing is said on it.
    pub(crate) mute: bool,
    /// What waits to be done on the socket, at most one of each kind.
    pub(crate) mailbox: Mailbox,
    /// Set once the session is taken.
    pub(crate) lease: OnceLock<Lease>,
    /// The drain order that told this socket to leave.
    pub(crate) told: OnceLock<Arc<Tally>>,
    /// When it opened.
    pub(crate) opened: Instant,
    /// Until when its client asked not to be moved.
    busy_until: Mutex<Option<Instant>>,
    /// The session was taken: it is here for others to know.
    arrived: AtomicBool,
    closed: AtomicBool,
}

/// Holds at most one notice, one goodbye and one check, so it needs no further bound.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    slots: Mutex<Slots>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    notice: Option<Notice>,
    goodbye: Option<Goodbye>,
    check: bool,
}

/// Something to do on a socket, between two messages.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Say goodbye and close.
    Goodbye(Goodbye),
    /// Send the notice.
    Notice(Notice),
    /// See whether the session is still ours.
    Check,
}

/// Why the server closes a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// Its turn in a drain order has come.
    Drain { code: u16, order: String, forced: bool },
    /// Another connection took the session.
    Superseded,
    /// The process ends.
    Shutdown { code: u16 },
}

// === impl Peer ===

impl Peer {
    pub(crate) fn new(id: u64, session: Arc<str>, takes_notices: bool, overlaps: bool, mute: bool) -> Self {
        Self {
            id,
            session,
            takes_notices,
            overlaps,
            mute,
            mailbox: Mailbox::default(),
            lease: OnceLock::new(),
            told: OnceLock::new(),
            opened: Instant::now(),
            busy_until: Mutex::default(),
            arrived: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Whether the socket is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Until when the client asked not to be moved, if it did.
    pub(crate) fn busy_until(&self) -> Option<Instant> {
        *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_busy(&self, until: Option<Instant>) {
        *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived.load(Ordering::Acquire)
    }

    pub(crate) fn set_arrived(&self) {
        self.arrived.store(true, Ordering::Release);
    }

    pub(super) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

// === impl Mailbox ===

impl Mailbox {
    /// The next thing to do; goodbyes come first.
    pub(crate) async fn next(&self) -> Mail {
        loop {
            if let Some(mail) = self.take() {
                return mail;
            }
            // A permit is stored if something was posted since the look above.
            self.changed.notified().await;
        }
    }

    /// Resolves once the session was taken over by another connection; takes nothing out.
    pub(crate) async fn superseded(&self) {
        while !self.is_superseded() {
            self.changed.notified().await;
        }
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.lock().goodbye == Some(Goodbye::Superseded)
    }

    pub(crate) fn post_notice(&self, notice: Notice) {
        self.lock().notice = Some(notice);
        self.changed.notify_one();
    }

    /// Losing the session wins over all other reasons to go; else the first stands.
    pub(crate) fn post_goodbye(&self, goodbye: Goodbye) {
        let mut slots = self.lock();
        if slots.goodbye.is_none() || goodbye == Goodbye::Superseded {
            slots.goodbye = Some(goodbye);
        }
        drop(slots);
        self.changed.notify_one();
    }

    pub(crate) fn post_check(&self) {
        self.lock().check = true;
        self.changed.notify_one();
    }

    fn take(&self) -> Option<Mail> {
        let mut slots = self.lock();
        if let Some(goodbye) = slots.goodbye.clone() {
            return Some(Mail::Goodbye(goodbye));
        }
        if let Some(notice) = slots.notice.take() {
            return Some(Mail::Notice(notice));
        }
        std::mem::take(&mut slots.check).then_some(Mail::Check)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn losing_the_session_wins_over_a_polite_goodbye() {
        let mailbox = Mailbox::default();
        mailbox.post_check();
        mailbox.post_goodbye(Goodbye::Shutdown { code: 1001 });
        mailbox.post_goodbye(Goodbye::Superseded);
        mailbox.post_goodbye(Goodbye::Shutdown { code: 1001 });
        assert!(matches!(mailbox.next().await, Mail::Goodbye(Goodbye::Superseded)));
        mailbox.superseded().await;
    }
}
