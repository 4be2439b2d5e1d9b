//! The fleet: sessions that stay, say something every second, and reconnect every so often. Users' sockets last, so
//! without such reconnects a service could break for newcomers unseen.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::record::{Recorder, Sample};
use super::written::Written;
use crate::session::{End, Event, Pin, Session, SessionConfig, Token};

/// How often a session says something: its health check.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// Sessions of a fleet open within this time.
const OPEN_WITHIN: Duration = Duration::from_secs(1);

/// What all sessions of one target share.
#[derive(Debug, Clone)]
pub(super) struct Company {
    pub(super) config: Arc<SessionConfig>,
    pub(super) token: Option<Token>,
    pub(super) pin: Option<Pin>,
    pub(super) recorder: Recorder,
    pub(super) recycle: Duration,
    pub(super) sessions: u32,
}

/// One session of a fleet.
struct Member {
    session: Session,
    written: Written,
    recorder: Recorder,
    mark: u64,
    check: Check,
    counted_open: bool,
}

/// What is known of the state since the last connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// It was read and is as written; messages may be said.
    Equal,
    /// It is being read.
    Reading,
    /// It differed, and is being read again.
    ReadingAgain,
}

impl Company {
    /// Runs the session in this place until it is cancelled.
    pub(super) async fn run(self, place: u32, cancelled: CancellationToken) {
        let share = f64::from(place) / f64::from(self.sessions.max(1));
        let begun = Instant::now();
        tokio::select! {
            () = sleep_until(begun + OPEN_WITHIN.mul_f64(share)) => {}
            () = cancelled.cancelled() => return,
        }
        let session = Session::new(
            self.config.clone(),
            self.token.clone(),
            self.pin.clone(),
            u64::from(place),
        );
        let mut member = Member {
            session,
            written: Written::in_dialect(self.config.dialect),
            recorder: self.recorder.clone(),
            mark: u64::from(place),
            check: Check::Equal,
            counted_open: false,
        };
        let mut say = interval_at(begun + SAY_EVERY, SAY_EVERY);
        say.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut recycle = interval_at(begun + self.recycle.mul_f64(1.0 + share), self.recycle);
        recycle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = member.session.next() => member.on_event(event),
                _ = say.tick() => member.say(),
                _ = recycle.tick() => member.recycle(),
                () = cancelled.cancelled() => break,
            }
            member.count_open();
        }
        if member.counted_open {
            member.recorder.opened(false);
        }
        member.session.shutdown().await;
    }
}

impl Member {
    /// Nothing is said while the state is read, so that what was written is known.
    fn calm(&self) -> bool {
        self.session.is_restored() && self.check == Check::Equal
    }

    fn say(&mut self) {
        if self.calm() {
            self.written.say(&mut self.session);
        }
    }

    fn recycle(&mut self) {
        if self.calm() {
            self.session.hand_off(None);
        }
    }

    fn count_open(&mut self) {
        let open = self.session.is_restored();
        if open != self.counted_open {
            self.counted_open = open;
            self.recorder.opened(open);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Welcomed(_) => self.read(Check::Reading),
            Event::State { state, .. } => self.on_state(&state),
            Event::Restored(restored) => {
                self.recorder.restored(restored.since_dial, Instant::now());
            }
            Event::AttemptFailed(failure) => self.note(Sample::Failed, failure.to_string()),
            Event::Disconnected {
                end: End::Unanswered, ..
            } => self.note(Sample::Failed, "a message got no answer in time".into()),
            Event::Disconnected {
                end,
                announced: false,
            } => {
                let sentence = format!("a socket ended unannounced with {}", end.code());
                self.note(Sample::Unannounced, sentence);
            }
            Event::Gap { missing } => {
                self.note(Sample::StateLost, format!("{missing} messages never came"));
            }
            Event::Refused { code, .. } => {
                self.note(Sample::Failed, format!("a message was refused with {code}"));
            }
            Event::GaveUp => self.session.recover(),
            _ => {}
        }
    }

    fn read(&mut self, check: Check) {
        self.check = check;
        self.session.ask_state();
    }

    fn on_state(&mut self, state: &Value) {
        if self.written.is_empty() {
            self.written.write_all(&mut self.session, self.mark);
            self.check = Check::Equal;
            return;
        }
        match (self.written.compare(state), self.check) {
            (Ok(()), _) => self.check = Check::Equal,
            (Err(_), Check::Reading) => self.read(Check::ReadingAgain),
            (Err(difference), _) => {
                self.note(Sample::StateLost, format!("state lost: {difference}"));
                // What is lost is counted once; from here on the session has a state of its own again.
                self.written.forget();
                self.written.write_all(&mut self.session, self.mark);
                self.check = Check::Equal;
            }
        }
    }

    fn note(&self, sample: Sample, sentence: String) {
        self.recorder.failed(sample, sentence, Instant::now());
    }
}
