//! Revisions that are no part of a release any more and still hold sessions that nobody may cut (`drain.mode: Leave`).
//!
//! Their pods are out of rotation and in the role `draining`; nothing is sent and nothing closed. A pod goes when it is empty. Past
//! the deadline, where `onDeadline` is `Close`, a wave like any other closes what is left, at the pace of the budget.

use std::time::Duration;

use super::observed::{PodView, RevisionView};
use super::plan::{Action, Note, Order, Role};
use super::wave;
use super::work::Work;
use crate::api::spec::{DrainMode, OnDeadline};
use crate::api::status::{Leaving, State, WaveReason};

/// New connections may come this much longer than the data plane was measured to need: nothing here is urgent.
const GRACE: Duration = Duration::from_secs(5);
/// The rate of an order that moves nobody; the wire wants one.
const RATE: f64 = 1.0;

impl Work<'_> {
    /// Whether a revision is left to its own sessions.
    pub(super) fn is_leaving(&self, hash: &str) -> bool {
        self.status.leaving.iter().any(|l| l.revision == hash)
    }

    /// Whether the sessions of this release leave by themselves.
    pub(super) fn leaves(&self) -> bool {
        self.release().is_some_and(|r| r.drain.mode == DrainMode::Leave)
    }

    /// Hands a revision over: from now on its sessions leave by themselves.
    pub(super) fn let_leave(&mut self, hash: &str) {
        if self.is_leaving(hash) {
            return;
        }
        let view = self.obs.revision(hash);
        self.notes.push(Note::normal(
            "Leaving",
            format!(
                "revision {hash} keeps {} sessions until they leave by themselves",
                view.sessions()
            ),
        ));
        self.status.leaving.push(Leaving {
            revision: hash.to_owned(),
            since: self.now,
            elapsed_ms: 0,
            ticked_at: self.now,
            sessions: 0,
            unknown: 0,
            oldest_seconds: None,
        });
    }

    /// Counts, clocks, and who is gone. A deadline's clock stands still while no operator is there.
    pub(super) fn watch_leaving(&mut self) {
        let now = self.now;
        let mut gone = Vec::new();
        for entry in &mut self.status.leaving {
            let passed = now.duration_since(entry.ticked_at).as_millis();
            entry.elapsed_ms += passed.clamp(0, wave::LEASE.as_millis() as i128) as i64;
            entry.ticked_at = now;
            let view = self.obs.revision(&entry.revision);
            entry.sessions = view.sessions() as i64;
            entry.unknown = view.unknown() as i32;
            let ages = view.live().filter_map(|p| p.sessions.as_ref()?.oldest_ms);
            entry.oldest_seconds = ages.max().map(|ms| (ms / 1_000) as i64);
            if view.replicas == 0 && view.pods.is_empty() {
                gone.push(entry.revision.clone());
            }
        }
        for hash in gone {
            self.take_back(&hash);
            self.notes.push(Note::normal(
                "Left",
                format!("the last session has left revision {hash}"),
            ));
        }
    }

    /// A revision that serves again, or is gone.
    pub(super) fn take_back(&mut self, hash: &str) {
        self.status.leaving.retain(|l| l.revision != hash);
    }

    /// What a new release has to wait for: a revision it would need the place of, or that it is itself.
    pub(super) fn waits_for(&self) -> Option<String> {
        let release = self.release()?;
        let slots = usize::from(self.obs.rollout.spec.traffic.slots);
        let full = self.status.leaving.len() + 2 > slots;
        let same = self.status.leaving.iter().find(|l| l.revision == release.canary);
        let first = same.or_else(|| self.status.leaving.first().filter(|_| full))?;
        let why = if same.is_some() {
            "it is the one to be released".to_owned()
        } else {
            format!("{slots} revisions may hold sessions at one time (traffic.slots)")
        };
        let age = first.oldest_seconds.map_or_else(String::new, |s| {
            format!(", the oldest for {:#}", jiff::SignedDuration::from_secs(s))
        });
        let unknown = match first.unknown {
            0 => String::new(),
            n => format!(", on {n} pods that is not known"),
        };
        Some(format!(
            "waiting for revision {}, which still holds {} sessions{age}{unknown}: {why}",
            first.revision, first.sessions
        ))
    }

    /// Past its deadline a revision is closed by a wave, where the spec says so.
    pub(super) fn close_overdue(&mut self) {
        let drain = &self.obs.rollout.spec.drain;
        let busy = matches!(self.state(), State::Paused(_) | State::RollingBack(_));
        if drain.on_deadline != OnDeadline::Close || self.status.wave.is_some() || busy {
            return;
        }
        let deadline = drain.deadline.as_millis() as i64;
        let due = self.status.leaving.iter().find(|l| l.elapsed_ms > deadline);
        let Some(hash) = due.map(|l| l.revision.clone()) else {
            return;
        };
        let pods = wave::everyone(&self.obs.revision(&hash));
        self.start_wave(WaveReason::ScaleDown, hash, pods, true);
    }

    /// Labels, orders that move nobody, and the end of empty pods.
    pub(super) fn leave(&mut self) {
        for entry in self.status.leaving.clone() {
            let view = self.obs.revision(&entry.revision);
            let selected = self.obs.slots.values().any(|hash| *hash == entry.revision);
            let settled = !selected && self.since(entry.since) > self.settle() + GRACE;
            for pod in view.live() {
                if self.in_wave(pod) {
                    continue;
                }
                self.lead_out(pod);
                if settled && !pod.serving && !is_empty(pod) {
                    self.order_to_leave(&entry, pod);
                }
            }
            if settled {
                self.retire_empty(&entry.revision, &view);
            }
        }
    }

    fn in_wave(&self, pod: &PodView) -> bool {
        let pods = self.status.wave.iter().flat_map(|w| &w.pods);
        pods.into_iter().any(|p| p.uid == pod.uid)
    }

    fn lead_out(&mut self, pod: &PodView) {
        if pod.serving {
            self.actions.push(Action::LeaveRotation {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
            });
        } else if pod.role.as_deref() != Some("draining") {
            self.actions.push(Action::SetRole {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
                role: Role::Draining,
            });
        }
    }

    fn order_to_leave(&mut self, entry: &Leaving, pod: &PodView) {
        let id = format!("{}{}", order_prefix(entry), pod.uid);
        let running = pod.sessions.as_ref().and_then(|s| s.drain.as_ref());
        let fresh = wave::LEASE.as_millis() as u64 * 2 / 3;
        if running.is_some_and(|d| d.id == id && d.lease_expires_ms.is_some_and(|ms| ms > fresh)) {
            return;
        }
        let drain = &self.obs.rollout.spec.drain;
        self.actions.push(Action::Order(Order {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            id,
            reason: "rollout",
            count: None,
            mode: DrainMode::Leave,
            rate_per_second: RATE,
            lease: wave::LEASE,
            deadline: drain.deadline.0,
            // What is closed is closed by a wave, so that the budget holds over all pods.
            close_at_deadline: false,
            reconnect_window: drain.notice.reconnect_window.0,
            hint: None,
            close_code: drain.notice.close_code,
        }));
    }

    fn retire_empty(&mut self, hash: &str, view: &RevisionView) {
        let pods: Vec<(String, String)> = view
            .live()
            .filter(|p| is_empty(p) && !p.serving && !self.in_wave(p))
            .map(|p| (p.name.clone(), p.uid.clone()))
            .collect();
        let stay = |p: &&PodView| !pods.iter().any(|(_, uid)| *uid == p.uid);
        // A ReplicaSet deletes unready pods before cheap ones: none may be unready that might hold a session.
        let safe = view.live().filter(stay).all(|p| p.ready || is_empty(p));
        let counted = view.live().count() as u32 == view.replicas;
        let nobody = view.live().next().is_none() && view.replicas > 0;
        if !(nobody || safe && counted && !pods.is_empty()) {
            return;
        }
        let to = if nobody {
            0
        } else {
            view.replicas.saturating_sub(pods.len() as u32)
        };
        self.actions.push(Action::Retire {
            revision: hash.to_owned(),
            pods,
            from: view.replicas,
            to,
        });
    }
}

/// Begins the ids of the orders of a revision that is left to its sessions; status names it by revision and time.
pub(in crate::engine) fn order_prefix(entry: &Leaving) -> String {
    format!("leave-{}-{}-", entry.revision, entry.since.as_millisecond())
}

fn is_empty(pod: &PodView) -> bool {
    pod.sessions.as_ref().is_some_and(|s| s.open == 0)
}
