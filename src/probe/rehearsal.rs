//! The rehearsal: all sessions take each step together, and the first step that does not hold for all of them ends it.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{ProbeDial, ProbeJob, RehearsalJob};
use super::record::Recorder;
use super::scenario::{Step, Walk, miss};
use super::together::Goals;
use crate::engine::evidence::{RehearsalFailure, RehearsalReport, RehearsalStage};
use crate::session::{
    ConfigError, DialError, Dialect, Endpoint, Pin, Resume, Session, SessionConfig, Token, dial,
};

/// Answers other than a clear yes or no to a foreign token are asked for again this often.
const ISOLATION_TRIES: u32 = 3;

/// A rehearsal that runs, as its supervisor sees it.
#[derive(Debug, Clone)]
pub(super) struct Rehearsal {
    run: String,
    sessions: u32,
    recorder: Recorder,
    stage: Arc<Mutex<RehearsalStage>>,
}

/// All that one run needs.
pub(super) struct Play {
    job: RehearsalJob,
    dial: ProbeDial,
    config: Arc<SessionConfig>,
    view: Rehearsal,
    since: jiff::Timestamp,
}

// === impl Rehearsal ===

impl Rehearsal {
    pub(super) fn report(&self) -> RehearsalReport {
        RehearsalReport {
            run: self.run.clone(),
            stage: self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            sessions: self.sessions,
            figures: self.recorder.figures(),
            scenarios: Vec::new(),
            stable: crate::engine::evidence::ProbeFigures::default(),
        }
    }

    fn enter(&self, stage: RehearsalStage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

// === impl Play ===

impl Play {
    pub(super) fn new(job: &ProbeJob, rehearsal: &RehearsalJob) -> Result<Self, ConfigError> {
        let mut config = job.dial.config()?;
        config.endpoint = config.endpoint.connect_timeout(rehearsal.timeouts.restored);
        config.welcome_timeout = rehearsal.timeouts.restored;
        config.ordered_code = rehearsal.close_code;
        Ok(Self {
            job: rehearsal.clone(),
            dial: job.dial.clone(),
            config: Arc::new(config),
            view: Rehearsal {
                run: job.run.clone(),
                sessions: job.sessions,
                recorder: Recorder::new(job.since),
                stage: Arc::new(Mutex::new(RehearsalStage::Running)),
            },
            since: job.since,
        })
    }

    pub(super) fn view(&self) -> Rehearsal {
        self.view.clone()
    }

    /// Plays all steps; the view has the outcome, unless the run is cancelled before.
    pub(super) async fn run(self, cancelled: CancellationToken) {
        let mut walks = self.walks();
        let outcome = cancelled.run_until_cancelled(self.play(&mut walks)).await;
        match outcome {
            Some(Ok(())) => self.view.enter(RehearsalStage::Passed),
            Some(Err(failure)) => {
                tracing::info!(run = self.view.run, check = failure.check, "rehearsal failed");
                self.view.enter(RehearsalStage::Failed(failure));
            }
            None => {}
        }
        join_all(walks.into_iter().map(|walk| walk.session.shutdown())).await;
    }

    fn walks(&self) -> Vec<Walk> {
        let begins_on = self.job.stable_pin.as_ref().unwrap_or(&self.job.canary_pin);
        // What stable does is no evidence about the canary.
        let recorder = match self.job.stable_pin {
            Some(_) => Recorder::new(self.since),
            None => self.view.recorder.clone(),
        };
        (0..u64::from(self.view.sessions))
            .map(|place| {
                let session = Session::new(
                    self.config.clone(),
                    self.dial.token.clone(),
                    Some(begins_on.clone()),
                    place,
                );
                Walk::new(session, recorder.clone(), place)
            })
            .collect()
    }

    async fn play(&self, walks: &mut [Walk]) -> Result<(), RehearsalFailure> {
        let on_stable = self.job.stable_pin.is_some();
        let goals = Goals {
            timeouts: self.job.timeouts,
            close_code: self.job.close_code,
        };
        let opened = goals.all(walks, |walk| self.open(walk)).await;
        let opened = opened.map_err(|failure| {
            if on_stable {
                before_hand_over(failure)
            } else {
                failure
            }
        })?;
        if on_stable {
            for walk in &mut *walks {
                walk.recorder = self.view.recorder.clone();
            }
            let stable = opened.into_iter().next().unwrap_or_default();
            goals.all(walks, |walk| self.hand_over(walk, &stable)).await?;
        }
        self.floor()?;

        if !self.job.drains {
            return self.others_kept_out(id_of(walks)).await;
        }
        self.view.enter(RehearsalStage::AwaitingDrain);
        let deadline = Instant::now() + self.job.timeouts.drain;
        goals
            .all(walks, |walk| {
                walk.drained(
                    deadline,
                    self.job.close_code,
                    self.job.notices,
                    self.job.timeouts.restored,
                )
            })
            .await?;
        self.floor()?;
        self.others_kept_out(id_of(walks)).await
    }

    /// Nobody but its user gets at a session; where nothing is resumed there is nothing to get at.
    async fn others_kept_out(&self, session: Option<String>) -> Result<(), RehearsalFailure> {
        match session {
            Some(id) if self.dial.dialect == Dialect::Session => self.isolation(&id).await,
            _ => Ok(()),
        }
    }

    /// Opens a session, writes its state and reads it back; the revision that answered.
    async fn open(&self, walk: &mut Walk) -> Step<String> {
        let timeouts = &self.job.timeouts;
        let welcomed = walk.restored(timeouts.restored).await?;
        if self.job.stable_pin.is_none() {
            self.right_revision(&welcomed.revision)?;
        }
        walk.write(timeouts.exchange).await?;
        walk.check_state(timeouts.exchange).await?;
        Ok(welcomed.revision)
    }

    async fn hand_over(&self, walk: &mut Walk, stable: &str) -> Step {
        let timeouts = &self.job.timeouts;
        let pin = self.job.canary_pin.clone();
        let welcomed = walk.hand_over(Some(pin), timeouts.restored).await?;
        if welcomed.revision == stable && !self.unnamed(stable) {
            let detail = format!("the canary's pin led to revision {stable:?}, stable's own");
            return Err(miss("revision", detail));
        }
        self.right_revision(&welcomed.revision)?;
        walk.exchange(timeouts.exchange).await?;
        walk.check_state(timeouts.exchange).await
    }

    fn right_revision(&self, seen: &str) -> Step {
        match &self.job.canary_revision {
            Some(wanted) if wanted != seen && !self.unnamed(seen) => Err(miss(
                "revision",
                format!("revision {seen:?} answered instead of {wanted:?}"),
            )),
            _ => Ok(()),
        }
    }

    /// A service that speaks nothing but WebSocket may name no revision: then the pin has to be believed.
    fn unnamed(&self, revision: &str) -> bool {
        self.dial.dialect != Dialect::Session && revision.is_empty()
    }

    /// A service that refuses some may still let everybody in who tries again: that is no healthy service.
    fn floor(&self) -> Result<(), RehearsalFailure> {
        let figures = self.view.recorder.figures();
        let floor = self.job.success_floor_percent;
        if figures.success_percent().is_none_or(|share| share >= floor) {
            return Ok(());
        }
        let last = self.view.recorder.last_failure().unwrap_or_default();
        Err(RehearsalFailure {
            check: "connected".to_owned(),
            message: format!(
                "{} of {} connection attempts failed: {last}",
                figures.failed, figures.attempts
            ),
        })
    }

    /// Neither a forged token nor another user's may resume a session.
    async fn isolation(&self, id: &str) -> Result<(), RehearsalFailure> {
        let forged = self.dial.token.as_ref().map(Token::tampered);
        let intruders = [
            ("a forged token", forged.as_ref()),
            ("another user's token", self.dial.other_token.as_ref()),
        ];
        for (who, token) in intruders {
            let Some(token) = token else { continue };
            let pin = &self.job.canary_pin;
            if let Err(detail) = refused(&self.config.endpoint, id, token, pin).await {
                return Err(RehearsalFailure {
                    check: "isolation".to_owned(),
                    message: format!("a resume with {who} was not refused: {detail}"),
                });
            }
        }
        Ok(())
    }
}

fn id_of(walks: &[Walk]) -> Option<String> {
    Some(walks.first()?.session.id()?.to_owned())
}

fn before_hand_over(failure: RehearsalFailure) -> RehearsalFailure {
    RehearsalFailure {
        message: format!("before the hand-over, on stable: {}", failure.message),
        ..failure
    }
}

async fn refused(endpoint: &Endpoint, id: &str, token: &Token, pin: &Pin) -> Result<(), String> {
    let resume = Resume {
        session: Some((id, 0)),
        ..Resume::default()
    };
    let mut last = String::new();
    for _ in 0..ISOLATION_TRIES {
        match dial(endpoint, resume, Some(token), Some(pin)).await {
            Err(DialError::Refused(401 | 403)) => return Ok(()),
            Err(other) => last = other.failure().to_string(),
            Ok(_) => return Err("the upgrade was accepted".to_owned()),
        }
    }
    Err(last)
}
