//! What the probes saw, as data: the engine judges it, the `probe` room gathers it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// Every check held.
    Passed,
    /// A check failed.
    Failed(RehearsalFailure),
}

/// The first check of a rehearsal that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalFailure {
    /// Name of the check: `connected`, `firstMessage`, `restored`, `stateEqual`, `revision`, `notice`, `closeCode`, `isolation`, `unannounced`.
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
    /// Reconnect figures so far (hand-off and drain together).
    pub figures: ProbeFigures,
}
