//! What a rehearsal shows while it runs: its stage, and a line for every scenario that was begun.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::record::Recorder;
use crate::api::spec::Scenario;
use crate::engine::evidence::{ProbeFigures, RehearsalStage, ScenarioOutcome, ScenarioReport};

/// Shared by the one who plays and those who look.
#[derive(Debug, Clone)]
pub struct Board {
    whole: Recorder,
    stable: Recorder,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug)]
struct Told {
    stage: RehearsalStage,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    scenario: Scenario,
    sessions: u32,
    recorder: Recorder,
    /// Where it is not the time to the restored session that is limited.
    mean: Option<Duration>,
    outcome: Option<ScenarioOutcome>,
}

// === impl Board ===

impl Board {
    /// An empty one.
    pub fn new(since: Timestamp) -> Self {
        Self {
            whole: Recorder::new(since),
            stable: Recorder::new(since),
            told: Arc::new(Mutex::new(Told {
                stage: RehearsalStage::Running,
                entries: Vec::new(),
            })),
        }
    }

    /// All scenarios together, without what happened on stable.
    pub(super) fn whole(&self) -> &Recorder {
        &self.whole
    }

    /// Forced reconnects on stable.
    pub(super) fn stable(&self) -> &Recorder {
        &self.stable
    }

    pub(super) fn begin(&self, scenario: Scenario, sessions: u32) -> Recorder {
        let recorder = self.whole.part();
        self.lock().entries.push(Entry {
            scenario,
            sessions,
            recorder: recorder.clone(),
            mean: None,
            outcome: None,
        });
        recorder
    }

    pub(super) fn end(&self, outcome: ScenarioOutcome, mean: Option<Duration>) {
        if let Some(entry) = self.lock().entries.last_mut() {
            (entry.outcome, entry.mean) = (Some(outcome), mean);
        }
    }

    pub(super) fn enter(&self, stage: RehearsalStage) {
        self.lock().stage = stage;
    }

    pub(super) fn stage(&self) -> RehearsalStage {
        self.lock().stage.clone()
    }

    /// Figures of all scenarios together, and of the forced reconnects on stable.
    pub fn figures(&self) -> (ProbeFigures, ProbeFigures) {
        (self.whole.figures(), self.stable.figures())
    }

    /// The scenarios that were begun, in their order.
    pub fn scenarios(&self) -> Vec<ScenarioReport> {
        self.lock().entries.iter().map(Entry::report).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn report(&self) -> ScenarioReport {
        let mean = self.mean.or_else(|| self.recorder.mean());
        ScenarioReport {
            scenario: self.scenario,
            outcome: self.outcome.clone(),
            sessions: self.sessions,
            figures: self.recorder.figures(),
            mean_ms: mean.map(millis),
            limit_ms: millis(limit(self.scenario)),
        }
    }
}

/// The mean that the service level of a scenario allows: for state from the accepted upgrade until it was read, for all others from
/// the first dial until the session is restored.
pub fn limit(scenario: Scenario) -> Duration {
    Duration::from_secs(match scenario {
        Scenario::HandOff => 5,
        Scenario::StatePreservation => 2,
        Scenario::GracefulShutdown => 10,
        Scenario::Crash | Scenario::BackOff => 30,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
