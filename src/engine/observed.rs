//! What the engine is shown: one moment of the cluster, as plain data.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::evidence::{ProbeEvidence, ProbeTarget, RehearsalReport};
use crate::api::spec::Via;
use crate::api::status::{Request, Returned};
use crate::api::{RolloutStatus, ValidatedRollout};

/// One moment of a rollout and of everything that belongs to it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The rollout, found whole.
    pub rollout: ValidatedRollout,
    /// Hash of the user's template.
    pub template_hash: String,
    /// Container images of the user's template.
    pub template_images: Vec<String>,
    /// The status as it was last written.
    pub status: RolloutStatus,
    /// A request that status has not acknowledged.
    pub request: Option<Request>,
    /// Revisions that have a ReplicaSet, by hash.
    pub revisions: BTreeMap<String, RevisionView>,
    /// For every slot Service that exists: the revision it selects.
    pub slots: BTreeMap<String, String>,
    /// The routes of the rollout.
    pub routes: Vec<RouteView>,
    /// The pins route, where it exists.
    pub pins: Option<PinsView>,
    /// The last look through the gateway.
    pub look: Option<Look>,
    /// The rehearsal that is running or done.
    pub rehearsal: Option<RehearsalReport>,
    /// What the probe fleet saw, by target; empty while none runs.
    pub evidence: Vec<ProbeEvidence>,
    /// What other systems have answered at this part of the release, for each of `spec.analysis`.
    pub metrics: Vec<MetricView>,
    /// What stands in the way of a release.
    pub problems: Vec<Problem>,
    /// Sessions that ended without an announcement since the last observation.
    pub unannounced: u64,
    /// Of them, those that were seen to be cut, and where.
    pub cuts: Vec<Cut>,
    /// What became of the sessions that the release moved, by the pods' own account; `None` where they do not tell.
    pub accounts: Option<Returned>,
    /// Fresh random text, URL-safe, for ids and pins.
    pub entropy: String,
}

/// A revision: its ReplicaSet and its pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RevisionView {
    /// `spec.replicas` of the ReplicaSet.
    pub replicas: u32,
    /// Who lets its sessions go, as it was created: `Protocol`, `Sidecar`, `Signal` or `Auto`. `None` where that was not written down
    /// (by an older operator, which knew the protocol only).
    pub via: Option<Via>,
    /// Whether its pods answer the drain protocol: `Some(true)` where any does, `Some(false)` where none does and a ready one
    /// definitely refuses it (its drain port is closed, or answers with 404). `None` is unknown: no answer proves nothing.
    pub speaks: Option<bool>,
    /// Why its pods cannot be made, in the ReplicaSet's own words: a quota is used up, an admission policy refuses them.
    pub trouble: Option<String>,
    /// Its pods, terminating ones included.
    pub pods: Vec<PodView>,
}

/// A pod as far as a rollout cares.
#[derive(Debug, Clone, PartialEq)]
pub struct PodView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Ready, and not on its way out.
    pub ready: bool,
    /// On its way out.
    pub terminating: bool,
    /// Carries the serving label.
    pub serving: bool,
    /// Value of the role label.
    pub role: Option<String>,
    /// Deletion cost that the pod carries.
    pub deletion_cost: Option<i32>,
    /// Why it is not ready, where the kubelet says so: `ImagePullBackOff`, `CrashLoopBackOff` …
    pub trouble: Option<String>,
    /// Its sessions; `None` is unknown, which is never zero.
    pub sessions: Option<SessionsView>,
}

/// What a pod reports of its sessions. Absent counters are unknown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionsView {
    /// Open sessions.
    pub open: u64,
    /// Of them, sessions whose client has been silent for two ping intervals.
    pub dormant: Option<u64>,
    /// Age of the oldest open session, milliseconds.
    pub oldest_ms: Option<u64>,
    /// Random per process.
    pub instance: String,
    /// Upgrades that the pod refused.
    pub refused: Option<u64>,
    /// Sessions resumed here.
    pub resumed: Option<u64>,
    /// Resumes that failed here.
    pub resume_failed: Option<u64>,
    /// Sessions whose state was not found here.
    pub state_lost: Option<u64>,
    /// The order that the pod follows.
    pub drain: Option<DrainView>,
}

/// An order as its pod reports it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrainView {
    /// Id of the order.
    pub id: String,
    /// `active`, `paused`, `done` …
    pub state: String,
    /// Sessions told so far.
    pub notified: u64,
    /// Sessions gone in their turn.
    pub closed_clean: u64,
    /// Sessions closed at the deadline.
    pub closed_forced: u64,
    /// Milliseconds until the lease runs out.
    pub lease_expires_ms: Option<u64>,
    /// The rate the pod works at.
    pub rate_per_second: Option<f64>,
}

/// A route with the weights of our slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// Name.
    pub name: String,
    /// Weights by slot, per rule that names slots.
    pub rules: Vec<BTreeMap<String, i32>>,
    /// Whether the gateway has accepted this generation; otherwise why not.
    pub accepted: Result<(), String>,
}

/// The pins route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinsView {
    /// The pins it carries: what is wanted is compared with this.
    pub pins: Vec<PinRule>,
    /// Whether it is what it would be if built from the user's routes now.
    pub current: bool,
    /// Whether the gateway has accepted this generation; otherwise why not.
    pub accepted: Result<(), String>,
}

/// Where a pin leads that leads to nobody, in the place of a slot: a Service that no pod belongs to.
pub const NOBODY: &str = "nobody";

/// A pin: who presents the value lands on the slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinRule {
    /// How the value is presented.
    pub kind: PinKind,
    /// The value.
    pub value: String,
    /// The slot.
    pub slot: String,
}

/// How a pin's value is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PinKind {
    /// A request header, which only probes send.
    ProbeHeader,
    /// A query parameter, which moved clients send.
    HintQuery,
    /// A path prefix, which moved clients put before their path.
    HintPath,
    /// A request header, which moved clients send.
    HintHeader,
}

/// Fresh upgrades through the gateway, and which revision took them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What was looked for: the `id` of [`super::plan::LookOrder`].
    pub id: String,
    /// Upgrades by revision; under the empty name those of a service that names none.
    pub revisions: BTreeMap<String, u32>,
    /// Upgrades that failed.
    pub failed: u32,
    /// The last failure.
    pub error: Option<String>,
    /// When it was taken.
    pub at: Timestamp,
}

/// Sessions that ended without an announcement, as they were seen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// When.
    pub at: Timestamp,
    /// The revision that they were on.
    pub revision: String,
    /// UID of the pod that they were on; of probes it is not known.
    pub uid: Option<String>,
    /// What was seen, as the begin of a sentence: `pod chat-x is gone`.
    pub what: String,
    /// How many.
    pub sessions: u64,
}

/// What a source of `spec.analysis` has answered since this part of the release began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricView {
    /// Its name.
    pub name: String,
    /// Answers of which its condition could be judged.
    pub samples: u32,
    /// Of the last of them, in a row, those of which it did not hold.
    pub broken_in_a_row: u32,
    /// The last answer, shortly.
    pub last: Option<String>,
    /// Why the last call had no answer.
    pub error: Option<String>,
}

/// Something that stands in the way of a release, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// A closed set of identifiers: `RouteNotFound`, `ForeignBackend`, `SecretMissing` …
    pub reason: &'static str,
    /// One sentence that names the field or object, the value and the remedy.
    pub message: String,
}

// === impl Observed ===

impl Observed {
    /// A revision by hash; an empty one where none exists.
    pub fn revision(&self, hash: &str) -> RevisionView {
        self.revisions.get(hash).cloned().unwrap_or_default()
    }

    /// The evidence of one target.
    pub fn evidence_of(&self, target: ProbeTarget) -> Option<&ProbeEvidence> {
        self.evidence.iter().find(|e| e.target == target)
    }
}

// === impl RevisionView ===

impl RevisionView {
    /// Pods that are not on their way out.
    pub fn live(&self) -> impl Iterator<Item = &PodView> {
        self.pods.iter().filter(|p| !p.terminating)
    }

    /// Ready pods.
    pub fn ready(&self) -> u32 {
        self.live().filter(|p| p.ready).count() as u32
    }

    /// Ready pods in rotation.
    pub fn in_rotation(&self) -> u32 {
        self.live().filter(|p| p.ready && p.serving).count() as u32
    }

    /// What stands in the way of its pods: those that are there and not ready, else those that could not be made.
    pub fn trouble(&self) -> Option<&str> {
        let pod = self.live().find_map(|p| p.trouble.as_deref());
        pod.or(self.trouble.as_deref())
    }

    /// Open sessions on the pods that answer, terminating ones included: their sessions are not gone yet.
    pub fn sessions(&self) -> u64 {
        self.pods
            .iter()
            .filter_map(|p| p.sessions.as_ref())
            .map(|s| s.open)
            .sum()
    }

    /// Pods, not on their way out, whose sessions are not known.
    pub fn unknown(&self) -> u32 {
        self.live().filter(|p| p.sessions.is_none()).count() as u32
    }

    /// Whether it is known that no session is on any of its pods.
    pub fn is_empty(&self) -> bool {
        self.live()
            .all(|p| p.sessions.as_ref().is_some_and(|s| s.open == 0))
    }
}
