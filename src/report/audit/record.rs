//! The lines of the audit trail. They are a stable format: fields are added, never renamed; docs/audit.md describes each, and a
//! test holds every kind against its golden line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::evidence::ProbeTarget;

/// The version of the format.
pub const VERSION: u32 = 1;

/// One line: something that happened, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// [`VERSION`].
    pub v: u32,
    /// When it happened, as far as the operator can tell; else when it was seen.
    pub time: Timestamp,
    /// Namespace of the rollout; empty in [`Event::Lost`], which is of no rollout.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of the rollout; empty in [`Event::Lost`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rollout: String,
    /// Number of the release; absent outside of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// Id of the release; the ids of its orders and waves begin with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_id: Option<String>,
    /// The revision it happened on: hash of its template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Name of the pod it happened on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum Event {
    /// A pod took a drain order. Renewals that change nothing are not told.
    OrderGiven(OrderData),
    /// A pod took other terms of an order it follows.
    OrderChanged(OrderData),
    /// A pod did not take an order.
    OrderRefused {
        /// Id of the order.
        order: String,
        /// Why: `unauthorized`, `refused`, `bad_answer` …
        category: String,
    },
    /// An order was taken back: who was told stays told, the rest stay.
    OrderCancelled {
        /// Id of the order.
        order: String,
    },
    /// What a pod did by an order since it was last asked.
    Progress {
        /// Id of the order.
        order: String,
        /// Since the last line of this order.
        delta: DrainCounts,
        /// Since the order began, by the pod's own count: the last line of an order has its sum.
        total: DrainCounts,
    },
    /// A session ended on a pod under an order.
    SessionReleased {
        /// Keyed hash of its identity, 16 hexadecimal digits.
        session: String,
        /// Id of the order.
        order: String,
        /// `moved`, `forced`, `dormant`, `left`, `cut` or `other`.
        how: String,
    },
    /// A moved session came back.
    SessionReturned {
        /// Keyed hash of its identity.
        session: String,
        /// Milliseconds after its release; 0 where it came back before it let go.
        after_ms: u64,
        /// Whether it found its state; absent: the pod did not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resumed: Option<bool>,
        /// Whether it landed on another revision than the one it was moved to.
        stray: bool,
    },
    /// A moved session did not come back in `thresholds.usersReturn.within`.
    SessionMissing {
        /// Keyed hash of its identity.
        session: String,
    },
    /// Sessions ended and nothing had announced it.
    Unannounced {
        /// How many.
        sessions: u64,
        /// How it was noticed.
        seen: SeenAs,
    },
    /// What the probes of one target did since they were last asked.
    Probes(ProbeData),
    /// A scenario of the rehearsal ended.
    Scenario(ScenarioData),
    /// The rehearsal ended.
    Rehearsal {
        /// Id of the run.
        run: String,
        /// `Passed` or `Failed`.
        outcome: String,
        /// The check that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        check: Option<String>,
        /// The failure in one sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sentence: Option<String>,
    },
    /// A verdict, where its result or its reason is another than before, or the phase ends with it.
    Verdict {
        /// `Passed`, `Inconclusive`, `Breached`.
        outcome: String,
        /// The threshold.
        reason: String,
        /// One sentence with its numbers.
        sentence: String,
        /// The step, from 1; absent in the rehearsal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u32>,
    },
    /// Another phase.
    Phase {
        /// The phase before; absent for a rollout that is seen for the first time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// The phase.
        to: String,
        /// The step, from 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u32>,
        /// Why, where the phase has a reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sentence: Option<String>,
    },
    /// The new revision's share of new connections was asked for.
    WeightAsked {
        /// Percent.
        percent: i32,
    },
    /// The gateway was seen to do what was asked for.
    WeightProgrammed {
        /// Percent.
        percent: i32,
        /// Milliseconds after it was asked for.
        after_ms: u64,
    },
    /// A wave was planned.
    WaveStarted {
        /// Id of the wave; the ids of its orders begin with it.
        wave: String,
        /// `rollout`, `rollback` or `scaleDown`.
        reason: String,
        /// Its pods.
        pods: u32,
        /// Sessions that are to move, as far as known.
        sessions: i64,
    },
    /// A wave is over.
    WaveEnded {
        /// Id of the wave.
        wave: String,
        /// What it did.
        total: DrainCounts,
    },
    /// A pod is there.
    PodCreated(PodData),
    /// A pod was taken off its ReplicaSet, which deletes it.
    PodRetired(PodData),
    /// A pod was deleted so that its SIGTERM handler lets its sessions go (`drain.via: Signal`).
    PodDismissed(PodData),
    /// A pod is gone.
    PodGone(PodData),
    /// A person asked for something.
    Request {
        /// `promote`, `pause`, `resume`, `abort`, `retry`.
        verb: String,
        /// Whether it was carried out.
        accepted: bool,
        /// What came of it.
        sentence: String,
        /// Who asked, as far as it can be told.
        by: By,
    },
    /// The verdict, or a person, said: back.
    RollbackBegun {
        /// The threshold, or the request.
        reason: String,
        /// One sentence with its numbers.
        sentence: String,
    },
    /// A release began.
    ReleaseBegun {
        /// The revision users come from.
        from: String,
        /// The revision users go to.
        to: String,
        /// Images of the new revision.
        images: Vec<String>,
        /// Open sessions.
        sessions: i64,
        /// Weights of its steps, percent.
        steps: Vec<i32>,
    },
    /// A release is over.
    ReleaseEnded {
        /// `Completed`, `RolledBack`, `Superseded`; `Withdrawn` where its template was taken back before anything moved.
        outcome: String,
        /// Why, where it did not complete.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sentence: Option<String>,
        /// Sessions that were moved.
        moved: i64,
        /// Sessions that ended without an announcement.
        unannounced: i64,
        /// From the verdict to the weights' being back, milliseconds; only for a rollback.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict_to_weights_ms: Option<i64>,
    },
    /// Lines that were dropped before this one: the sink was too slow, or away.
    Lost {
        /// How many.
        records: u64,
    },
}

/// The terms of a drain order. What leads clients on is not told: it is as good as a pin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderData {
    /// Id of the order.
    pub order: String,
    /// `rollout`, `rollback`, `scaleDown`.
    pub reason: String,
    /// `Ask`, `WhenIdle`, `Leave`.
    pub mode: String,
    /// Sessions per second.
    pub rate_per_second: f64,
    /// Only so many sessions; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Milliseconds from the order's start to its deadline.
    pub deadline_ms: u64,
    /// Whether sessions are closed at the deadline.
    pub close_at_deadline: bool,
    /// Close code.
    pub close_code: u16,
}

/// What a pod did by an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainCounts {
    /// Sessions that were sent a notice.
    pub notified: u64,
    /// Notices that clients acknowledged, where the pod tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
    /// Sessions gone in their turn.
    pub closed_clean: u64,
    /// Sessions closed at the deadline.
    pub closed_forced: u64,
}

/// How an unannounced end was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum SeenAs {
    /// The pod vanished with its sessions.
    PodGone,
    /// Its process started anew.
    PodRestarted,
    /// A probe's socket was closed or cut.
    Probe,
}

/// Probes of one target, since they were last asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeData {
    /// Which revision they aim at.
    pub target: ProbeTarget,
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
    /// The last failure in one sentence, where there was one since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The outcome of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioData {
    /// Id of the run.
    pub run: String,
    /// Name of the scenario.
    pub scenario: String,
    /// `Passed`, `Failed` or `Skipped`.
    pub outcome: String,
    /// One sentence.
    pub sentence: String,
    /// Sessions that took part.
    pub sessions: u32,
    /// Reconnects that ended.
    pub attempts: u64,
    /// Of them, restored.
    pub restored: u64,
    /// Mean time to restored, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<u64>,
    /// The mean that the service level allows, milliseconds.
    pub limit_ms: u64,
}

/// A pod that came or went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodData {
    /// Its UID.
    pub uid: String,
    /// Open sessions when it was last asked; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Of a pod that is gone: whether the operator had let go of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<bool>,
}

/// Who asked. Both may be unknown, and neither is proof: whoever may write the annotation may write any name. The API server's
/// own audit log is proof; `at` and the manager find the entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct By {
    /// The user that the request names: `kubectl wsroll` asks the API server who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The field manager that wrote the annotation, by `managedFields`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// When it wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

// === impl AuditRecord ===

impl AuditRecord {
    /// What a sink lost.
    pub fn lost(records: u64, time: Timestamp) -> Self {
        Self {
            v: VERSION,
            time,
            namespace: String::new(),
            rollout: String::new(),
            release: None,
            release_id: None,
            revision: None,
            pod: None,
            event: Event::Lost { records },
        }
    }
}

// === impl DrainCounts ===

impl DrainCounts {
    /// What was added since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            notified: self.notified.saturating_sub(before.notified),
            acknowledged: self
                .acknowledged
                .map(|now| now.saturating_sub(before.acknowledged.unwrap_or_default())),
            closed_clean: self.closed_clean.saturating_sub(before.closed_clean),
            closed_forced: self.closed_forced.saturating_sub(before.closed_forced),
        }
    }

    /// Whether nothing happened.
    pub fn is_nothing(self) -> bool {
        let Self {
            notified,
            acknowledged,
            closed_clean,
            closed_forced,
        } = self;
        notified + acknowledged.unwrap_or_default() + closed_clean + closed_forced == 0
    }
}

// === impl By ===

impl By {
    /// As people read it: `jane (wsroll/request)`, `unknown`.
    pub fn sentence(&self) -> String {
        match (&self.user, &self.manager) {
            (Some(user), Some(manager)) => format!("{user} ({manager})"),
            (Some(user), None) => user.clone(),
            (None, Some(manager)) => format!("unknown ({manager})"),
            (None, None) => "unknown".to_owned(),
        }
    }
}
