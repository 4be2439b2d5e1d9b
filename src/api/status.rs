//! What the operator reports. Status that names an act is written before the act, so every phase can be re-entered from it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::moving::{
    DrainStatus, Leaving, Pace, PaceSeen, Returned, Settling, Wave, WavePod, WaveReason, Window,
};
pub use super::rehearsal::{RehearsalStatus, ScenarioResult, ScenarioStatus};
use super::spec::{Drain, Rollback, Step, Thresholds, Via};
pub use super::verdict::{Alert, Collateral, Conserved, Interval, Passed, Tally, Trial, Verdict};

/// Where a rollout is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The phase in one word, for people, columns and `kubectl wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The phase with its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The current step as people count: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The revision that users are on outside a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// The release that is under way, or in its monitoring window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// The number of the last release.
    #[serde(default)]
    pub releases: u64,
    /// Every revision that has pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub revisions: Vec<RevisionStatus>,
    /// Weight of the new revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
    /// Open sessions that the pods report, probes included; pods that do not answer are not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
    /// Sessions of users on the new revision, of those on both: `250/1000`. Probes are not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<String>,
    /// Sessions that ended in this release without an announcement: on pods that vanished or restarted, and probes that were cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unannounced: Option<i64>,
    /// The moves of this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
    /// The wave that is under way: named here before its first order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Wave>,
    /// Revisions whose last sessions nobody may cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub leaving: Vec<Leaving>,
    /// What became of the last rehearsal, scenario by scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<RehearsalStatus>,
    /// The last verdict, in one sentence with its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What people should look at now; nothing of it decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub alerts: Vec<Alert>,
    /// Sessions that were cut on a revision that nobody touched, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub collateral: Vec<Collateral>,
    /// A template that failed; it is not tried again until it changes, or `retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// The last releases, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<PastRelease>,
    /// The last request (promote, abort …) and what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request: Option<RequestResult>,
    /// Pods of the scale subresource.
    #[serde(default)]
    pub replicas: i32,
    /// Ready pods.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the pods in rotation, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Conditions after kstatus: `Ready`, `Reconciling`, `Stalled`, and `ProbesReady`, `Rehearsed`, `Drained`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// The phase of a rollout with its data. `since` is when the phase was entered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// The first revision is being created.
    Initializing(Since),
    /// Users are on the stable revision; nothing is to do.
    Healthy(Since),
    /// A new template was seen; everything it needs is checked before anything moves.
    Preflight(Since),
    /// Pods of the new revision are becoming ready.
    Surging(AtStep),
    /// Probes play against the new revision at weight 0.
    Rehearsing(Rehearsing),
    /// A weight is being written and programmed.
    Shifting(AtStep),
    /// Live sessions are being moved.
    Moving(AtStep),
    /// The step is being watched.
    Analysing(AtStep),
    /// The release stands still.
    Paused(Paused),
    /// The last verdict is passed; the old revision's empty pods go.
    Finishing(Since),
    /// The release is done; the monitoring window runs.
    Soaking(Soaking),
    /// Weights first, then capacity, then the sessions go back.
    RollingBack(RollingBack),
    /// The old revision serves; the new one is rejected.
    RolledBack(RolledBack),
}

/// A phase without a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Since {
    /// When it was entered.
    pub since: Timestamp,
}

/// A phase at a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AtStep {
    /// Index of the step, from 0.
    pub step: u32,
    /// When the phase was entered.
    pub since: Timestamp,
}

/// The rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsing {
    /// When it was entered.
    pub since: Timestamp,
    /// Grows when a rehearsal has to begin again, for instance after the operator was restarted.
    pub attempt: u32,
    /// Whether the new revision's pods, which only probes are on, are asked to drain.
    pub draining: bool,
    /// Whether they were asked in this attempt.
    #[serde(default)]
    pub drained: bool,
    /// The pod, which only probes are on, that is killed: named here before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<CrashedPod>,
}

/// A pod that a rehearsal kills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CrashedPod {
    /// Its name.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Its UID: no other pod is killed in its place.
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    /// When it began.
    pub since: Timestamp,
    /// Index of the step at which it stands, from 0.
    pub step: u32,
    /// Why.
    pub reason: PauseReason,
    /// Why, in one sentence.
    pub message: String,
}

/// Why a release stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
pub enum PauseReason {
    /// A person said so.
    Requested,
    /// The step's pause has no duration: it waits for `promote`.
    Step,
    /// A threshold whose action is `Pause` was breached.
    Threshold,
    /// The probes could not come to a verdict in time.
    Inconclusive,
    /// The probes on stable fail as well: it is not the new revision.
    ControlFailing,
}

/// The monitoring window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Soaking {
    /// When it began.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
}

/// A rollback under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollingBack {
    /// When the verdict fell.
    pub since: Timestamp,
    /// Why, as an identifier: the threshold or the request.
    pub reason: String,
    /// Why, in one sentence with its numbers.
    pub message: String,
    /// Whether the template is rejected; not so when another template superseded it.
    pub reject: bool,
    /// When the weights were seen back on the old revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_restored_at: Option<Timestamp>,
}

/// The end of a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolledBack {
    /// When the last session was back.
    pub since: Timestamp,
    /// Why, as an identifier.
    pub reason: String,
    /// Why, in one sentence with its numbers.
    pub message: String,
}

/// A release under way. Steps, drain and thresholds are those of its beginning; of later edits only budget, deadlines and pauses count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Its number, from 1; requests name it.
    pub number: u64,
    /// URL-safe and unique: begins every order's id.
    pub id: String,
    /// The revision users come from.
    pub stable: String,
    /// The revision users go to.
    pub canary: String,
    /// Container images of the new revision.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub images: Vec<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// The slot of the old revision.
    pub stable_slot: String,
    /// The slot of the new revision.
    pub canary_slot: String,
    /// Steps, as they were when it began.
    #[schemars(length(max = 20))]
    pub steps: Vec<Step>,
    /// Drain settings, as they were when it began.
    pub drain: Drain,
    /// Who lets the old revision's sessions go: `Protocol`, `Sidecar` or `Signal`; absent until its pods were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Whether somebody accepted that `Auto` falls to `Signal`.
    #[serde(default)]
    pub signal_accepted: bool,
    /// Rollback settings, as they were when it began.
    pub rollback: Rollback,
    /// Thresholds, as they were when it began.
    pub thresholds: Thresholds,
    /// Values that lead to a revision through the pins route; random per release.
    pub pins: Pins,
    /// How long the gateway took to program the pins route, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programming_ms: Option<u64>,
    /// Whether the rehearsal is over.
    #[serde(default)]
    pub rehearsed: bool,
    /// Whether a user may ever have been led to the new revision.
    #[serde(default)]
    pub exposed: bool,
    /// Whether the hint leads anywhere: from the first move on.
    #[serde(default)]
    pub hinted: bool,
    /// Waves so far.
    #[serde(default)]
    pub waves: u32,
    /// Reconnect times on the old revision and in the rehearsal's hand-over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// The evidence that counts now; absent before the rehearsal is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// Users' sessions before and after the last moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conserved: Option<Conserved>,
    /// Sessions when the release began.
    #[serde(default)]
    pub sessions: i64,
}

/// Values that lead to a revision through the pins route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pins {
    /// Header value that leads probes to the old revision.
    pub probe_stable: String,
    /// Header value that leads probes to the new revision.
    pub probe_canary: String,
    /// Header value that leads probes to nobody, so that their connects are refused; absent where no scenario needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_nobody: Option<String>,
    /// Query value that leads moved sessions to the revision they are moved to.
    pub hint: String,
}

/// Reconnect times to compare with, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// Median.
    pub p50_ms: u64,
    /// 95th percentile.
    pub p95_ms: u64,
}

/// A revision with its pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// Hash of the user's template.
    pub hash: String,
    /// `stable`, `canary`, `leaving` or `old`.
    pub role: String,
    /// The slot Service that selects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Pods asked for.
    pub replicas: i32,
    /// Pods ready.
    pub ready: i32,
    /// Open sessions on pods that answer.
    pub sessions: i64,
    /// Pods whose sessions are not known.
    pub unknown: i32,
}

/// Percentage of new connections for the new revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Weight {
    /// What the routes shall say.
    pub desired: i32,
    /// What the gateway was seen to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programmed: Option<i32>,
    /// When the desired weight was first asked for.
    pub asked_at: Timestamp,
}

/// A template that is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Hash of the template.
    pub hash: String,
    /// Its images.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub images: Vec<String>,
    /// Why.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// A release that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastRelease {
    /// Its number.
    pub number: u64,
    /// The revision it shipped.
    pub revision: String,
    /// `Completed`, `RolledBack` or `Superseded`.
    pub result: String,
    /// Why, where it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Sessions that were moved.
    pub moved: i64,
    /// Time in which sessions were being moved, in milliseconds.
    #[serde(default)]
    pub drain_ms: i64,
    /// Time from the verdict to the weights' being back, in milliseconds; only for a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_to_weights_ms: Option<i64>,
}

/// A request, acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestResult {
    /// The request's own random value.
    pub nonce: String,
    /// What was asked.
    pub verb: String,
    /// Whether it was carried out.
    pub accepted: bool,
    /// What came of it.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// A person's request, as the annotation `wsroll.dev/request` carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What is asked.
    pub verb: Verb,
    /// The release it is meant for, as `status.release.number`; absent: whichever is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// Random: tells one request from the next.
    pub nonce: String,
}

/// What a person can ask of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum Verb {
    /// Go on to the next step now.
    Promote,
    /// Stand still.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Go back.
    Abort,
    /// Try a rejected template again.
    Retry,
}

/// Weights by slot letter.
pub type SlotWeights = BTreeMap<String, i32>;

impl State {
    /// The phase in one word.
    pub fn phase(&self) -> &'static str {
        self.into()
    }

    /// When the phase was entered.
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Initializing(s) | Self::Healthy(s) | Self::Preflight(s) | Self::Finishing(s) => s.since,
            Self::Surging(s) | Self::Shifting(s) | Self::Moving(s) | Self::Analysing(s) => s.since,
            Self::Rehearsing(s) => s.since,
            Self::Paused(s) => s.since,
            Self::Soaking(s) => s.since,
            Self::RollingBack(s) => s.since,
            Self::RolledBack(s) => s.since,
        }
    }

    /// The step that the phase is at.
    pub fn step(&self) -> Option<u32> {
        match self {
            Self::Surging(s) | Self::Shifting(s) | Self::Moving(s) | Self::Analysing(s) => Some(s.step),
            Self::Paused(s) => Some(s.step),
            _ => None,
        }
    }
}
