//! What status tells of verdicts: the evidence that counts now, the verdict, alerts, metric sources, collateral.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was decided, and on what grounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// `Passed`, `Inconclusive`, `Breached`.
    pub result: String,
    /// The threshold, as an identifier.
    pub reason: String,
    /// One sentence with its numbers.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// The evidence that counts now. An epoch begins with each step, when its sessions have moved, and after each passed verdict: fresh
/// evidence is not diluted by old. The error rate of a release is spent over its epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// Number of the epoch in this release, from 1.
    pub epoch: u32,
    /// Index of the step, from 0; the number of steps in the monitoring window.
    pub step: u32,
    /// Whether the step's sessions have moved: only then a passed verdict lets the release go on.
    #[serde(default)]
    pub settled: bool,
    /// When the epoch began.
    pub since: Timestamp,
    /// Reconnects of the probes on the new revision.
    #[serde(default)]
    pub canary: Tally,
    /// Reconnects of the probes on the old one: the control group.
    #[serde(default)]
    pub stable: Tally,
    /// Bounds of the new revision's success, in percent; absent without a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The passed verdict of this step; it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
}

/// Reconnects of an epoch, and how far the probes' own count had come when they were last taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Reconnects of this epoch.
    #[serde(default)]
    pub attempts: u64,
    /// Of them, those that restored their session.
    #[serde(default)]
    pub restored: u64,
    /// Reconnects that were set aside: our own pace was too fast for the service then.
    #[serde(default)]
    pub aside: u64,
    /// Since when the probes that count have run; another time is another run, which counts from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Timestamp>,
    /// What that run had counted in all.
    #[serde(default)]
    pub seen_attempts: u64,
    /// Of them, restored.
    #[serde(default)]
    pub seen_restored: u64,
}

/// Bounds that hold at every look, with the confidence that the spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// Lower bound, in percent.
    pub lower_percent: f64,
    /// Upper bound, in percent.
    pub upper_percent: f64,
}

/// A step's passed verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    /// One sentence with its numbers.
    pub message: String,
    /// Whether a threshold that only warns was breached.
    #[serde(default)]
    pub warned: bool,
}

/// Something that people should look at; it decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// The threshold, as an identifier.
    pub reason: String,
    /// `alert`, `critical`, or `warning` for a threshold whose action is `Warn`.
    pub level: String,
    /// One sentence with its numbers.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was last found.
    pub seen_at: Timestamp,
}

/// Users' sessions over a wave of moves, or several that followed each other closely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conserved {
    /// Sessions of users on both revisions before it.
    pub before: i64,
    /// When its last pod was done; absent while sessions are being moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<Timestamp>,
    /// Sessions on both revisions after it, when they had had time to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}

/// Sessions that were cut on a revision that nobody touched: no order, no notice, no release of its pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Collateral {
    /// When it was seen.
    pub at: Timestamp,
    /// The revision.
    pub revision: String,
    /// What was seen: a pod that is gone, a process that started anew, probes that were cut.
    pub what: String,
    /// Sessions.
    pub sessions: i64,
    /// The change that preceded it, and how long before.
    pub after: String,
}
