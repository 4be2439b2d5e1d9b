//! A session as the rest of the proxy sees it: what it is, how it is doing, and a box for what it is to do.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use super::drain::Tally;
use super::polling::Polling;
use super::relay::Swap;

/// A session, shared by its relay, the registry and the drain.
#[derive(Debug)]
pub struct Peer {
    /// Its number in this process.
    pub id: u64,
    /// When it began, milliseconds of the proxy's clock.
    pub opened_ms: u64,
    /// Its identity as pods may tell it.
    pub identity: Option<Box<str>>,
    /// Which of the settings' notices it declared.
    pub notice: Option<u8>,
    /// Which of the settings' close codes are its own.
    pub codes: Option<u8>,
    /// Relayed to another pod, which has the session.
    pub forwarded: bool,
    /// The order that told it, or that closes it.
    pub told: OnceLock<Arc<Tally>>,
    /// When the client was last heard, milliseconds of the clock.
    heard_ms: AtomicU64,
    /// When a message went either way.
    data_ms: AtomicU64,
    /// When its relay wants to be woken, whatever happens; `u64::MAX`: never.
    wake_ms: AtomicU64,
    /// [`MID_CLIENT`] and [`MID_APPLICATION`].
    middle: AtomicU8,
    pinged: AtomicBool,
    has_mail: AtomicBool,
    gone: AtomicBool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Socket(Mutex<Mailbox>),
    Polling(Box<Polling>),
}

/// In the middle of a message from the client.
pub const MID_CLIENT: u8 = 1;
/// In the middle of a message from the application.
pub const MID_APPLICATION: u8 = 2;

#[derive(Debug, Default)]
struct Mailbox {
    waker: Option<Waker>,
    mail: Vec<Mail>,
    /// Nobody takes anything any more.
    closed: bool,
}

/// What a session is to do.
#[derive(Debug)]
pub enum Mail {
    /// Tell the client, in a message of its own.
    Notice(Box<str>),
    /// Close toward the client.
    Close(Goodbye),
    /// Ask the client for a sign.
    Ping,
    /// Go on with another application half.
    Swap(Swap),
    /// Nothing but a look at the clock.
    Look,
}

/// How a session is ended by the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// The code toward the client.
    pub code: u16,
    /// Why.
    pub why: Why,
}

/// Why the proxy ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An order, in the session's turn.
    Turn,
    /// An order whose deadline has passed.
    Forced,
    /// An order, and the client had been silent for too long.
    Dormant,
    /// Nothing went either way for too long.
    Idle,
    /// The proxy ends.
    Shutdown,
}

// === impl Peer ===

impl Peer {
    /// A session over a socket.
    pub fn socket(id: u64, now_ms: u64) -> Self {
        Self::new(id, now_ms, Kind::Socket(Mutex::default()))
    }

    /// A session over polling requests.
    pub(super) fn polling(id: u64, now_ms: u64, polling: Polling) -> Self {
        Self::new(id, now_ms, Kind::Polling(Box::new(polling)))
    }

    fn new(id: u64, now_ms: u64, kind: Kind) -> Self {
        Self {
            id,
            opened_ms: now_ms,
            identity: None,
            notice: None,
            codes: None,
            forwarded: false,
            told: OnceLock::new(),
            heard_ms: AtomicU64::new(now_ms),
            data_ms: AtomicU64::new(now_ms),
            wake_ms: AtomicU64::new(u64::MAX),
            middle: AtomicU8::new(0),
            pinged: AtomicBool::new(false),
            has_mail: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            kind,
        }
    }

    /// Gives a session something to do, and wakes it.
    pub fn post(&self, mail: Mail) {
        match &self.kind {
            Kind::Socket(mailbox) => {
                let mut mailbox = lock(mailbox);
                if mailbox.closed {
                    return;
                }
                mailbox.mail.push(mail);
                self.has_mail.store(true, Ordering::Release);
                if let Some(waker) = &mailbox.waker {
                    waker.wake_by_ref();
                }
            }
            Kind::Polling(polling) => {
                if let Mail::Close(goodbye) = mail {
                    polling.close(goodbye);
                }
            }
        }
    }

    /// The polling session that it is, if it is one.
    pub(super) fn as_polling(&self) -> Option<&Polling> {
        match &self.kind {
            Kind::Polling(polling) => Some(polling),
            Kind::Socket(_) => None,
        }
    }

    /// Takes what there is to do.
    pub(super) fn take_mail(&self) -> Vec<Mail> {
        match &self.kind {
            // Asked at every message: a look at the flag costs less than the lock.
            Kind::Socket(mailbox) if self.has_mail.swap(false, Ordering::Acquire) => {
                std::mem::take(&mut lock(mailbox).mail)
            }
            _ => Vec::new(),
        }
    }

    /// Its relay has ended: what is still to be done is dropped, and whoever waits for it learns that.
    pub(super) fn hang_up(&self) {
        if let Kind::Socket(mailbox) = &self.kind {
            *lock(mailbox) = Mailbox {
                closed: true,
                ..Mailbox::default()
            };
        }
    }

    /// Whether its relay has been given something that it has not taken yet.
    #[cfg(test)]
    pub(super) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed)
    }

    /// Whom to wake when something is posted.
    pub(super) fn listen(&self, waker: &Waker) {
        if let Kind::Socket(mailbox) = &self.kind {
            lock(mailbox).waker = Some(waker.clone());
        }
    }

    /// The client was heard.
    pub(super) fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
        self.pinged.store(false, Ordering::Relaxed);
    }

    /// Data went either way; `middle` says where a message is only half through.
    pub(super) fn data(&self, now_ms: u64, middle: u8) {
        self.data_ms.store(now_ms, Ordering::Relaxed);
        self.middle.store(middle, Ordering::Relaxed);
    }

    /// When the client was last heard.
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// When data went either way.
    pub fn data_ms(&self) -> u64 {
        self.data_ms.load(Ordering::Relaxed)
    }

    /// Whether it is in the middle of a message.
    pub fn is_in_message(&self) -> bool {
        self.middle.load(Ordering::Relaxed) != 0
    }

    /// Whether a client is dormant that is to be pinged in this interval: silent for two of them.
    pub fn is_dormant(&self, now_ms: u64, ping_interval_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_ms()) >= 2 * ping_interval_ms
    }

    /// Marks it as pinged; false if it was.
    pub(super) fn ping_once(&self) -> bool {
        !self.pinged.swap(true, Ordering::Relaxed)
    }

    /// Asks for a wake-up at the latest at this time.
    pub(super) fn wake_at(&self, ms: u64) {
        self.wake_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether its relay wants to be woken by now.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.wake_ms.load(Ordering::Relaxed) <= now_ms
    }

    /// It is over.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether it is over.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

fn lock(mailbox: &Mutex<Mailbox>) -> MutexGuard<'_, Mailbox> {
    mailbox.lock().unwrap_or_else(PoisonError::into_inner)
}
