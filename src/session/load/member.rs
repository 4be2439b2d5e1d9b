//! One session of a load, from its first dial to its last answer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::tally::{Ending, Tally};
use crate::session::client::Session;
use crate::session::config::{Dialect, SessionConfig};
use crate::session::event::{Cause, Event};
use crate::session::token::Token;
use crate::session::wire::SessionState;

/// After this time without an answer to its last message a session counts as unanswered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// How long messages may still be answered after the stop.
const SETTLE: Duration = Duration::from_secs(10);
/// How long the state may take at the end.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Messages said ahead of their answers; a session that is down keeps them.
const MAX_WAITING: usize = 64;
/// Entries of the history compared at the end; services keep at least these.
const COMPARED: u64 = 50;

/// What it takes to play one session.
pub(super) struct Member {
    pub(super) config: Arc<SessionConfig>,
    pub(super) token: Option<Token>,
    pub(super) place: u32,
    pub(super) opens_at: Instant,
    pub(super) say_every: Duration,
    pub(super) tally: Arc<Tally>,
}

/// The session at play.
struct Play {
    session: Session,
    tally: Arc<Tally>,
    /// Messages said so far; the n-th says "n".
    said: u64,
    open: bool,
    /// The revision under which it is counted.
    revision: Option<Box<str>>,
    ending: Ending,
    last_asked: Option<(u64, Instant)>,
    last_answered: Option<Duration>,
}

impl Member {
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = sleep_until(self.opens_at) => {}
            () = stop.cancelled() => return,
        }
        let mut play = Play {
            session: Session::new(self.config, self.token, None, u64::from(self.place)),
            tally: self.tally,
            said: 0,
            open: false,
            revision: None,
            ending: Ending::default(),
            last_asked: None,
            last_answered: None,
        };
        let mut say = interval_at(self.opens_at + self.say_every, self.say_every);
        say.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                event = play.session.next() => play.on_event(&event),
                _ = say.tick() => play.say(),
                () = stop.cancelled() => break,
            }
        }
        play.finish().await;
    }
}

impl Play {
    fn say(&mut self) {
        if self.session.pending() >= MAX_WAITING {
            return;
        }
        let text = format!("{}", self.said + 1);
        if let Some(request) = self.session.say(&text) {
            self.said += 1;
            self.last_asked = Some((request, Instant::now()));
            self.last_answered = None;
            self.tally.said();
        }
    }

    fn on_event(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Dialing { attempt, cause } => {
                let first = *attempt == 1 && !matches!(cause, Cause::First | Cause::Requested);
                self.tally.dialing(first, now);
            }
            Event::Accepted { revision } => {
                if let Some(revision) = revision {
                    self.ending.reach(revision);
                }
            }
            Event::Welcomed(welcomed) => {
                self.ending.reach(&welcomed.revision);
                self.ending.state_lost |= welcomed.state_lost;
                self.tally
                    .revision(self.revision.take().as_deref(), Some(&welcomed.revision));
                self.revision = Some(welcomed.revision.as_str().into());
                self.set_open(true);
                // An answer is what tells that the session is back: do not wait for the next turn to ask for one.
                if self.session.pending() == 0 {
                    self.say();
                }
            }
            Event::Restored(restored) if restored.cause != Cause::First => {
                self.tally.restored(restored.downtime);
            }
            Event::Disconnected { end, announced } => {
                self.ending.disconnects += 1;
                self.tally.disconnected(end.code(), *announced);
                self.tally.revision(self.revision.take().as_deref(), None);
                self.set_open(false);
            }
            Event::Answered { request, .. } => {
                if let Some((last, asked)) = self.last_asked
                    && last == *request
                {
                    self.last_answered = Some(now - asked);
                }
            }
            Event::Message { .. } => self.tally.received(),
            Event::Duplicate => self.tally.duplicate(),
            Event::Gap { missing } => self.tally.lost(*missing),
            Event::Noticed { .. } => self.tally.noticed(),
            Event::AttemptFailed(_) => self.tally.failed(),
            Event::Refused { .. } => self.tally.lost(1),
            Event::Restored(_) | Event::State { .. } | Event::GaveUp => {}
        }
    }

    fn set_open(&mut self, open: bool) {
        if self.open != open {
            self.open = open;
            self.tally.opened(open);
        }
    }

    /// One last message, its answer, the state, goodbye.
    async fn finish(mut self) {
        let until = Instant::now() + SETTLE;
        self.say();
        while self.session.pending() > 0 || self.last_answered.is_none() {
            match timeout_at(until, self.session.next()).await {
                Ok(event) => self.on_event(&event),
                Err(_) => break,
            }
        }
        self.ending.unanswered = self.last_answered.is_none_or(|after| after > ANSWERED_WITHIN);
        let up = self.session.is_up();
        if up {
            self.tally.lost(self.session.pending_writes() as u64);
        }
        if up && !self.ending.unanswered && !self.ending.state_lost {
            let state = timeout(READ_WITHIN, self.read_state()).await.ok();
            self.ending.state_lost = !state.is_some_and(|state| self.is_as_said(&state));
        }
        self.tally.ended(std::mem::take(&mut self.ending));
        self.session.shutdown().await;
    }

    async fn read_state(&mut self) -> Value {
        self.session.ask_state();
        loop {
            match self.session.next().await {
                Event::State { state, .. } => return state,
                event => self.on_event(&event),
            }
        }
    }

    fn is_as_said(&self, state: &Value) -> bool {
        if self.session.dialect() != Dialect::Session {
            // Where nothing is read there is nothing to miss; a script compares by itself.
            return *state != Value::Bool(false);
        }
        let Ok(state) = serde_json::from_value::<SessionState>(state.clone()) else {
            return false;
        };
        let found: Vec<&str> = state.texts().collect();
        let expected = (1..=self.said).rev().take(COMPARED as usize);
        let compared = self.said.min(COMPARED) as usize;
        found.len() >= compared
            && found
                .iter()
                .rev()
                .zip(expected)
                .all(|(found, n)| found.parse() == Ok(n))
    }
}
