//! The story of a release: what can be read back of it later, without any sink, bounded in size.
//!
//! - `build`: from the statuses that a release went through. Pure, and derived from facts only (transitions with their own times,
//!   counters), so that a status that is seen twice adds nothing, and a restarted operator goes on with the story it finds
//! - `read`: the same story from the audit trail
//! - `page`: as people read it

mod build;
pub mod page;
mod read;

#[cfg(test)]
pub(crate) mod tests;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::build::{Extras, wave_counts};
pub use self::read::{Read, from_records};
use crate::api::status::{PastRelease, Returned};
use crate::engine::evidence::ProbeTarget;
use crate::report::audit::By;

/// The version of the format.
pub const VERSION: u32 = 1;
/// Releases that are remembered.
pub const RELEASES: usize = 10;
/// Longest story as JSON, bytes.
pub const MAX_BYTES: usize = 32 * 1024;

/// The last releases of a rollout, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stories(pub Vec<Story>);

/// One release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// [`VERSION`].
    pub v: u32,
    /// Number of the release.
    pub number: u64,
    /// Id of the release.
    pub id: String,
    /// The revision users came from.
    pub from: String,
    /// The revision users went to.
    pub to: String,
    /// Images of the new revision; the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Weights of its steps, percent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<i32>,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended; absent while it runs, its monitoring window included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// `Completed`, `RolledBack`, `Superseded`, `Withdrawn`; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The threshold or the request that rolled it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in one sentence with its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Open sessions when it began.
    pub sessions: i64,
    /// What its waves did, all together.
    #[serde(default)]
    pub drain: WaveCounts,
    /// Milliseconds in which sessions were being moved.
    #[serde(default)]
    pub drain_ms: i64,
    /// Sessions that ended without an announcement.
    #[serde(default)]
    pub unannounced: i64,
    /// From the verdict to the weights' being back, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_to_weights_ms: Option<i64>,
    /// What became of the sessions that were moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Returned>,
    /// The phases it went through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// Phases that were left out in the middle.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub phases_omitted: u32,
    /// Verdicts, where their result or reason changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<VerdictEntry>,
    /// Waves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<WaveEntry>,
    /// Waves that were left out, the oldest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waves_omitted: u32,
    /// Probes, by target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeEntry>,
    /// Scenarios of the rehearsal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scenarios: Vec<ScenarioEntry>,
    /// What people asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<RequestEntry>,
}

/// A phase of the release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// The phase.
    pub phase: String,
    /// The step, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// When it was entered.
    pub since: Timestamp,
    /// Why, where the phase has a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictEntry {
    /// The step, from 1; absent in the rehearsal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// `Passed`, `Inconclusive`, `Breached`.
    pub result: String,
    /// The threshold.
    pub reason: String,
    /// One sentence with its numbers, the last that were seen.
    pub sentence: String,
    /// When it was this for the first time.
    pub at: Timestamp,
}

/// What a wave, or all of them, did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaveCounts {
    /// Sessions that were told.
    pub notified: i64,
    /// Sessions gone in their turn.
    pub closed_clean: i64,
    /// Sessions closed at the deadline.
    pub closed_forced: i64,
}

/// A wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaveEntry {
    /// Its id.
    pub id: String,
    /// `rollout`, `rollback`, `scaleDown`.
    pub reason: String,
    /// When it was planned.
    pub since: Timestamp,
    /// Whether it is over.
    #[serde(default)]
    pub done: bool,
    /// Its pods.
    pub pods: u32,
    /// Sessions that were to move, as far as known.
    pub sessions: i64,
    /// What all waves before it did.
    #[serde(default)]
    pub before: WaveCounts,
    /// What it did.
    pub counts: WaveCounts,
}

/// Probes of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeEntry {
    /// Which revision they aimed at.
    pub target: ProbeTarget,
    /// The beginning of the present run.
    pub since: Timestamp,
    /// Runs before it, all together.
    pub earlier: ProbeCounts,
    /// The present run.
    pub run: ProbeCounts,
    /// Median time to restored in the last run, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<u64>,
    /// 95th percentile of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<u64>,
    /// The last failure, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// What probes counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeCounts {
    /// Reconnects that ended.
    pub attempts: u64,
    /// Of them, restored.
    pub restored: u64,
    /// Of them, not restored.
    pub failed: u64,
    /// Sessions whose state was gone or differed.
    pub state_lost: u64,
    /// Closes that nothing announced.
    pub unannounced: u64,
}

/// A scenario of the rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioEntry {
    /// The rehearsal's run.
    pub run: String,
    /// Its name.
    pub scenario: String,
    /// `Passed`, `Failed`, `Skipped`.
    pub outcome: String,
    /// One sentence.
    pub sentence: String,
    /// Sessions that took part.
    pub sessions: u32,
    /// Mean time to restored, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<u64>,
    /// The mean that the service level allows, milliseconds.
    pub limit_ms: u64,
}

/// What a person asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestEntry {
    /// When it was heeded.
    pub at: Timestamp,
    /// `promote`, `pause`, `resume`, `abort`, `retry`.
    pub verb: String,
    /// Whether it was carried out.
    pub accepted: bool,
    /// What came of it.
    pub sentence: String,
    /// Who asked, as far as it can be told.
    pub by: By,
}

// === impl Story ===

impl Story {
    /// What is left of a release whose story nobody kept.
    pub fn of_past(past: &PastRelease) -> Self {
        Self {
            v: VERSION,
            number: past.number,
            to: past.revision.clone(),
            begun: past.started_at,
            ended: Some(past.ended_at),
            outcome: Some(past.result.clone()),
            message: past.message.clone(),
            drain: WaveCounts {
                closed_clean: past.moved,
                ..WaveCounts::default()
            },
            drain_ms: past.drain_ms,
            verdict_to_weights_ms: past.verdict_to_weights_ms,
            ..Self::default()
        }
    }

    /// Sessions that were moved.
    pub fn moved(&self) -> i64 {
        self.drain.closed_clean + self.drain.closed_forced
    }

    /// What makes it worth writing down: everything but progress.
    pub fn mark(&self) -> Mark {
        Mark {
            id: self.id.clone(),
            phases: self.phases.len() + self.phases_omitted as usize,
            last: self.phases.last().map(|p| (p.phase.clone(), p.since)),
            verdicts: self.verdicts.last().map(|v| v.at),
            scenarios: self.scenarios.len(),
            requests: self.requests.last().map(|r| r.at),
            ended: self.ended,
        }
    }
}

/// See [`Story::mark`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    id: String,
    phases: usize,
    last: Option<(String, Timestamp)>,
    verdicts: Option<Timestamp>,
    scenarios: usize,
    requests: Option<Timestamp>,
    ended: Option<Timestamp>,
}

// === impl Stories ===

impl Stories {
    /// A release by number.
    pub fn get(&self, number: u64) -> Option<&Story> {
        self.0.iter().find(|s| s.number == number)
    }

    /// The stories' marks, by release.
    pub fn marks(&self) -> Vec<(u64, Mark)> {
        self.0.iter().map(|s| (s.number, s.mark())).collect()
    }
}

// === impl ProbeEntry ===

impl ProbeEntry {
    /// All runs together.
    pub fn total(&self) -> ProbeCounts {
        self.earlier.plus(self.run)
    }
}

// === impl ProbeCounts ===

impl ProbeCounts {
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            attempts: self.attempts + other.attempts,
            restored: self.restored + other.restored,
            failed: self.failed + other.failed,
            state_lost: self.state_lost + other.state_lost,
            unannounced: self.unannounced + other.unannounced,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
