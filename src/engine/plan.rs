//! What the engine decides: the status to write first, and the acts that it names.

use std::time::Duration;

use super::evidence::{ProbeTarget, RehearsalActs};
use super::observed::PinRule;
use crate::api::RolloutStatus;
use crate::api::spec::{DrainMode, Scenario};
use crate::api::status::SlotWeights;

/// A decision. `status` is written first; then the actions are carried out in order, and the first failure ends the round.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The status that names what is being done.
    pub status: RolloutStatus,
    /// What to do, in order. Each is idempotent.
    pub actions: Vec<Action>,
    /// What people should be told.
    pub notes: Vec<Note>,
    /// When to look again if nothing happens before.
    pub requeue: Duration,
}

/// An event for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// CamelCase reason, out of a closed set.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// An act on the cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create the token Secret and the ReplicaSet of the rollout's present template.
    CreateRevision {
        /// Hash of the template.
        revision: String,
        /// Pods to start with.
        replicas: u32,
        /// Role its pods are born with.
        role: Role,
    },
    /// Ask for more pods. Never for fewer.
    Grow {
        /// The revision.
        revision: String,
        /// Pods there shall be.
        replicas: u32,
    },
    /// Let these pods go, and lower the ReplicaSet to what stays, with a precondition on its version.
    Retire {
        /// The revision.
        revision: String,
        /// Name and UID of the pods.
        pods: Vec<(String, String)>,
        /// `spec.replicas` that was observed.
        from: u32,
        /// What it shall be: less by these pods, or 0 where the whole revision goes, pods that were never made included.
        to: u32,
    },
    /// Delete this one pod as the order itself (`via: Signal`): its SIGTERM handler lets its sessions go. Like `Retire`, for one pod that
    /// is to go for good while it holds sessions.
    Dismiss {
        /// The revision.
        revision: String,
        /// Name of the pod.
        pod: String,
        /// UID of the pod.
        uid: String,
        /// `spec.replicas` that was observed: one less is what stays.
        from: u32,
    },
    /// Kill this one pod of a rehearsal, which carries none but probes: deleted without a grace period. Its ReplicaSet makes another.
    Crash {
        /// Name of the pod.
        pod: String,
        /// UID of the pod.
        uid: String,
    },
    /// Point a slot's Service at a revision; creates the Service where it is missing.
    PointSlot {
        /// The slot.
        slot: String,
        /// The revision.
        revision: String,
    },
    /// Make the weights of our slots in every rule of every route this.
    SetWeights {
        /// Weights by slot.
        weights: SlotWeights,
    },
    /// Make the pins route carry exactly these.
    EnsurePins {
        /// The pins.
        pins: Vec<PinRule>,
    },
    /// Delete the pins route.
    DeletePins,
    /// Take a pod out of rotation: it loses the serving label and becomes `draining`.
    LeaveRotation {
        /// Name of the pod.
        pod: String,
        /// UID of the pod.
        uid: String,
    },
    /// Put a pod into rotation in a role, and forget its deletion cost.
    EnterRotation {
        /// Name of the pod.
        pod: String,
        /// UID of the pod.
        uid: String,
        /// Its role.
        role: Role,
    },
    /// Change a pod's role label.
    SetRole {
        /// Name of the pod.
        pod: String,
        /// UID of the pod.
        uid: String,
        /// Its role.
        role: Role,
    },
    /// Give or renew a drain order.
    Order(Order),
    /// Cancel a drain order: who was told stays told, the rest stay.
    CancelOrder {
        /// Name of the pod.
        pod: String,
        /// UID of the pod.
        uid: String,
        /// Id of the order.
        id: String,
    },
    /// Make the running probes what this says; `None` stops them.
    Probe(Option<ProbePlan>),
    /// Take a look through the gateway.
    Look(LookOrder),
}

/// A pod's role, as its label tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum Role {
    /// Only probes are on it.
    Rehearsal,
    /// New revision, in rotation.
    Canary,
    /// The revision that users are on.
    Stable,
    /// Asked to let go of its sessions.
    Draining,
}

/// A drain order for one pod; `drain::protocol` gives it its wire form.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
    /// Id of the order, as status names it.
    pub id: String,
    /// `rollout`, `rollback`, `scaleDown` or `drill`.
    pub reason: &'static str,
    /// Only so many sessions; all where absent.
    pub count: Option<u64>,
    /// How politely sessions are asked.
    pub mode: DrainMode,
    /// Sessions per second for this pod.
    pub rate_per_second: f64,
    /// Lease of the order.
    pub lease: Duration,
    /// Deadline from the first order, by the pod's own clock.
    pub deadline: Duration,
    /// Close at the deadline, or wait.
    pub close_at_deadline: bool,
    /// The most time between notice and close.
    pub reconnect_window: Duration,
    /// What leads the client on.
    pub hint: Option<Hint>,
    /// Close code.
    pub close_code: u16,
}

/// What a moved client presents at its next connection, so that the pins route leads it to the right revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Appended to the URL's query: `wsroll=<value>`.
    Query(String),
    /// Put before the path of the URL: `/wsroll-<value>`.
    Path(String),
    /// A request header: `x-wsroll-hint: <value>`.
    Header(String),
}

/// What the probes do.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbePlan {
    /// Play the rehearsal.
    Rehearsal {
        /// Identifies the run.
        run: String,
        /// Header value that leads to the old revision.
        stable_pin: String,
        /// Header value that leads to the new one.
        canary_pin: String,
        /// Header value that leads to nobody.
        nobody_pin: Option<String>,
        /// The scenarios, in their order.
        scenarios: Vec<Scenario>,
        /// The new revision: who answers behind its pin has to say so.
        canary: String,
        /// Close code that an ordered drain must end with.
        close_code: u16,
        /// Whether its pods can be asked to let sessions go; not so where only a signal ends them.
        drains: bool,
        /// Whether a client that declared that it understands notices gets one; a sidecar may be set up to send none, and its close code
        /// in turn is announcement enough.
        notices: bool,
        /// Reconnects in a second that the service can bear.
        connects_per_second: u32,
        /// What was done for it until now.
        acts: RehearsalActs,
    },
    /// Hold sessions and reconnect them.
    Fleet {
        /// Identifies the run.
        run: String,
        /// Target and header value; without one the probes take the way that any user takes.
        targets: Vec<(ProbeTarget, Option<String>)>,
        /// Sessions per target instead of `spec.probes.sessions`.
        sessions: Option<u32>,
    },
}

/// A look through the gateway: fresh upgrades, and who welcomes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookOrder {
    /// Identifies what is looked for; comes back in [`super::observed::Look`].
    pub id: String,
    /// Header value to present; none for what any user gets.
    pub pin: Option<String>,
    /// Upgrades to try.
    pub upgrades: u32,
}

impl Note {
    /// Something that went as it should.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
        }
    }

    /// Something that a person should look at.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            message: message.into(),
        }
    }
}
