//! The five scenarios. Each plays with sessions of its own, opened for it on the version under test, so that none depends on what
//! another one left behind; what they cannot do themselves a [`Stage`] does for them.

mod back_off;
mod crash;
mod graceful;
mod hand_off;
mod state;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::board::{Board, limit};
use super::job::{ProbeDial, RehearsalTimeouts};
use super::record::Recorder;
use super::stage::{Declined, Stage, Way};
use super::together::Goals;
use super::walk::{Back, Step, Walk, miss};
use crate::api::spec::Scenario;
use crate::engine::evidence::{RehearsalFailure, ScenarioOutcome};
use crate::session::{ConfigError, Dialect, Session, SessionConfig, Token};

/// What all scenarios of a run share.
#[derive(Debug, Clone)]
pub struct Setting {
    /// How sessions behave, and where they dial.
    pub config: Arc<SessionConfig>,
    /// The token of the probes' user.
    pub token: Option<Token>,
    /// The token of somebody else.
    pub other_token: Option<Token>,
    /// Sessions per scenario.
    pub sessions: u32,
    /// Bounds.
    pub timeouts: RehearsalTimeouts,
    /// The code that an ordered drain closes with.
    pub close_code: u16,
    /// Least share of connection attempts that must succeed, in percent.
    pub success_floor_percent: f64,
    /// The revision that must answer, where the service tells its revision.
    pub canary_revision: Option<String>,
    /// Whether old and new are two revisions; two instances of one version are not.
    pub two_revisions: bool,
    /// Reconnects in a second that the service can bear.
    pub connects_per_second: u32,
    /// Whether the first scenario that fails is the last one played.
    pub stop_at_failure: bool,
}

/// How a scenario ended that was not passed.
enum Ending {
    Failed(RehearsalFailure),
    Skipped(String),
}

type Played<T = String> = Result<T, Ending>;

/// One scenario being played.
struct Scene<'a, S> {
    set: &'a Setting,
    stage: &'a S,
    board: &'a Board,
    sessions: u32,
    /// The reconnects of this scenario alone.
    recorder: Recorder,
    goals: Goals,
}

/// What passed, and the mean that its service level limits where that is not the recorder's.
struct Passed {
    message: String,
    mean: Option<Duration>,
}

/// Plays the scenarios one after the other; the board has what came of them. The first failure, if there was one.
///
/// `walks` are the sessions that are open when this is dropped in the middle; they are the caller's to close.
pub(super) async fn play(
    set: &Setting,
    scenarios: &[Scenario],
    stage: &impl Stage,
    board: &Board,
    walks: &mut Vec<Walk>,
) -> Option<RehearsalFailure> {
    let mut first = None;
    for &scenario in scenarios {
        stage.calm().await;
        let sessions = set.sessions_of(scenario);
        let scene = Scene {
            set,
            stage,
            board,
            sessions,
            recorder: board.begin(scenario, sessions),
            goals: Goals {
                timeouts: set.timeouts,
                close_code: set.close_code,
            },
        };
        let played = Box::pin(scene.play(scenario, walks)).await;
        let (outcome, mean) = scene.outcome(scenario, played);
        tracing::debug!(scenario = %scenario, ?outcome, "scenario played");
        let failure = match &outcome {
            ScenarioOutcome::Failed(failure) => Some(failure.clone()),
            ScenarioOutcome::Passed { .. } | ScenarioOutcome::Skipped { .. } => None,
        };
        board.end(outcome, mean);
        dismiss(walks).await;
        if let Some(failure) = failure {
            first.get_or_insert(RehearsalFailure {
                message: format!("{scenario}: {}", failure.message),
                ..failure
            });
            if set.stop_at_failure {
                break;
            }
        }
    }
    first
}

/// Plays the scenarios on a stage of the caller's, until `cancelled`; the board has what came of them. The first failure, if there
/// was one.
pub async fn rehearse(
    set: &Setting,
    scenarios: &[Scenario],
    stage: &impl Stage,
    board: &Board,
    cancelled: &CancellationToken,
) -> Option<RehearsalFailure> {
    let mut walks = Vec::new();
    let play = play(set, scenarios, stage, board, &mut walks);
    let failure = cancelled.run_until_cancelled(play).await;
    dismiss(&mut walks).await;
    failure.flatten()
}

/// Closes all sessions.
pub(super) async fn dismiss(walks: &mut Vec<Walk>) {
    join_all(walks.drain(..).map(|walk| walk.session.shutdown())).await;
}

// === impl Setting ===

impl Setting {
    /// A setting in which every scenario is played, whatever came of the one before: twenty sessions, nine attempts in ten must
    /// succeed, no names of revisions are looked at.
    pub fn new(dial: &ProbeDial, timeouts: RehearsalTimeouts) -> Result<Self, ConfigError> {
        let mut config = dial.config("rehearsal")?;
        config.endpoint = config.endpoint.connect_timeout(timeouts.restored);
        config.welcome_timeout = timeouts.restored;
        Ok(Self {
            close_code: config.ordered_code,
            config: Arc::new(config),
            token: dial.token.clone(),
            other_token: dial.other_token.clone(),
            sessions: 20,
            timeouts,
            success_floor_percent: 90.0,
            canary_revision: None,
            two_revisions: false,
            connects_per_second: 50,
            stop_at_failure: false,
        })
    }

    /// Sessions that take part.
    fn sessions_of(&self, scenario: Scenario) -> u32 {
        match scenario {
            // Two dials in a second are the most that one session's schedule has.
            Scenario::BackOff => self.sessions.min(self.connects_per_second / 2).max(1),
            _ => self.sessions,
        }
    }

    fn right_revision(&self, seen: &str) -> Step {
        match &self.canary_revision {
            Some(wanted) if wanted != seen && !self.unnamed(seen) => Err(miss(
                "revision",
                format!("revision {seen:?} answered instead of {wanted:?}"),
            )),
            _ => Ok(()),
        }
    }

    /// A service that speaks nothing but WebSocket may name no revision: then the pin has to be believed.
    fn unnamed(&self, revision: &str) -> bool {
        self.config.dialect != Dialect::Session && revision.is_empty()
    }
}

// === impl Scene ===

impl<S: Stage> Scene<'_, S> {
    async fn play(&self, scenario: Scenario, walks: &mut Vec<Walk>) -> Played<Passed> {
        match scenario {
            Scenario::HandOff => self.hand_off(walks).await.map(Passed::from),
            Scenario::StatePreservation => self.state_preservation(walks).await,
            Scenario::GracefulShutdown => self.graceful_shutdown(walks).await.map(Passed::from),
            Scenario::Crash => self.crash(walks).await.map(Passed::from),
            Scenario::BackOff => self.back_off(walks).await.map(Passed::from),
        }
    }

    /// A mean above the limit of the service level is a failure, whatever else held.
    fn outcome(&self, scenario: Scenario, played: Played<Passed>) -> (ScenarioOutcome, Option<Duration>) {
        let passed = match played {
            Ok(passed) => passed,
            Err(Ending::Failed(failure)) => return (ScenarioOutcome::Failed(failure), None),
            Err(Ending::Skipped(reason)) => return (ScenarioOutcome::Skipped { reason }, None),
        };
        let (mean, limit) = (passed.mean.or_else(|| self.recorder.mean()), limit(scenario));
        let Some(mean) = mean else {
            let reason = "no session had to come back".to_owned();
            return (ScenarioOutcome::Skipped { reason }, None);
        };
        let times = format!(
            "{} ms on average, {} s are allowed",
            mean.as_millis(),
            limit.as_secs()
        );
        if mean >= limit {
            let failure = RehearsalFailure {
                check: "inTime".to_owned(),
                message: format!("sessions took {times}"),
            };
            return (ScenarioOutcome::Failed(failure), passed.mean);
        }
        let message = format!("{}: {times}", passed.message);
        (ScenarioOutcome::Passed { message }, passed.mean)
    }

    /// Opens the scenario's sessions, writes their state and reads it back.
    async fn opened(&self, walks: &mut Vec<Walk>, way: Way) -> Played<Vec<Back>> {
        self.opened_with(walks, way, |walk| walk).await
    }

    async fn opened_with(
        &self,
        walks: &mut Vec<Walk>,
        way: Way,
        with: impl Fn(Walk) -> Walk,
    ) -> Played<Vec<Back>> {
        let pin = self.stage.lead(way).await?;
        // What stable does is no evidence about the version under test.
        let opening = match way {
            Way::Old => Recorder::new(jiff::Timestamp::UNIX_EPOCH),
            Way::New | Way::Nobody => self.board.whole().part(),
        };
        walks.extend((0..u64::from(self.sessions)).map(|place| {
            let (config, token) = (self.set.config.clone(), self.set.token.clone());
            let session = Session::new(config, token, pin.clone(), place);
            with(Walk::new(session, opening.clone(), place))
        }));
        let backs = self.goals.all(walks, |walk| self.open(walk, way)).await;
        let backs = backs.map_err(|failure| match way {
            Way::Old => before(failure),
            Way::New | Way::Nobody => failure,
        })?;
        self.floor(&opening)?;
        for walk in &mut *walks {
            walk.recorder = self.recorder.clone();
        }
        Ok(backs)
    }

    async fn open(&self, walk: &mut Walk, way: Way) -> Step<Back> {
        let timeouts = self.set.timeouts;
        let back = walk.restored(timeouts.restored).await?;
        if way == Way::New {
            self.set.right_revision(&back.revision)?;
        }
        walk.write(timeouts.exchange).await?;
        walk.check_state(timeouts.exchange).await?;
        Ok(back)
    }

    /// A service that refuses some may still let everybody in who tries again: that is no healthy service.
    fn floor(&self, recorder: &Recorder) -> Played<()> {
        let figures = recorder.figures();
        let floor = self.set.success_floor_percent;
        if figures.success_percent().is_none_or(|share| share >= floor) {
            return Ok(());
        }
        let last = recorder.last_failure().unwrap_or_default();
        Err(Ending::Failed(RehearsalFailure {
            check: "connected".to_owned(),
            message: format!(
                "{} of {} connection attempts failed: {last}",
                figures.failed, figures.attempts
            ),
        }))
    }
}

/// Drives sessions while an act is on its way. An act that is declined ends the scenario; one that was done leaves the word to
/// the sessions.
async fn during<T>(
    act: impl Future<Output = Result<(), Declined>>,
    sessions: impl Future<Output = Result<T, RehearsalFailure>>,
) -> Played<T> {
    let (mut act, mut sessions) = (pin!(act), pin!(sessions));
    tokio::select! {
        done = &mut act => done?,
        outcome = &mut sessions => return Ok(outcome?),
    }
    Ok(sessions.await?)
}

fn before(failure: RehearsalFailure) -> RehearsalFailure {
    RehearsalFailure {
        message: format!("before the hand-over, on stable: {}", failure.message),
        ..failure
    }
}

impl From<RehearsalFailure> for Ending {
    fn from(failure: RehearsalFailure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Declined> for Ending {
    fn from(Declined(reason): Declined) -> Self {
        Self::Skipped(reason)
    }
}

impl From<String> for Passed {
    fn from(message: String) -> Self {
        Self { message, mean: None }
    }
}
