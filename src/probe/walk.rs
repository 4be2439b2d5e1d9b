//! One probe session, walked through the steps of a scenario. Each step holds or says what was missed.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::record::{Recorder, Sample};
use super::schedule::Beat;
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

/// What tells a state from the one before; more than there are sessions.
const REWRITTEN: u64 = 1_000_000;

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
    /// The pod that welcomed it last; empty where the service names none.
    pub(super) pod: String,
    /// When it dialled, failed, was restored and was lost, for a scenario that looks at the schedule.
    beats: Option<Vec<Beat>>,
}

/// A session that is restored, with its state read.
#[derive(Debug, Clone)]
pub(super) struct Back {
    pub(super) revision: String,
    /// From the accepted upgrade until the state was there.
    pub(super) state_after: Duration,
}

/// How a service has to take its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// The code that it must close with; without one any close frame will do.
    pub code: Option<u16>,
    /// Whether a client that declared that it understands notices must get one.
    pub notices: bool,
}

/// How far a session came on its way to be restored.
#[derive(Default)]
struct Progress {
    accepted: Option<Instant>,
    welcomed: Option<Welcomed>,
    restored: Option<Restored>,
    state: Option<(Value, Instant)>,
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
            pod: String::new(),
            beats: None,
        }
    }

    /// Notes every dial from now on.
    pub(super) fn noting_beats(mut self) -> Self {
        self.beats = Some(Vec::new());
        self
    }

    /// What was noted.
    pub(super) fn beats(&self) -> &[Beat] {
        self.beats.as_deref().unwrap_or_default()
    }

    async fn next(&mut self) -> Event {
        let event = self.session.next().await;
        if let (Some(beats), Some(beat)) = (&mut self.beats, Beat::of(&event, Instant::now())) {
            beats.push(beat);
        }
        event
    }

    /// Drives the session until it is restored, and until its state was read, if `limit` allows.
    pub(super) async fn restored(&mut self, limit: Duration) -> Step<Back> {
        let mut progress = Progress::default();
        let walk = async {
            loop {
                let event = self.next().await;
                self.advance(&mut progress, event)?;
                if let (Some(welcomed), Some(_), Some((state, at))) =
                    (&progress.welcomed, &progress.restored, &progress.state)
                {
                    let back = Back {
                        revision: welcomed.revision.clone(),
                        state_after: *at - progress.accepted.unwrap_or(*at),
                    };
                    return Ok((back, state.clone()));
                }
            }
        };
        let (back, state) = match timeout_at(Instant::now() + limit, walk).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(progress.miss(limit)),
        };
        if !self.written.is_empty() {
            self.same_state(&state, limit).await?;
        }
        Ok(back)
    }

    fn advance(&mut self, progress: &mut Progress, event: Event) -> Step {
        match event {
            Event::Accepted { .. } => progress.accepted = Some(Instant::now()),
            Event::Welcomed(welcomed) => {
                if welcomed.state_lost && !self.written.is_empty() {
                    let detail = "the session was not found".to_owned();
                    return Err(self.state_lost(detail));
                }
                self.pod.clone_from(&welcomed.pod);
                progress.welcomed = Some(welcomed);
                self.session.ask_state();
            }
            Event::State { state, .. } => progress.state = Some((state, Instant::now())),
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
            Event::Gap { missing } => Err(self.state_lost(format!("{missing} messages never came"))),
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

    fn state_lost(&self, detail: String) -> Miss {
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

    /// Overwrites the state with another one, and waits for the answers.
    pub(super) async fn write_again(&mut self, limit: Duration) -> Step {
        self.mark += REWRITTEN;
        self.write(limit).await
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
                let event = self.next().await;
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
            Err(difference) => Err(self.state_lost(difference)),
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
                match self.next().await {
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
    pub(super) async fn hand_over(&mut self, pin: Option<Pin>, limit: Duration) -> Step<Back> {
        self.session.hand_off(pin);
        self.restored(limit).await
    }

    /// Is let go of: a notice, a close with the ordered code, and back with the same state. `deadline` bounds notice and
    /// close, `limit` the way back.
    pub(super) async fn let_go(&mut self, deadline: Instant, farewell: Farewell, limit: Duration) -> Step {
        let mut noticed = false;
        let walk = async {
            loop {
                match self.next().await {
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
        let closed = matches!(end, End::Closed { .. });
        match farewell.code {
            _ if !closed => return Err(self.cut(end, false)),
            Some(_) if !(noticed || announced) => return Err(self.cut(end, false)),
            // A service that speaks nothing but WebSocket cannot be told that we understand notices: it announces by its code.
            Some(_) if !noticed && farewell.notices && self.dialect == Dialect::Session => {
                return Err(self.cut(end, true));
            }
            Some(code) if end.code() != code => {
                let detail = format!("closed with {} instead of {code}", end.code());
                return Err(miss("closeCode", detail));
            }
            // Without an order any close frame is a farewell.
            Some(_) | None => {}
        }
        self.under_order = true;
        self.restored(limit).await?;
        self.check_state(limit).await
    }

    /// Stays as it is until told otherwise, or its socket ends: then how.
    pub(super) async fn watched(&mut self, enough: &CancellationToken) -> Step<Option<End>> {
        loop {
            let event = tokio::select! {
                event = self.next() => event,
                () = enough.cancelled() => return Ok(None),
            };
            match event {
                Event::Disconnected { end, .. } => return Ok(Some(end)),
                event => self.quiet(&event)?,
            }
        }
    }

    /// Stays as it is until told otherwise.
    pub(super) async fn undisturbed(&mut self, enough: &CancellationToken) -> Step {
        match self.watched(enough).await? {
            Some(end) => Err(self.cut(end, false)),
            None => Ok(()),
        }
    }

    /// Loses its socket within `limit`, whoever ends it.
    pub(super) async fn lost(&mut self, limit: Duration) -> Step {
        let never = CancellationToken::new();
        match timeout_at(Instant::now() + limit, self.watched(&never)).await {
            Ok(outcome) => outcome.map(|_| ()),
            Err(_) => Err(miss("crashed", "its socket outlived the pod".to_owned())),
        }
    }

    /// Lives on undisturbed for so long.
    pub(super) async fn lives(&mut self, time: Duration) -> Step {
        let never = CancellationToken::new();
        match timeout_at(Instant::now() + time, self.watched(&never)).await {
            Ok(Ok(Some(end))) => Err(self.cut(end, false)),
            Ok(outcome) => outcome.map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    /// The network cuts its socket, as far as the client can tell; what it dials from now on has this pin.
    pub(super) async fn cut_off(&mut self, pin: Option<Pin>) {
        self.session.lead(pin);
        self.session.cut();
        while self.session.is_up() || !matches!(self.next().await, Event::Disconnected { .. }) {}
    }

    /// Is refused so often. Who is let in is no refused session.
    pub(super) async fn refused(&mut self, times: u32, limit: Duration) -> Step {
        let walk = async {
            let mut refused = 0;
            while refused < times {
                match self.next().await {
                    Event::AttemptFailed(_) => refused += 1,
                    Event::Welcomed(_) => {
                        let detail = "a connect that was to be refused was let in".to_owned();
                        return Err(miss("refused", detail));
                    }
                    Event::GaveUp => return Err(miss("attempts", "it gave up too early".to_owned())),
                    _ => {}
                }
            }
            Ok(())
        };
        match timeout_at(Instant::now() + limit, walk).await {
            Ok(outcome) => outcome,
            Err(_) => Err(miss("schedule", format!("fewer than {times} attempts"))),
        }
    }
}

impl Progress {
    /// What was missing when the time was up.
    fn miss(&self, limit: Duration) -> Miss {
        let failure = self.last_failure.as_ref().map(ToString::to_string);
        let detail = failure.unwrap_or_else(|| format!("not within {} s", limit.as_secs()));
        match (&self.welcomed, self.accepted.is_some()) {
            (Some(_), _) => miss("restored", "welcomed, but no answer came back".to_owned()),
            (None, true) => miss("firstMessage", Failure::Mute.to_string()),
            (None, false) => miss("connected", detail),
        }
    }
}

pub(super) fn miss(check: &'static str, detail: String) -> Miss {
    Miss { check, detail }
}
