//! What the probes saw, as data: the engine judges it, the `probe` room gathers it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::spec::Scenario;

/// The time that [`ProbeEvidence::recent`] covers.
pub const RECENT: std::time::Duration = std::time::Duration::from_secs(10);

/// The revision a probe is pinned to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, strum::Display,
)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum ProbeTarget {
    /// The revision that users are on: the control group.
    Stable,
    /// The revision under test.
    Canary,
}

/// What a fleet of probe sessions, pinned to one revision, saw since its run began. Counts never decrease within a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeEvidence {
    /// The revision role the sessions are pinned to.
    pub target: ProbeTarget,
    /// When this run of the fleet began.
    pub since: Timestamp,
    /// Probe sessions that are open and restored now.
    pub open: u32,
    /// Figures of the whole run.
    pub total: ProbeFigures,
    /// Figures of the last `window` (as asked for in the job).
    pub window: ProbeFigures,
    /// Figures of the last [`RECENT`]: what the pace of a drain goes by.
    #[serde(default)]
    pub recent: ProbeFigures,
    /// Failed reconnects in a row, over all sessions of this target, until now.
    pub failures_in_a_row: u32,
    /// The last failure in one sentence; holds no token and no payload.
    pub last_failure: Option<String>,
    /// Restored reconnects by the pod that welcomed them; empty where the service names no pods.
    #[serde(default)]
    pub pods: BTreeMap<String, u64>,
}

/// Counted reconnects and their times. A reconnect counts as restored when the session is restored and the first message has come back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeFigures {
    /// Reconnects that ended: restored or failed.
    pub attempts: u64,
    /// Reconnects that ended with the session restored and a first message back.
    pub restored: u64,
    /// Reconnects that ended otherwise, health checks (a message without an answer in time) included.
    pub failed: u64,
    /// Sessions whose state was gone or differed, confirmed by a second reading.
    pub state_lost: u64,
    /// Closes that nothing announced.
    pub unannounced: u64,
    /// Median time from the first dial to restored, in milliseconds, without planned waits.
    pub restored_p50_ms: Option<u64>,
    /// 95th percentile of the same, in milliseconds.
    pub restored_p95_ms: Option<u64>,
}

impl ProbeFigures {
    /// Share of reconnects that were restored, in percent; `None` without a sample: no data is not a success.
    pub fn success_percent(&self) -> Option<f64> {
        (self.attempts > 0).then(|| self.restored as f64 * 100.0 / self.attempts as f64)
    }
}

/// How far a rehearsal is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RehearsalStage {
    /// Sessions are opening on stable, handing over to the canary and exchanging messages.
    Running,
    /// Every session is restored on the canary and waits to be drained: the operator orders it.
    AwaitingDrain,
    /// Every session is restored on the canary and waits for a crash: the operator kills one pod that carries only probe sessions.
    AwaitingCrash(RehearsalPods),
    /// Every check held.
    Passed,
    /// A check failed.
    Failed(RehearsalFailure),
}

/// Where the sessions of a rehearsal are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalPods {
    /// Probe sessions by the name of the pod that welcomed them; empty where the service names no pods.
    pub pods: BTreeMap<String, u32>,
}

/// What the operator has done for a rehearsal until now; the probes are told with every round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RehearsalActs {
    /// Whether the pods of the revision are under the rehearsal's order to drain.
    pub draining: bool,
    /// The pod that was killed.
    pub crashed: Option<String>,
    /// Why what is waited for was not done yet, in one sentence.
    pub hindrance: Option<String>,
    /// Open sessions by the name of the pod that reports them; pods that report none are not in it.
    pub open: BTreeMap<String, u64>,
}

/// What became of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioReport {
    /// The scenario.
    pub scenario: Scenario,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<ScenarioOutcome>,
    /// Sessions that took part.
    pub sessions: u32,
    /// Reconnects of this scenario alone.
    pub figures: ProbeFigures,
    /// Mean time from the first dial to restored, in milliseconds, without planned waits; absent without a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<u64>,
    /// The mean that the service level allows, in milliseconds.
    pub limit_ms: u64,
}

/// How a scenario ended. Each variant carries data, so that it reads the same in every language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScenarioOutcome {
    /// Every check held.
    Passed {
        /// One sentence with its numbers.
        message: String,
    },
    /// A check did not hold.
    Failed(RehearsalFailure),
    /// It could not be played here.
    Skipped {
        /// One sentence that says why.
        reason: String,
    },
}

/// The first check of a rehearsal that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalFailure {
    /// Name of the check: `connected`, `firstMessage`, `restored`, `stateEqual`, `revision`, `notice`, `closeCode`, `isolation`, `unannounced`, `openCount`, `crashed`,
    /// `refused`, `schedule`, `attempts`, `jitter`, `budget`, `inTime`.
    pub check: String,
    /// One sentence with its numbers; holds no token and no payload.
    pub message: String,
}

/// A rehearsal as seen now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalReport {
    /// The run this belongs to; a report of another run is ignored.
    pub run: String,
    /// How far it is.
    pub stage: RehearsalStage,
    /// Probe sessions that take part.
    pub sessions: u32,
    /// Reconnect figures so far, of all scenarios together.
    pub figures: ProbeFigures,
    /// The scenarios that were begun, in their order.
    #[serde(default)]
    pub scenarios: Vec<ScenarioReport>,
    /// Forced reconnects on stable, taken just before the hand-over: the baseline of reconnect times.
    #[serde(default)]
    pub stable: ProbeFigures,
}
