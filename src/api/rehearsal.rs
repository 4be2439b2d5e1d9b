//! `spec.rehearsal`: the scenarios that probes play at weight 0, before any user meets a new revision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Span;

/// The rehearsal at weight 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsal {
    /// Whether a failed rehearsal stops the release.
    #[serde(default)]
    pub policy: RehearsalPolicy,
    /// The scenarios that are played, in this order; each is reported by name.
    #[serde(default = "default_scenarios")]
    #[schemars(length(min = 1, max = 5))]
    pub scenarios: Vec<Scenario>,
    /// How many probe sessions take part; absent: `probes.sessions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub sessions: Option<u32>,
    /// How long one step of the rehearsal may take: open, first message, restore, notice.
    #[serde(default = "default_rehearsal_timeout")]
    pub timeout: Span,
}

/// One of the five things that happen to every session sooner or later.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
)]
pub enum Scenario {
    /// A rolling deployment hands sessions over from the old revision to the new one: back within 5 s on average.
    HandOff,
    /// Conversation history, agent context, tool states and user preferences are the same after a move, restored within 2 s, and nobody else sees them.
    StatePreservation,
    /// A drain with notice: told, closed in turn with the ordered code, back within 10 s.
    GracefulShutdown,
    /// A pod that carries only probe sessions is killed: its sessions are back within 30 s.
    Crash,
    /// Refused connects: attempts follow the schedule with jitter, stay within the budget, and are at most 20.
    BackOff,
}

/// Whether a failed rehearsal stops the release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RehearsalPolicy {
    /// It does: the revision is rejected and no user meets it.
    #[default]
    Required,
    /// It is reported as a warning, and the release goes on.
    Advisory,
}

/// What became of the last rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalStatus {
    /// The revision that was rehearsed.
    pub revision: String,
    /// The scenarios that were begun, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub scenarios: Vec<ScenarioStatus>,
}

/// One scenario with its figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioStatus {
    /// Which one.
    pub name: Scenario,
    /// How it ended.
    pub outcome: ScenarioResult,
    /// One sentence with its numbers: what was shown, what did not hold, or why it was not played.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Probe sessions that took part.
    pub sessions: i64,
    /// Reconnects, failed attempts included.
    pub attempts: i64,
    /// Of them, those after which the session was restored.
    pub restored: i64,
    /// Median time from the first dial to restored, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<i64>,
    /// 95th percentile of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<i64>,
    /// What its service level limits, on average: for `StatePreservation` the time until the state was read, for all others that to restored; in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<i64>,
    /// The average that its service level allows, in milliseconds.
    pub limit_ms: i64,
}

/// How a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display)]
pub enum ScenarioResult {
    /// It is being played.
    Running,
    /// Every check held.
    Passed,
    /// A check did not hold.
    Failed,
    /// It could not be played here; that is no failure.
    Skipped,
}

fn default_scenarios() -> Vec<Scenario> {
    Scenario::ALL.to_vec()
}

const fn default_rehearsal_timeout() -> Span {
    Span::secs(10)
}

impl Default for Rehearsal {
    fn default() -> Self {
        Self {
            policy: RehearsalPolicy::default(),
            scenarios: default_scenarios(),
            sessions: None,
            timeout: default_rehearsal_timeout(),
        }
    }
}

// === impl Scenario ===

impl Scenario {
    /// All of them, in the order in which a rehearsal plays them.
    pub const ALL: [Self; 5] = [
        Self::HandOff,
        Self::StatePreservation,
        Self::GracefulShutdown,
        Self::Crash,
        Self::BackOff,
    ];
}
