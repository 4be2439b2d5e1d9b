//! The working copy of one decision: what is seen, the status as it becomes, and what has been decided so far.

use std::time::Duration;

use jiff::Timestamp;

use super::capacity::Limits;
use super::evidence::ProbeTarget;
use super::observed::{Look, Observed, RevisionView};
use super::plan::{Action, Note, Plan};
use crate::api::RolloutStatus;
use crate::api::status::{
    AtStep, PauseReason, Paused, Release, Returned, RollingBack, Since, State, Verdict, Weight,
};

/// Upgrades of one look: so many have to agree.
pub(super) const LOOK_UPGRADES: u32 = 5;
/// What the data plane is given to follow a change when nothing was measured.
const SETTLE_DEFAULT_MS: u64 = 1_000;
/// Bounds of the settle time.
const SETTLE_MS: std::ops::RangeInclusive<u64> = 1_000..=10_000;

/// One decision in the making.
pub(super) struct Work<'a> {
    pub obs: &'a Observed,
    pub now: Timestamp,
    pub limits: Limits,
    pub status: RolloutStatus,
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
    /// Wave figures of this round, for the report.
    pub wave_rate: f64,
    pub wave_left: u64,
    pub overdue: Vec<String>,
}

impl<'a> Work<'a> {
    pub(super) fn new(obs: &'a Observed, now: Timestamp) -> Self {
        Self {
            obs,
            now,
            limits: Limits::of(&obs.rollout),
            status: obs.status.clone(),
            actions: Vec::new(),
            notes: Vec::new(),
            wave_rate: 0.0,
            wave_left: 0,
            overdue: Vec::new(),
        }
    }

    pub(super) fn into_plan(self) -> Plan {
        let requeue = self.requeue();
        Plan {
            status: self.status,
            actions: self.actions,
            notes: self.notes,
            requeue,
        }
    }

    /// Active phases look often; a quiet rollout costs nothing.
    fn requeue(&self) -> Duration {
        match &self.status.state {
            Some(State::Healthy(_) | State::RolledBack(_)) if self.status.wave.is_none() => {
                // Who is left to its sessions has a lease to be renewed.
                Duration::from_secs(if self.status.leaving.is_empty() { 20 } else { 2 })
            }
            Some(State::Soaking(_)) => Duration::from_secs(2),
            Some(State::Analysing(_) | State::Paused(_)) => Duration::from_secs(1),
            Some(State::Preflight(_) | State::Initializing(_)) if !self.obs.problems.is_empty() => {
                Duration::from_secs(5)
            }
            _ => Duration::from_millis(500),
        }
    }

    // --- what is seen ---

    pub(super) fn state(&self) -> State {
        self.status
            .state
            .clone()
            .unwrap_or(State::Initializing(Since { since: self.now }))
    }

    pub(super) fn release(&self) -> Option<&Release> {
        self.status.release.as_ref()
    }

    /// The old revision of the release, or the one that users are on.
    pub(super) fn stable_hash(&self) -> String {
        self.release()
            .map(|r| r.stable.clone())
            .or_else(|| self.status.stable.clone())
            .unwrap_or_else(|| self.obs.template_hash.clone())
    }

    pub(super) fn stable(&self) -> RevisionView {
        self.obs.revision(&self.stable_hash())
    }

    pub(super) fn canary(&self) -> RevisionView {
        self.release()
            .map(|r| self.obs.revision(&r.canary))
            .unwrap_or_default()
    }

    /// Whether nothing of the new revision is this release's business any more.
    pub(super) fn canary_is_gone(&self) -> bool {
        let left = self.release().is_some_and(|r| self.is_leaving(&r.canary));
        let canary = self.canary();
        left || (canary.replicas == 0 && canary.live().next().is_none())
    }

    /// A revision with pods that is neither the one that serves nor part of a release, nor the one to be released next while it
    /// is empty.
    pub(super) fn leftover(&self) -> Option<(String, RevisionView)> {
        let stable = self.stable_hash();
        let canary = self.release().map(|r| r.canary.clone());
        let found = self.obs.revisions.iter().find(|(hash, view)| {
            let there = view.replicas > 0 || view.live().next().is_some();
            // In preflight nothing of the new revision exists by our doing: what is there holds somebody's sessions.
            let mine = canary.as_ref() == Some(*hash) && !matches!(self.state(), State::Preflight(_));
            **hash != stable && !mine && there && !self.is_leaving(hash)
        });
        found.map(|(hash, view)| (hash.clone(), view.clone()))
    }

    /// Sessions of users on a revision: what its pods report, less the probes that are pinned to it.
    pub(super) fn users(&self, view: &RevisionView, target: ProbeTarget) -> u64 {
        let probes = self.obs.evidence_of(target).map_or(0, |e| u64::from(e.open));
        view.sessions().saturating_sub(probes)
    }

    pub(super) fn time_in_phase(&self) -> Duration {
        let since = self.state().since();
        Duration::try_from(self.now.duration_since(since)).unwrap_or_default()
    }

    pub(super) fn over_progress_deadline(&self) -> bool {
        self.time_in_phase() > self.obs.rollout.spec.progress_deadline.0
    }

    /// How long the data plane needs to follow a change: half as long again as measured.
    pub(super) fn settle(&self) -> Duration {
        let measured = self
            .release()
            .and_then(|r| r.programming_ms)
            .map_or(SETTLE_DEFAULT_MS, |ms| ms * 3 / 2);
        Duration::from_millis(measured.clamp(*SETTLE_MS.start(), *SETTLE_MS.end()))
    }

    pub(super) fn since(&self, then: Timestamp) -> Duration {
        Duration::try_from(self.now.duration_since(then)).unwrap_or_default()
    }

    /// The canary's weight as every rule of every route says it; `None` where they differ among themselves.
    pub(super) fn written_weight(&self, release: &Release) -> Option<i32> {
        let mut weights = self.obs.routes.iter().flat_map(|route| &route.rules).map(|rule| {
            let others: i32 = rule
                .iter()
                .filter(|(slot, _)| **slot != release.canary_slot && **slot != release.stable_slot)
                .map(|(_, weight)| *weight)
                .sum();
            let canary = rule.get(&release.canary_slot).copied().unwrap_or_default();
            let stable = rule.get(&release.stable_slot).copied().unwrap_or_default();
            (others == 0 && canary + stable == 100).then_some(canary)
        });
        let first = weights.next()??;
        weights.all(|w| w == Some(first)).then_some(first)
    }

    /// Whether every route is accepted by its gateway at its present generation.
    pub(super) fn routes_accepted(&self) -> bool {
        !self.obs.routes.is_empty() && self.obs.routes.iter().all(|route| route.accepted.is_ok())
    }

    // --- weights ---

    pub(super) fn desired_weight(&self) -> i32 {
        self.status.weight.as_ref().map_or(0, |w| w.desired)
    }

    /// Asks for a weight; keeps the time of the first asking.
    pub(super) fn ask_weight(&mut self, desired: i32) {
        if self.status.weight.as_ref().is_none_or(|w| w.desired != desired) {
            let programmed = self.status.weight.as_ref().and_then(|w| w.programmed);
            self.status.weight = Some(Weight {
                desired,
                programmed,
                asked_at: self.now,
            });
        }
    }

    /// Whether the gateway does what `status.weight.desired` says: the routes say so, the gateway accepted them, and fresh
    /// upgrades agree where one revision gets all; elsewhere the settle time has passed. Notes it in the status.
    pub(super) fn weight_is_programmed(&mut self) -> bool {
        let (Some(release), Some(weight)) = (self.status.release.clone(), self.status.weight.clone()) else {
            return false;
        };
        if self.written_weight(&release) != Some(weight.desired) || !self.routes_accepted() {
            return false;
        }
        let waited = self.since(weight.asked_at);
        let programmed = if weight.programmed == Some(weight.desired) {
            true
        } else if let Some(expected) = self.sole_revision(&release, weight.desired) {
            // Where every slot selects the same revision a look sees it whatever the weights are.
            let telling = self.obs.slots.values().any(|revision| *revision != expected);
            let least = if telling && !self.nobody_named() {
                Duration::from_millis(100)
            } else {
                self.settle()
            };
            waited >= least && self.looked(&weight_look_id(&weight), &expected)
        } else {
            waited >= self.settle()
        };
        if programmed && let Some(weight) = &mut self.status.weight {
            weight.programmed = Some(weight.desired);
        }
        programmed
    }

    /// The revision that gets every new connection at this weight.
    pub(super) fn sole_revision(&self, release: &Release, weight: i32) -> Option<String> {
        let slot = match weight {
            0 => &release.stable_slot,
            100 => &release.canary_slot,
            _ => return None,
        };
        self.obs.slots.get(slot).cloned()
    }

    /// Whether the last look was this one and saw nothing but `expected`. Of services that name no revision it says that upgrades
    /// go through, and the settle time has to do for the rest.
    pub(super) fn looked(&self, id: &str, expected: &str) -> bool {
        let seen = |look: &Look, revision: &str| look.revisions.get(revision) == Some(&LOOK_UPGRADES);
        let settled = || self.nobody_named() && self.time_in_phase() >= self.settle();
        self.obs.look.as_ref().is_some_and(|look| {
            look.id == id && look.failed == 0 && (seen(look, expected) || seen(look, "") && settled())
        })
    }

    /// Whether the last look met a service that names no revision.
    fn nobody_named(&self) -> bool {
        let look = self.obs.look.as_ref();
        look.is_some_and(|look| look.revisions.get("") == Some(&LOOK_UPGRADES))
    }

    // --- verdicts ---

    /// What became of the sessions that this release moved, as far as it was ever told.
    pub(super) fn returned(&self) -> Option<&Returned> {
        let before = self.status.drain.as_ref().and_then(|d| d.returned.as_ref());
        self.obs.accounts.as_ref().or(before)
    }

    /// Notes a verdict; its time is that of the first of its kind.
    pub(super) fn record_verdict(&mut self, result: &str, reason: &str, message: &str) {
        let same = self
            .status
            .verdict
            .as_ref()
            .is_some_and(|v| v.result == result && v.reason == reason);
        let at = if same {
            self.status.verdict.as_ref().map_or(self.now, |v| v.at)
        } else {
            self.now
        };
        self.status.verdict = Some(Verdict {
            result: result.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            at,
        });
    }

    // --- phases ---

    pub(super) fn enter(&mut self, state: State) {
        if self.status.state.as_ref() != Some(&state) {
            self.status.state = Some(state);
        }
    }

    pub(super) fn at(&self, step: u32) -> AtStep {
        AtStep {
            step,
            since: self.now,
        }
    }

    pub(super) fn pause(&mut self, step: u32, reason: PauseReason, message: String) {
        let name: &'static str = reason.into();
        if reason == PauseReason::Step || reason == PauseReason::Requested {
            self.notes.push(Note::normal("Paused", message.clone()));
        } else {
            self.notes
                .push(Note::warning("Paused", format!("{name}: {message}")));
        }
        self.drop_wave();
        self.enter(State::Paused(Paused {
            since: self.now,
            step,
            reason,
            message,
        }));
    }

    /// Whether somebody deleted the old revision's ReplicaSet while the new one serves: its template is gone with it.
    pub(super) fn way_back_is_gone(&self) -> bool {
        let Some(release) = self.release() else {
            return false;
        };
        let gone = !self.obs.revisions.contains_key(&release.stable);
        gone && release.rehearsed && self.canary().in_rotation() > 0
    }

    /// Weights first, then capacity, then the sessions.
    pub(super) fn roll_back(&mut self, reason: &str, message: String, reject: bool) {
        if self.way_back_is_gone() {
            self.notes.push(Note::warning(
                "RollbackImpossible",
                format!(
                    "{reason}: {message}; the ReplicaSet of revision {} was deleted, so the new one stays",
                    self.stable_hash()
                ),
            ));
            return;
        }
        self.drop_wave();
        self.notes.push(if reject {
            Note::warning("RollingBack", format!("{reason}: {message}"))
        } else {
            Note::normal("RollingBack", format!("{reason}: {message}"))
        });
        self.enter(State::RollingBack(RollingBack {
            since: self.now,
            reason: reason.to_owned(),
            message,
            reject,
            weights_restored_at: None,
        }));
    }

    /// Ends a wave early: its pods return in the next round, and who was not moved counts as not asked.
    pub(super) fn drop_wave(&mut self) {
        let Some(wave) = self.status.wave.take() else {
            return;
        };
        if let Some(window) = &wave.window {
            self.ask_weight(window.weight);
        }
        if let Some(drain) = &mut self.status.drain {
            for pod in &wave.pods {
                let asked = pod.count.or(pod.sessions).unwrap_or_default();
                drain.total -= (asked - pod.closed_clean - pod.closed_forced).max(0);
            }
            drain.total = drain.total.max(0);
        }
    }
}

/// Identifies the look that tells whether a weight is programmed.
pub(super) fn weight_look_id(weight: &Weight) -> String {
    format!("weight-{}-{}", weight.desired, weight.asked_at.as_millisecond())
}
