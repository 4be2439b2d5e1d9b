//! The relay of one session: frames pass both ways untouched, and at a boundary the proxy may say something of its own.
//!
//! The hot path is one read and one write per chunk: a chunk is read into a buffer of the thread's, its headers are
//! looked at, and it is written on. Only what could not be written is kept, and while something is kept nothing more is
//! read for that side. So a session that is idle holds no buffer, and one whose reader is slow holds one chunk.

mod inject;
mod settle;
mod side;
mod sift;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

pub use self::settle::{By, Ending};
pub use self::side::{ApplicationHalf, ClientHalf};
use super::Proxy;
use super::frame::{Frame, Header, Mark, Tracker};
use super::peer::{Goodbye, MID_APPLICATION, MID_CLIENT, Mail, Peer};

/// Bytes read at once: a message of 16 KiB with room, and the most that a slow reader makes the proxy keep.
pub const CHUNK: usize = 64 * 1024;

thread_local! {
    /// What is read is written on before the next session's turn, so one buffer serves them all.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// A session at work. It ends when both halves are done with each other.
#[derive(Debug)]
pub struct Relay {
    proxy: Arc<Proxy>,
    peer: Arc<Peer>,
    client: ClientHalf,
    application: ApplicationHalf,
    /// A message to the client that waits for a boundary.
    notice: Option<Box<str>>,
    /// A close toward the client that waits for a boundary.
    goodbye: Option<Goodbye>,
    /// A ping to the client that waits for a boundary.
    ping: bool,
    swap: Option<Swap>,
    /// A ping of ours is out: its pong is not for the application.
    pinged: bool,
    /// A notice is out: its acknowledgement is not for the application.
    noticed: bool,
    /// Bytes of the client's that may not be for the application.
    held: Vec<u8>,
    /// The frame to which they belong.
    holding: Option<Header>,
    /// What began the end.
    cause: Option<By>,
    /// The session is over and told so; what is left is to let the sockets end.
    over: bool,
    listening: bool,
    /// When patience with this end is over, milliseconds of the clock; `u64::MAX`: there is no end yet.
    until_ms: u64,
    /// The clock at the beginning of this turn.
    now_ms: u64,
    /// Bytes that wait for a slow reader, as they were counted last.
    pending: usize,
}

/// Another application half for a session, taken at a boundary of both directions.
#[derive(Debug)]
pub struct Swap {
    /// What takes over.
    pub half: ApplicationHalf,
    /// Where the one before goes. Nobody listening is no reason not to change.
    pub before: oneshot::Sender<ApplicationHalf>,
}

/// What one chunk held.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    messages: u64,
    close: Option<u16>,
}

// === impl Relay ===

impl Relay {
    /// How long the ends may take for their part of a close that the proxy began, and for their sockets to end.
    pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

    /// A relay between two halves. Its peer has to be in the proxy's registry.
    pub fn new(proxy: Arc<Proxy>, peer: Arc<Peer>, client: ClientHalf, application: ApplicationHalf) -> Self {
        Self {
            proxy,
            peer,
            client,
            application,
            notice: None,
            goodbye: None,
            ping: false,
            swap: None,
            pinged: false,
            noticed: false,
            held: Vec::new(),
            holding: None,
            cause: None,
            over: false,
            listening: false,
            until_ms: u64::MAX,
            now_ms: 0,
            pending: 0,
        }
    }

    /// Changes the application half of a session at the next boundary of both directions, and gives back the one before.
    /// None if the session ended first.
    pub async fn swap(peer: &Peer, half: ApplicationHalf) -> Option<ApplicationHalf> {
        let (before, given) = oneshot::channel();
        peer.post(Mail::Swap(Swap { half, before }));
        given.await.ok()
    }

    fn take_mail(&mut self) {
        for mail in self.peer.take_mail() {
            match mail {
                Mail::Notice(text) => self.notice = Some(text),
                Mail::Close(goodbye) => {
                    self.goodbye.get_or_insert(goodbye);
                    self.limit();
                }
                Mail::Ping => self.ping = true,
                Mail::Swap(swap) => self.swap = Some(swap),
                Mail::Look => {}
            }
        }
    }

    /// From now on the end has to come within a bounded time.
    fn limit(&mut self) {
        if self.until_ms == u64::MAX {
            self.until_ms = self.now_ms + super::clock::millis(Self::CLOSE_TIMEOUT);
            self.peer.wake_at(self.until_ms);
        }
    }

    /// Moves what the client sends, until it sends nothing or the application takes nothing.
    fn pump_client(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.application.0.flush(cx).is_ready() {
            if self.swap.is_some() && self.client.0.frames.at_message() {
                break;
            }
            if !self.client.0.carry.is_empty() {
                let early = std::mem::take(&mut self.client.0.carry);
                self.pass_from_client(&early, cx);
            } else if self.client.0.ended {
                break;
            } else {
                let Poll::Ready(count) = self.client.0.read(buffer, cx) else {
                    break;
                };
                if count > 0 {
                    self.pass_from_client(&buffer[..count], cx);
                }
            }
            moved = true;
        }
        moved
    }

    /// The same for the application.
    fn pump_application(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.client.0.flush(cx).is_ready() {
            if !self.application.0.carry.is_empty() {
                let early = std::mem::take(&mut self.application.0.carry);
                self.pass_from_application(&early, cx);
            } else if self.application.0.ended {
                break;
            } else {
                let Poll::Ready(count) = self.application.0.read(buffer, cx) else {
                    break;
                };
                if count > 0 {
                    self.pass_from_application(&buffer[..count], cx);
                }
            }
            moved = true;
        }
        moved
    }

    fn pass_from_client(&mut self, chunk: &[u8], cx: &mut Context<'_>) {
        let sifting = self.pinged || self.noticed || self.client.0.close_ours || self.swap.is_some();
        let seen = if sifting || !self.held.is_empty() {
            self.sift(chunk, cx)
        } else {
            let seen = track(&mut self.client.0.frames, chunk);
            if !self.application.0.close_ours {
                self.application.0.send(chunk, cx);
                self.application.0.close_passed |= seen.close.is_some();
            }
            seen
        };
        self.client.0.close_seen = self.client.0.close_seen.or(seen.close);
        if let Some(code) = seen.close.filter(|_| !self.client.0.close_ours) {
            self.cause.get_or_insert(By::Client(code));
        }
        self.proxy.metrics.from_clients.add(chunk.len(), seen.messages);
        self.peer.heard(self.now_ms);
        self.note(seen);
    }

    fn pass_from_application(&mut self, chunk: &[u8], cx: &mut Context<'_>) {
        let injecting = self.notice.is_some() || self.goodbye.is_some() || self.ping;
        let seen = if self.client.0.close_ours {
            let seen = track(&mut self.application.0.frames, chunk);
            self.proxy.metrics.dropped.add(chunk.len(), seen.messages);
            seen
        } else if injecting {
            self.interleave(chunk, cx)
        } else {
            let seen = track(&mut self.application.0.frames, chunk);
            self.client.0.send(chunk, cx);
            self.client.0.close_passed |= seen.close.is_some();
            seen
        };
        self.application.0.close_seen = self.application.0.close_seen.or(seen.close);
        if let Some(code) = seen.close.filter(|_| !self.client.0.close_ours) {
            self.cause.get_or_insert(By::Application(code));
        }
        self.proxy
            .metrics
            .from_applications
            .add(chunk.len(), seen.messages);
        self.note(seen);
    }

    /// Tells what others ask of a session: whether it is busy.
    fn note(&self, seen: Seen) {
        let middle = if self.client.0.frames.at_message() {
            0
        } else {
            MID_CLIENT
        } | if self.application.0.frames.at_message() {
            0
        } else {
            MID_APPLICATION
        };
        if seen.messages > 0 || middle != 0 {
            self.peer.data(self.now_ms, middle);
        }
    }

    fn count_pending(&mut self, pending: usize) {
        if pending != self.pending {
            let change = pending as i64 - self.pending as i64;
            self.proxy.metrics.pending.inc_by(change);
            self.pending = pending;
        }
    }

    /// Changes the application half if both directions are between messages and nothing waits for the old one.
    fn exchange(&mut self) {
        let between = self.client.0.frames.at_message()
            && self.held.is_empty()
            && self.application.0.frames.at_message()
            && self.application.0.pending() == 0;
        let living = !self.application.0.is_told() && !self.client.0.is_told() && !self.client.0.ended;
        if between
            && living
            && let Some(Swap { half, before }) = self.swap.take()
        {
            // Whoever asked may be gone; then the old half is dropped here.
            let _ = before.send(std::mem::replace(&mut self.application, half));
        }
    }

    fn work(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.inject(cx);
            let moved = self.pump_client(buffer, cx) | self.pump_application(buffer, cx);
            if self.swap.is_some() {
                self.exchange();
            }
            if self.settle(cx) {
                return Poll::Ready(());
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let relay = &mut *self;
        if !relay.listening {
            // A task has one waker for all its life.
            relay.listening = true;
            relay.peer.listen(cx.waker());
        }
        relay.now_ms = relay.proxy.clock.now_ms();
        relay.take_mail();
        let outcome = BUFFER.with_borrow_mut(|buffer| relay.work(buffer, cx));
        relay.count_pending(relay.client.0.pending() + relay.application.0.pending());
        outcome
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.conclude();
        self.count_pending(0);
        self.peer.hang_up();
    }
}

/// Follows a chunk that passes as it is.
fn track(frames: &mut Tracker, chunk: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut rest = chunk;
    while let (used, Some(Mark::End(frame))) = frames.advance(rest, false) {
        seen.add(frame);
        rest = &rest[used..];
    }
    seen
}

impl Seen {
    fn add(&mut self, frame: Frame) {
        match frame {
            Frame::Message => self.messages += 1,
            Frame::Close(code) => self.close = self.close.or(Some(code)),
            Frame::Fragment | Frame::Control => {}
        }
    }
}
