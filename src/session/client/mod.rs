//! A session: the state that outlives sockets, and what its driver can ask of it.

mod drive;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::Value;
use tokio::time::{Instant, Sleep, timeout};

use super::backoff::{Backoff, Profile};
use super::config::{Dialect, Pin, SessionConfig};
use super::dial::{DialError, Dialed};
use super::dialect::Remembered;
use super::event::{Cause, End, Event};
use super::ledger::{Ledger, Request, Section};
use super::socket::Socket;
use super::token::Token;
use super::wire::Reconnect;

/// How long an old socket is read after a new one took over, for a pod that never closes it.
const FADE: Duration = Duration::from_mins(1);
/// How long the other side may take to answer a close frame.
const CLOSE: Duration = Duration::from_secs(2);

/// A resumable session. It connects, resumes, repeats what was not answered, and drops what comes twice, for as long as
/// its driver awaits [`Session::next`].
pub struct Session {
    config: Arc<SessionConfig>,
    token: Option<Token>,
    pin: Option<Pin>,
    /// What the last notice said of the way.
    hint: Reconnect,
    id: Option<String>,
    /// What its script saved, where it speaks one.
    memory: Option<Remembered>,
    ledger: Ledger,
    backoff: Backoff,
    rng: SmallRng,
    /// The socket that carries the session.
    current: Option<Box<Socket>>,
    /// The connection being made, while down or beside `current`.
    attempt: Option<Attempt>,
    /// Sockets that are let go, and read until they close.
    fading: Vec<Fading>,
    /// The attempt waits for the old sockets to end.
    after_close: bool,
    outage: Option<Outage>,
    /// How `current` ended while its successor was on its way: no disconnect, unless the successor fails.
    handed_over: Option<(End, bool)>,
    /// A message came on `current`, so that the session counts as restored there.
    restored: bool,
    /// The service asked for patience: until then nothing is sent.
    hold: Option<Instant>,
    timer: Option<Pinned<Box<Sleep>>>,
    events: VecDeque<Event>,
}

enum Attempt {
    Waiting(Instant),
    Dialing(BoxFuture<'static, Result<Dialed, DialError>>),
    /// Upgraded; the first message has not come.
    Opened(Box<Socket>),
}

struct Fading {
    socket: Box<Socket>,
    until: Instant,
}

/// From the reason to connect until the session is restored.
struct Outage {
    cause: Cause,
    /// `None` while the old socket still carries the session.
    lost_at: Option<Instant>,
    first_dial: Option<Instant>,
    attempts: u32,
    /// The number that the last dial told the service.
    resumed_from: u64,
}

// === impl Session ===

impl Session {
    /// A session that dials as soon as it is driven. The seed spreads its waits, and is `${place}` to a script.
    pub fn new(config: Arc<SessionConfig>, token: Option<Token>, pin: Option<Pin>, seed: u64) -> Self {
        let script = config
            .script
            .clone()
            .filter(|_| config.dialect == Dialect::Script);
        let memory = script.map(|script| Remembered::new(script, token.clone(), seed));
        Self::remembering(config, memory, token, pin, seed)
    }

    /// A session of somebody else's that knows all that this one knows, but for its token: what an intruder would dial with.
    /// Where it is welcomed with [`resumed`](super::Welcomed::resumed), the service keeps users apart badly.
    #[must_use]
    pub fn taken_by(&self, token: Option<Token>, pin: Option<Pin>) -> Self {
        let memory = self.memory.as_ref().map(|memory| memory.taken_by(token.clone()));
        let mut session = Self::remembering(self.config.clone(), memory, token, pin, 0);
        session.id.clone_from(&self.id);
        session
    }

    fn remembering(
        config: Arc<SessionConfig>,
        memory: Option<Remembered>,
        token: Option<Token>,
        pin: Option<Pin>,
        seed: u64,
    ) -> Self {
        let mut session = Self {
            config,
            token,
            pin,
            hint: Reconnect::default(),
            id: None,
            memory,
            ledger: Ledger::default(),
            backoff: Backoff::default(),
            rng: SmallRng::seed_from_u64(seed),
            current: None,
            attempt: None,
            fading: Vec::new(),
            after_close: false,
            outage: None,
            handed_over: None,
            restored: false,
            hold: None,
            timer: None,
            events: VecDeque::new(),
        };
        let now = Instant::now();
        session.outage = Some(Outage::new(Cause::First, Some(now)));
        session.schedule(now);
        session
    }

    /// What happens next. Cancel-safe: a dropped call loses nothing. Never returns while the session is down for good
    /// ([`Event::GaveUp`]).
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Appends to the history; the request's number, or `None` while too many wait for an answer.
    pub fn say(&mut self, text: &str) -> Option<u64> {
        self.ask(Request::Say(text.into()))
    }

    /// Sets a key of the state.
    pub fn set(&mut self, section: Section, key: &str, value: Value) -> Option<u64> {
        let key = key.into();
        self.ask(Request::Set { section, key, value })
    }

    /// Asks for the state; [`Event::State`] has the answer.
    pub fn ask_state(&mut self) -> Option<u64> {
        self.ask(Request::State)
    }

    fn ask(&mut self, request: Request) -> Option<u64> {
        self.ledger.ask(request, Instant::now())
    }

    /// Lets go of the socket politely and resumes on a new one, with another pin if given.
    pub fn hand_off(&mut self, pin: Option<Pin>) {
        if pin.is_some() {
            self.pin = pin;
        }
        self.reconnect(Cause::Requested);
    }

    /// What is dialled from now on has this pin; the present socket stays.
    pub fn lead(&mut self, pin: Option<Pin>) {
        self.pin = pin;
    }

    /// Reconnects since the driver found the socket useless.
    pub fn recover(&mut self) {
        self.reconnect(Cause::Unannounced);
    }

    fn reconnect(&mut self, cause: Cause) {
        let now = Instant::now();
        self.backoff.reset();
        self.let_go(now);
        self.outage = Some(Outage::new(cause, Some(now)));
        self.schedule(now);
        // A foreign service may know that a session is free to be resumed only when its old socket has ended (Socket.IO does).
        self.after_close = self.memory.is_some() && !self.fading.is_empty();
        if self.after_close
            && let Some(Attempt::Waiting(at)) = &mut self.attempt
        {
            *at = (*at).max(now + CLOSE);
        }
    }

    /// The last of the old sockets is gone: whoever waited for that need wait no longer.
    fn gone(&mut self, now: Instant) {
        if self.fading.is_empty()
            && std::mem::take(&mut self.after_close)
            && let Some(Attempt::Waiting(at)) = &mut self.attempt
        {
            *at = now;
        }
    }

    fn let_go(&mut self, now: Instant) {
        self.attempt = None;
        self.handed_over = None;
        if let Some(mut socket) = self.current.take() {
            socket.close();
            self.fading.push(Fading {
                socket,
                until: now + CLOSE,
            });
        }
    }

    /// Closes politely, within two seconds.
    pub async fn shutdown(mut self) {
        self.let_go(Instant::now());
        let faded = poll_fn(|cx| self.poll_faded(cx));
        // At the limit the sockets are dropped, which closes them less politely.
        let _ = timeout(CLOSE, faded).await;
    }

    /// What is spoken.
    pub fn dialect(&self) -> Dialect {
        self.config.dialect
    }

    /// Whether a welcomed socket carries the session.
    pub fn is_up(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the session is up and a message has come back on its socket.
    pub fn is_restored(&self) -> bool {
        self.is_up() && self.restored
    }

    /// The session's id, once the service gave it one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Requests without an answer.
    pub fn pending(&self) -> usize {
        self.ledger.pending()
    }

    /// Unanswered requests that write state.
    pub fn pending_writes(&self) -> usize {
        self.ledger.pending_writes()
    }

    /// The last number received.
    pub fn last_seq(&self) -> u64 {
        self.ledger.last()
    }

    /// Plans the next attempt by the profile of the outage.
    fn schedule(&mut self, now: Instant) {
        let cause = self.outage.as_ref().map_or(Cause::First, |o| o.cause);
        let profile = self.profile(cause);
        let wait = self.backoff.next(&profile, &mut self.rng);
        self.attempt = wait.map(|wait| Attempt::Waiting(now + wait));
        if wait.is_none() {
            self.events.push_back(Event::GaveUp);
        }
    }

    fn profile(&self, cause: Cause) -> Profile {
        let profiles = &self.config.profiles;
        match cause {
            Cause::First | Cause::Announced => profiles.graceful,
            Cause::Unannounced => profiles.emergency,
            Cause::Requested | Cause::Handover => profiles.rolling,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("up", &self.is_up())
            .field("restored", &self.restored)
            .field("last", &self.ledger.last())
            .field("pending", &self.ledger.pending())
            .finish_non_exhaustive()
    }
}

// === impl Outage ===

impl Outage {
    fn new(cause: Cause, lost_at: Option<Instant>) -> Self {
        Self {
            cause,
            lost_at,
            first_dial: None,
            attempts: 0,
            resumed_from: 0,
        }
    }
}
