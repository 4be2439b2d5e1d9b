//! What status tells of moving sessions: waves, their pace, windows, and what became of everybody who was moved.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sessions moved in this release.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// Number of the wave.
    pub wave: u32,
    /// Sessions that are to be moved by the waves so far.
    pub total: i64,
    /// Sessions that were told.
    pub notified: i64,
    /// Sessions that left with the ordered close code, or by themselves after the notice.
    pub closed_clean: i64,
    /// Sessions that were closed at a deadline.
    pub closed_forced: i64,
    /// Sessions per second that are asked to move now.
    pub rate: f64,
    /// Seconds of moving that are left in this release at the present pace; pauses are not in it. Absent where sessions leave by
    /// themselves, or by their pod's SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Milliseconds in which waves were under way, from first order to last empty pod.
    #[serde(default)]
    pub active_ms: i64,
    /// What reconnects are seen to bear; absent where the budget is not adaptive, or nobody was moved yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// What became of the sessions that were moved; absent where the pods do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Returned>,
}

/// The adaptive part of a budget: additive increase, multiplicative decrease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pace {
    /// Sessions per second that reconnects are seen to bear now, at most the budget.
    pub limit: f64,
    /// Why it is below the budget, in one sentence with its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was last lowered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowered_at: Option<Timestamp>,
    /// When it was last changed, or could not grow.
    pub changed_at: Timestamp,
    /// The pods' counters at the last look.
    #[serde(default)]
    pub seen: PaceSeen,
}

/// Sums over the pods that sessions are moved to, to tell what grew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaceSeen {
    /// When they were read.
    pub at: Timestamp,
    /// The revision that sessions are moved to.
    #[serde(default)]
    pub target: String,
    /// Connections that the pods refused.
    #[serde(default)]
    pub refused: i64,
    /// Sessions that were resumed.
    #[serde(default)]
    pub resumed: i64,
    /// Resumes that failed.
    #[serde(default)]
    pub resume_failed: i64,
}

/// What became of moved sessions, by the pods' own account: identities are matched as keyed hashes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Returned {
    /// Moved sessions whose return is followed.
    pub moved: i64,
    /// Of them, those that came back.
    pub back: i64,
    /// Of those, on the revision they were moved to.
    pub on_target: i64,
    /// Of those, on the wrong revision: left for the final wave instead of being moved twice.
    pub strays: i64,
    /// Of those that came back, with their state, as far as the pods tell.
    pub resumed: i64,
    /// Of those that came back, without their state.
    pub not_resumed: i64,
    /// Not back within `thresholds.usersReturn.within`.
    pub missing: i64,
    /// Closed at once because their client had been silent; outside of the rate.
    pub dormant: i64,
    /// Median time from the release to the return, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<i64>,
    /// 95th percentile of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<i64>,
    /// Share of sessions that leave the old revision by themselves and come back in the same time, in percent: what moved ones are judged against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub natural_percent: Option<f64>,
    /// Share of the sessions that is followed, in percent; below 100 the counts above are of a sample.
    #[serde(default = "whole")]
    pub sampled_percent: f64,
    /// Events that pods dropped before they were read.
    #[serde(default)]
    pub lost_events: i64,
}

/// A revision that is no part of a release any more and still holds sessions that nobody may cut (`drain.mode: Leave`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Leaving {
    /// Hash of the revision.
    pub revision: String,
    /// Since when its sessions are waited for.
    pub since: Timestamp,
    /// Time that its sessions have been waited for under an operator, milliseconds: the deadline counts by it.
    #[serde(default)]
    pub elapsed_ms: i64,
    /// When `elapsedMs` was last added to.
    pub ticked_at: Timestamp,
    /// Open sessions on the pods that answer.
    #[serde(default)]
    pub sessions: i64,
    /// Pods whose sessions are not known.
    #[serde(default)]
    pub unknown: i32,
    /// Age of the oldest session, seconds, where the pods tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<i64>,
}

/// An open window: while a wave's clients come back, the new revision gets every new connection. Written before it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The step's weight, which comes back when it closes.
    pub weight: i32,
    /// When it was asked to be opened.
    pub since: Timestamp,
    /// When the gateway was seen to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_since: Option<Timestamp>,
    /// When it is closed at the latest.
    pub until: Timestamp,
}

/// Pods whose sessions are being moved together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    /// Begins every order's id; the pod's UID ends it.
    pub id: String,
    /// Why.
    pub reason: WaveReason,
    /// The revision whose pods these are.
    pub revision: String,
    /// When it was planned.
    pub since: Timestamp,
    /// When its first order was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered_at: Option<Timestamp>,
    /// Time that this wave has run under an operator, in milliseconds: deadlines count by it, so that they stand still while no operator is there.
    #[serde(default)]
    pub elapsed_ms: i64,
    /// When `elapsedMs` was last added to.
    pub ticked_at: Timestamp,
    /// Whether it moves in a window.
    #[serde(default)]
    pub windowed: bool,
    /// The window in which its clients come back, while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// For a pod that went by SIGTERM: since when the sessions on the other pods stand still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settling: Option<Settling>,
    /// Whether the pods leave rotation first; not so where the whole revision has weight 0.
    pub leave_rotation: bool,
    /// The pods.
    #[schemars(length(max = 64))]
    pub pods: Vec<WavePod>,
}

/// Sessions on the pods that a wave's clients come back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settling {
    /// How many there are, as far as known.
    pub sessions: i64,
    /// Since when they have been about as many.
    pub since: Timestamp,
}

/// Why a wave is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum WaveReason {
    /// To the new revision.
    Rollout,
    /// Back to the old one.
    Rollback,
    /// Fewer replicas.
    ScaleDown,
}

/// A pod of a wave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WavePod {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Open sessions when it was chosen; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
    /// Only so many sessions are asked to move; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// When it was seen out of rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_at: Option<Timestamp>,
    /// The wave's `elapsedMs` when its first order was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered_ms: Option<i64>,
    /// The wave's `elapsedMs` when the lease of its last order ends: until then it may be at work, whether it answers or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased_ms: Option<i64>,
    /// The greatest rate that it may work at until then, sessions per second: its share of the budget while it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased_rate: Option<f64>,
    /// When its sessions were gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<Timestamp>,
    /// Sessions that it says it has told.
    #[serde(default)]
    pub notified: i64,
    /// Sessions that it says have left in their turn.
    #[serde(default)]
    pub closed_clean: i64,
    /// Sessions that it says it has closed at the deadline.
    #[serde(default)]
    pub closed_forced: i64,
}

fn whole() -> f64 {
    100.0
}
