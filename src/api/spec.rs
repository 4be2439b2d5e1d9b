//! What a person writes: the spec of a `WebSocketRollout`. Every comment here is what `kubectl explain` shows.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::drain::{
    Budget, CloseCodes, Drain, DrainMode, HintKind, IdFrom, Limits, Notice, NoticeFormat, OnDeadline,
    SessionIdentity, SessionsFrom, Sidecar, SidecarNotice, Via,
};
pub use super::probes::{
    LoginMethod, ProbeDialect, ProbeProfiles, ProbeTls, Probes, SecretKeyRef, SecretName, SecretSource,
    TokenFrom, TokenLogin, TokenPlace,
};
use super::quantity::{Count, Span};
pub use super::rehearsal::{Isolate, Rehearsal, RehearsalPolicy, Scenario};
use super::status::RolloutStatus;
pub use super::thresholds::{
    BreachAction, CountThreshold, ReturnThreshold, SuccessThreshold, Thresholds, TimeThreshold,
};

/// How a WebSocket service moves from one version to the next without its sessions noticing.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "wsroll.dev",
    version = "v1alpha1",
    kind = "WebSocketRollout",
    plural = "websocketrollouts",
    singular = "websocketrollout",
    shortname = "wsr",
    category = "all",
    namespaced,
    status = "RolloutStatus",
    derive = "PartialEq",
    doc = "Ships new versions of a WebSocket service without its sessions noticing.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.weight.programmed"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.sessions"),
    printcolumn(name = "Moved", type_ = "string", json_path = ".status.moved"),
    printcolumn(name = "Unannounced", type_ = "integer", json_path = ".status.unannounced"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WebSocketRolloutSpec {
    /// How many pods serve. Keep it out of Git where an autoscaler owns it; 1 where nobody sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: Option<i32>,

    /// The pods of the service: a pod template as in a Deployment. A change of it is a new revision and starts a release.
    #[schemars(schema_with = "any_object")]
    pub template: serde_json::Value,

    /// Who sends new connections, and where.
    pub traffic: Traffic,

    /// The steps of a release; weights rise and end at 100.
    #[serde(default = "default_steps")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(
        validation = Rule::new("self[size(self) - 1].weight == 100").message("the last step must have weight 100"),
        validation = Rule::new("self.all(i, size(self.filter(j, j.weight == i.weight)) == 1)").message("weights must rise from step to step: two steps have the same weight"),
        validation = Rule::new("self.map(s, s.weight).isSorted()").message("weights must rise from step to step")
    )]
    pub steps: Vec<Step>,

    /// How live sessions are asked to leave a pod.
    #[serde(default)]
    pub drain: Drain,

    /// Probe clients that play a user's session through the gateway.
    pub probes: Probes,

    /// The rehearsal that probes give at weight 0, before any user meets a new revision.
    #[serde(default)]
    pub rehearsal: Rehearsal,

    /// What makes a release go back.
    #[serde(default)]
    pub thresholds: Thresholds,

    /// How many pods there may be, and how many there must be.
    #[serde(default)]
    pub capacity: Capacity,

    /// How long new pods may take to become ready, and the gateway to be programmed: after it a release is rolled back. How long the probes may take to come to a verdict: after it a release pauses. Draining is not counted, and before a release moves anything it waits without end.
    #[serde(default = "default_progress_deadline")]
    pub progress_deadline: Span,

    /// How long a release may stay paused by itself (not by a person, nor by a step) before something is done about it.
    #[serde(default)]
    pub pause_deadline: PauseDeadline,

    /// The monitoring window after the last step, in which `abort` still goes back and a breach of a threshold rolls back.
    #[serde(default = "default_rollback_window")]
    pub rollback_window: Span,

    /// How sessions move back.
    #[serde(default)]
    pub rollback: Rollback,
}

/// Who sends new connections, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// The port on which the pods accept WebSockets; the slot Services `<name>-a`, `<name>-b` and `<name>-c` carry the same number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The HTTPRoutes, in this namespace, whose backends are the slot Services. wsroll changes their weights and nothing else.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub routes: Vec<RouteRef>,
    /// How many revisions may hold sessions at one time. A release waits while older ones still hold sessions that nobody may cut (`drain.mode: Leave`).
    #[serde(default = "default_slots")]
    #[schemars(range(min = 3, max = 8))]
    pub slots: u8,
}

/// An HTTPRoute by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRef {
    /// Name of an HTTPRoute in the namespace of the rollout.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One step of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Percentage of new connections that the new revision gets.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u8,
    /// How long to watch before the next step. `{}` waits until somebody promotes.
    #[serde(default = "default_pause")]
    pub pause: Pause,
    /// How live sessions follow the weight. Weights place new connections only: with lasting sockets a step that moves nobody learns nothing.
    #[serde(default)]
    pub move_sessions: MoveSessions,
}

/// A wait between two steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// How long to watch; absent: until somebody promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
}

/// How live sessions follow a weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MoveSessions {
    /// The first that fits: `Pinned` where `drain.notice.hint` allows it, `Window` where the gateway follows within 2 s and the new
    /// revision can carry what may come, else `None`. Status shows which, and why.
    #[default]
    Auto,
    /// Asked sessions come back with a hint in their URL that the route matches: each is moved once, to the new revision.
    Pinned,
    /// While a wave's clients come back, at most 10 s, the new revision gets every new connection: nothing is needed of the client.
    Window,
    /// Nobody is moved at this step; the last step moves all, once.
    None,
}

/// How many pods there may be, and how many there must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Pods above `replicas` during a release: a number, or a share of the replicas rounded up; at least one. The last step may add up to `rollbackFloor` pods instead.
    #[serde(default = "default_max_surge")]
    pub max_surge: Count,
    /// Ready pods in rotation, over both revisions, never fall below this share of `replicas`.
    #[serde(default = "default_min_ready_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub min_ready_percent: u8,
    /// Ready pods that the old revision keeps until the last verdict; absent: a quarter of the replicas, at least 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_floor: Option<Count>,
    /// The most pods that are asked to let go of sessions at one time; absent: as many as the budget can pace exactly, one for every ten connects per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub max_draining_pods: Option<u32>,
}

/// What is done about a release that paused by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseDeadline {
    /// How long it may stay paused.
    #[serde(default = "default_pause_deadline")]
    pub duration: Span,
    /// What follows.
    #[serde(default)]
    pub action: PauseAction,
}

/// What follows when a release has been paused by itself for too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PauseAction {
    /// It is rolled back.
    #[default]
    Rollback,
    /// People are told by an event; it stays paused.
    Notify,
}

/// How sessions move back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// The budget of a rollback; absent: the drain's `connectsPerSecond`, else all sessions within 2 minutes, at most 50 per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How long a pod of the rejected revision may take to become empty; then its sessions are closed at the rate of the budget.
    #[serde(default = "default_rollback_deadline")]
    pub deadline: Span,
}

// === defaults (mission figures) ===

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn default_steps() -> Vec<Step> {
    [10, 50, 100]
        .into_iter()
        .map(|weight| Step {
            weight,
            pause: default_pause(),
            move_sessions: MoveSessions::Auto,
        })
        .collect()
}

fn default_pause() -> Pause {
    Pause {
        duration: Some(Span::secs(600)),
    }
}

const fn default_slots() -> u8 {
    3
}

const fn default_progress_deadline() -> Span {
    Span::secs(600)
}

const fn default_rollback_window() -> Span {
    Span::secs(48 * 3600)
}

const fn default_rollback_deadline() -> Span {
    Span::secs(600)
}

const fn default_pause_deadline() -> Span {
    Span::secs(3600)
}

const fn default_max_surge() -> Count {
    Count::Percent(25)
}

const fn default_min_ready_percent() -> u8 {
    100
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            max_surge: default_max_surge(),
            min_ready_percent: default_min_ready_percent(),
            rollback_floor: None,
            max_draining_pods: None,
        }
    }
}

impl Default for PauseDeadline {
    fn default() -> Self {
        Self {
            duration: default_pause_deadline(),
            action: PauseAction::default(),
        }
    }
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            budget: None,
            deadline: default_rollback_deadline(),
        }
    }
}
