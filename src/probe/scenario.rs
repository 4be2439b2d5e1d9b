//! One probe session, walked through the steps of a rehearsal. Each step holds or says what was missed.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::record::{Recorder, Sample};
use super::written::Written;
use crate::session::{Dialect, End, Event, Failure, Pin, Restored, Session, Welcomed};

/// A check that did not hold for one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Miss {
    /// The check's name, as in [`RehearsalFailure`](crate::engine::evidence::RehearsalFailure).
    pub(super) check: &'static str,
    /// What happened instead; no token, no payload.
    pub(super) detail: String,
}

pub(super) type Step<T = ()> = Result<T, Miss>;

/// A probe session and what it knows of itself.
pub(super) struct Walk {
    pub(super) session: Session,
    written: Written,
    dialect: Dialect,
    /// Where its attempts are counted; stable's are kept apart.
    pub(super) recorder: Recorder,
    mark: u64,
    /// It was drained once. While the order runs, whoever comes back to one of its pods is asked to leave again: that
    /// is no fault of the service.
    under_order: bool,
}

/// How far a session came on its way to be restored.
#[derive(Default)]
struct Progress {
    accepted: bool,
    welcomed: Option<Welcomed>,
    restored: Option<Restored>,
    state: Option<Value>,
    last_failure: Option<Failure>,
}

impl Walk {
    pub(super) fn new(session: Session, recorder: Recorder, mark: u64) -> Self {
        Self {
            written: Written::in_dialect(session.dialect()),
            dialect: session.dialect(),
            session,
            recorder,
            mark,
            under_order: false,
        }
    }

    /// Drives the session until it is restored, and until its state was read, if `limit` allows.
    pub(super) async fn restored(&mut self, limit: Duration) -> Step<Welcomed> {
        let mut progress = Progress::default();
        let walk = async {
            loop {
                let event = self.session.next().await;
                self.advance(&mut progress, event)?;
                if let (Some(welcomed), Some(_), Some(state)) =
                    (&progress.welcomed, &progress.restored, &progress.state)
                {
                    return Ok((welcomed.clone(), state.clone()));
                }
            }
        };
        let (welcomed, state) = match timeout_at(Instant::now() + limit, walk).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(progress.miss(limit)),
        };
        if !self.written.is_empty() {
            self.same_state(&state, limit).await?;
        }
        Ok(welcomed)
    }

    fn advance(&mut self, progress: &mut Progress, event: Event) -> Step {
        match event {
            Event::Accepted { .. } => progress.accepted = true,
            Event::Welcomed(welcomed) => {
                if welcomed.state_lost && !self.written.is_empty() {
                    let detail = "the session was not found".to_owned();
                    return Err(self.lost(detail));
                }
                progress.welcomed = Some(welcomed);
                self.session.ask_state();
            }
            Event::State { state, .. } => progress.state = Some(state),
            Event::Restored(restored) => {
                self.recorder.restored(restored.since_dial, Instant::now());
                progress.restored = Some(restored);
            }
            Event::AttemptFailed(failure) => {
                self.failed(&failure);
                if failure == Failure::Mute {
                    return Err(miss("firstMessage", failure.to_string()));
                }
                progress.last_failure = Some(failure);
            }
            other => self.quiet(&other)?,
        }
        Ok(())
    }

    /// Nothing but answers may come.
    fn quiet(&mut self, event: &Event) -> Step {
        match event {
            Event::Disconnected { announced: true, .. } if self.under_order => Ok(()),
            Event::Disconnected { end, announced } => Err(self.cut(*end, *announced)),
            Event::Gap { missing } => Err(self.lost(format!("{missing} messages never came"))),
            Event::Refused { code, .. } => {
                Err(miss("exchange", format!("a message was refused with {code}")))
            }
            Event::AttemptFailed(failure) => {
                self.failed(failure);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, failure: &Failure) {
        let now = Instant::now();
        self.recorder.failed(Sample::Failed, failure.to_string(), now);
    }

    fn lost(&self, detail: String) -> Miss {
        let now = Instant::now();
        self.recorder.failed(Sample::StateLost, detail.clone(), now);
        miss("stateEqual", detail)
    }

    fn cut(&self, end: End, announced: bool) -> Miss {
        let detail = format!("the socket ended with {}", end.code());
        if announced {
            return miss("notice", format!("{detail} and no notice"));
        }
        let now = Instant::now();
        self.recorder.failed(Sample::Unannounced, detail.clone(), now);
        miss("unannounced", detail)
    }

    /// Writes messages and one value per section, and waits for the answers.
    pub(super) async fn write(&mut self, limit: Duration) -> Step {
        self.written.write_all(&mut self.session, self.mark);
        self.answered(limit).await
    }

    /// Says something and waits for the answer.
    pub(super) async fn exchange(&mut self, limit: Duration) -> Step {
        self.written.say(&mut self.session);
        self.answered(limit).await
    }

    /// Stays, and hears nothing but answers.
    pub(super) async fn quiet_until(&mut self, until: Instant) -> Step {
        let walk = async {
            loop {
                let event = self.session.next().await;
                self.quiet(&event)?;
            }
        };
        timeout_at(until, walk).await.unwrap_or(Ok(()))
    }

    async fn answered(&mut self, limit: Duration) -> Step {
        let walk = async {
            while self.session.pending() > 0 {
                let event = self.session.next().await;
                self.quiet(&event)?;
            }
            Ok(())
        };
        match timeout_at(Instant::now() + limit, walk).await {
            Ok(outcome) => outcome,
            Err(_) => Err(miss("exchange", "a message was not answered".to_owned())),
        }
    }

    /// The state as read equals what was written, or does so when read again.
    async fn same_state(&mut self, found: &Value, limit: Duration) -> Step {
        if self.written.compare(found).is_ok() {
            return Ok(());
        }
        let again = self.read(limit).await?;
        match self.written.compare(&again) {
            Ok(()) => Ok(()),
            Err(difference) => Err(self.lost(difference)),
        }
    }

    /// Reads the state and compares it.
    pub(super) async fn check_state(&mut self, limit: Duration) -> Step {
        let found = self.read(limit).await?;
        self.same_state(&found, limit).await
    }

    async fn read(&mut self, limit: Duration) -> Step<Value> {
        self.session.ask_state();
        let walk = async {
            loop {
                match self.session.next().await {
                    Event::State { state, .. } => return Ok(state),
                    event => self.quiet(&event)?,
                }
            }
        };
        match timeout_at(Instant::now() + limit, walk).await {
            Ok(outcome) => outcome,
            Err(_) => Err(miss("exchange", "the state was not told".to_owned())),
        }
    }

    /// Lets go and comes back, by another pin if given.
    pub(super) async fn hand_over(&mut self, pin: Option<Pin>, limit: Duration) -> Step<Welcomed> {
        self.session.hand_off(pin);
        self.restored(limit).await
    }

    /// Is drained: a notice, a close with the ordered code, and back with the same state. `deadline` bounds notice and
    /// close, `limit` the way back.
    pub(super) async fn drained(
        &mut self,
        deadline: Instant,
        close_code: u16,
        notices: bool,
        limit: Duration,
    ) -> Step {
        let mut noticed = false;
        let walk = async {
            loop {
                match self.session.next().await {
                    Event::Noticed { .. } => noticed = true,
                    Event::Disconnected { end, announced } => return Ok((end, announced)),
                    event => self.quiet(&event)?,
                }
            }
        };
        let ended: Step<(End, bool)> = match timeout_at(deadline, walk).await {
            Ok(ended) => ended,
            Err(_) if noticed => Err(miss("closeCode", "a notice, but no close".to_owned())),
            Err(_) => Err(miss("notice", "no notice came".to_owned())),
        };
        let (end, announced) = ended?;
        if matches!(end, End::Cut | End::Unanswered) || !(noticed || announced) {
            return Err(self.cut(end, false));
        }
        // A service that speaks nothing but WebSocket cannot be told that we understand notices: it announces by its code.
        if !noticed && notices && self.dialect == Dialect::Session {
            return Err(self.cut(end, true));
        }
        if end.code() != close_code {
            let detail = format!("closed with {} instead of {close_code}", end.code());
            return Err(miss("closeCode", detail));
        }
        self.under_order = true;
        self.restored(limit).await?;
        self.check_state(limit).await
    }
}

impl Progress {
    /// What was missing when the time was up.
    fn miss(&self, limit: Duration) -> Miss {
        let failure = self.last_failure.as_ref().map(ToString::to_string);
        let detail = failure.unwrap_or_else(|| format!("not within {} s", limit.as_secs()));
        match (&self.welcomed, self.accepted) {
            (Some(_), _) => miss("restored", "welcomed, but no answer came back".to_owned()),
            (None, true) => miss("firstMessage", Failure::Mute.to_string()),
            (None, false) => miss("connected", detail),
        }
    }
}

pub(super) fn miss(check: &'static str, detail: String) -> Miss {
    Miss { check, detail }
}
