//! What a phase looks like to people: columns, counts, conditions.

use super::evidence::ProbeTarget;
use super::observed::{Observed, RevisionView};
use super::work::Work;
use crate::api::conditions::{self, DRAINED, PROBES_READY, READY, RECONCILING, REHEARSED, STALLED};
use crate::api::spec::{DrainMode, Via};
use crate::api::status::{DrainStatus, Pace, PauseReason, RevisionStatus, ScenarioResult, State, Tally};
use crate::api::{GROUP, RolloutStatus};

/// Most revisions that status lists.
const REVISIONS: usize = 8;

impl Work<'_> {
    /// Fills in everything that only tells.
    pub(super) fn report(&mut self) {
        let state = self.state();
        self.status.phase = Some(state.phase().to_owned());
        let steps = self.release().map_or(0, |r| r.steps.len());
        self.status.step = state.step().map(|step| format!("{}/{steps}", step + 1));
        if self.release().is_some() {
            let before = self.status.unannounced.unwrap_or_default();
            self.status.unannounced = Some(before + self.obs.unannounced as i64);
        }
        self.counts();
        self.drain_pace();
        self.conditions(&state);
    }

    fn counts(&mut self) {
        let stable = self.stable_hash();
        let canary = self.release().map(|r| r.canary.clone());
        let mut revisions: Vec<RevisionStatus> = self
            .obs
            .revisions
            .iter()
            .filter(|(hash, view)| view.replicas > 0 || !view.pods.is_empty() || **hash == stable)
            .map(|(hash, view)| RevisionStatus {
                hash: hash.clone(),
                role: if self.is_leaving(hash) {
                    "leaving"
                } else {
                    role(hash, &stable, canary.as_deref())
                }
                .to_owned(),
                slot: slot_of(self.obs, hash),
                replicas: view.replicas as i32,
                ready: view.ready() as i32,
                sessions: view.sessions() as i64,
                unknown: view.unknown() as i32,
            })
            .collect();
        revisions.sort_by(|a, b| b.replicas.cmp(&a.replicas).then_with(|| a.hash.cmp(&b.hash)));
        revisions.truncate(REVISIONS);
        let total: i64 = revisions.iter().map(|r| r.sessions).sum();
        self.status.sessions = Some(total);
        self.status.moved = canary.map(|_| {
            let there = self.users(&self.canary(), ProbeTarget::Canary);
            let all = there + self.users(&self.stable(), ProbeTarget::Stable);
            format!("{there}/{all}")
        });
        self.status.replicas = revisions.iter().map(|r| r.replicas).sum();
        self.status.ready_replicas = revisions.iter().map(|r| r.ready).sum();
        self.status.selector = Some(format!(
            "{GROUP}/rollout={},{GROUP}/serving=true",
            self.obs.rollout.name
        ));
        self.status.revisions = revisions;
    }

    fn drain_pace(&mut self) {
        let left = self.left_to_move();
        let back = matches!(self.state(), State::RollingBack(_));
        let usable = self.terms(back).usable();
        let rate = self.wave_rate;
        if left.is_some_and(|left| left > 0) {
            self.status.drain.get_or_insert_default();
        }
        if let Some(drain) = &mut self.status.drain {
            // Kept when the release ends, or nobody tells any more.
            drain.returned = self.obs.accounts.clone().or(drain.returned.take());
            drain.rate = (rate * 10.0).round() / 10.0;
            drain.eta_seconds = left
                .filter(|left| *left > 0 && usable > 0.0)
                .map(|left| (left as f64 / usable).ceil() as i64);
        }
    }

    /// Users' sessions that this release, or this scale-down, has still to move; `None` where they leave by themselves.
    fn left_to_move(&self) -> Option<u64> {
        let Some(release) = self.release() else {
            return Some(self.wave_left);
        };
        match self.state() {
            State::RollingBack(_) => Some(self.users(&self.canary(), ProbeTarget::Canary)),
            State::Soaking(_) => Some(self.wave_left),
            _ if release.drain.mode == DrainMode::Leave || release.via == Some(Via::Signal) => None,
            _ => Some(self.users(&self.stable(), ProbeTarget::Stable)),
        }
    }

    fn conditions(&mut self, state: &State) {
        let generation = self.obs.rollout.generation;
        let now = self.now;
        let mut list = std::mem::take(&mut self.status.conditions);
        let mut set = |type_: &str, status: bool, reason: &str, message: &str| {
            conditions::set(&mut list, type_, status, reason, message, generation, now);
        };
        let phase = state.phase();
        let message = self.sentence(state);
        let problem = self.obs.problems.first();
        let blocked = problem.filter(|_| matches!(state, State::Initializing(_) | State::Preflight(_)));
        let preflight = matches!(state, State::Preflight(_));
        let queued = preflight && self.waits_for().is_some();
        let via = self
            .via_wait()
            .filter(|_| preflight && !queued && blocked.is_none());
        let (ready, reason) = match state {
            State::Healthy(_) | State::Soaking(_) => (self.stable_is_whole(state), phase),
            State::Paused(paused) => {
                let asked = matches!(paused.reason, PauseReason::Requested | PauseReason::Step);
                (asked, if asked { "Paused" } else { paused.reason.into() })
            }
            _ if queued => (self.stable_is_whole(state), "SlotsFull"),
            _ => (false, via.as_ref().map_or(phase, |w| w.reason)),
        };
        set(READY, ready, blocked.map_or(reason, |p| p.reason), &message);
        let settled = matches!(
            state,
            State::Healthy(_) | State::Soaking(_) | State::Paused(_) | State::RolledBack(_)
        );
        set(RECONCILING, !settled && blocked.is_none(), phase, &message);
        let late =
            matches!(state, State::Initializing(_) | State::Preflight(_)) && self.over_progress_deadline();
        let late = late && !queued;
        match (blocked, state) {
            (None, _) if via.as_ref().is_some_and(|w| w.stalled) => {
                set(STALLED, true, via.as_ref().map_or(phase, |w| w.reason), &message);
            }
            (Some(problem), _) => set(STALLED, true, problem.reason, &self.problems()),
            (None, State::RolledBack(back)) => {
                set(
                    STALLED,
                    true,
                    "RolledBack",
                    &format!("{}: {}", back.reason, back.message),
                );
            }
            (None, State::Preflight(_)) if late => set(STALLED, true, "ProgressDeadlineExceeded", &message),
            (None, _) if late => set(STALLED, true, "ProgressDeadlineExceeded", &self.why_not_ready()),
            _ => set(STALLED, false, phase, ""),
        }
        if let Some(evidence) = self
            .obs
            .evidence_of(ProbeTarget::Stable)
            .filter(|e| e.total.attempts > 0)
        {
            let fine = evidence.failures_in_a_row == 0;
            let last = evidence.last_failure.clone().unwrap_or_default();
            let message = if fine {
                "probes reach the service through the gateway".to_owned()
            } else {
                last
            };
            set(
                PROBES_READY,
                fine,
                if fine { "Answered" } else { "Failing" },
                &message,
            );
        }
        let scenarios = self.scenarios();
        if let Some(release) = self.release() {
            let failed = matches!(state, State::RollingBack(back) if back.reason == "RehearsalFailed");
            let reason = if failed {
                "Failed"
            } else if release.rehearsed {
                "Passed"
            } else {
                "Pending"
            };
            set(
                REHEARSED,
                release.rehearsed,
                reason,
                if failed { &message } else { &scenarios },
            );
        }
        let (drained, reason, message) = self.drained();
        set(DRAINED, drained, reason, &message);
        self.status.conditions = list;
    }

    /// The scenarios of the last rehearsal by their outcome, in one sentence.
    fn scenarios(&self) -> String {
        let lines = self
            .status
            .rehearsal
            .iter()
            .flat_map(|rehearsal| &rehearsal.scenarios);
        let told = lines.map(|line| match (line.outcome, &line.message) {
            (ScenarioResult::Skipped, Some(why)) => format!("{} was not played: {why}", line.name),
            (outcome, _) => format!("{} {}", line.name, outcome.to_string().to_lowercase()),
        });
        told.collect::<Vec<_>>().join("; ")
    }

    /// The condition `Drained`.
    fn drained(&self) -> (bool, &'static str, String) {
        let left = self.wave_left;
        match (self.status.wave.is_none(), self.overdue.is_empty()) {
            (true, _) => (true, "Empty", String::new()),
            (false, true) => (false, "Draining", format!("{left} sessions are left in the wave")),
            (false, false) => {
                let overdue = self.overdue.join(", ");
                let message = format!(
                    "{left} sessions are left on {overdue} past the deadline; onDeadline says what follows"
                );
                (false, "DeadlinePassed", message)
            }
        }
    }

    fn stable_is_whole(&self, state: &State) -> bool {
        let serving = if matches!(state, State::Soaking(_)) {
            self.canary()
        } else {
            self.stable()
        };
        serving.ready() >= self.limits.required
    }

    fn problems(&self) -> String {
        self.obs
            .problems
            .iter()
            .map(|p| p.message.as_str())
            .collect::<Vec<_>>()
            .join(" · ")
    }

    fn why_not_ready(&self) -> String {
        let stable = self.stable();
        let trouble = stable.trouble().unwrap_or("no detail");
        format!(
            "{} of {} pods are ready: {trouble}",
            stable.ready(),
            self.limits.replicas
        )
    }

    /// The phase in one sentence: what is done, or what is waited for.
    fn sentence(&self, state: &State) -> String {
        let blocked =
            matches!(state, State::Initializing(_) | State::Preflight(_)) && !self.obs.problems.is_empty();
        if blocked {
            return self.problems();
        }
        let canary = self.release().map(|r| r.canary.as_str()).unwrap_or_default();
        let stable = self.stable_hash();
        match state {
            State::Initializing(_) => {
                let view = self.stable();
                format!(
                    "{} of {} pods of revision {stable} are ready{}",
                    view.ready(),
                    self.limits.replicas,
                    because(&view)
                )
            }
            State::Healthy(_) => format!("revision {stable} serves"),
            State::Preflight(_) => self.preflight_sentence(),
            State::Surging(at) => {
                let view = self.canary();
                format!(
                    "{} of {} pods of revision {canary} are ready for step {}{}",
                    view.ready(),
                    self.canary_target(at.step),
                    at.step + 1,
                    because(&view)
                )
            }
            State::Rehearsing(_) => format!("probes play against revision {canary} at weight 0"),
            State::Shifting(_) => format!("weight {} is being programmed", self.desired_weight()),
            State::Moving(_) => format!(
                "{} sessions are on revision {canary}, {} on revision {stable}",
                self.canary().sessions(),
                self.stable().sessions()
            ),
            State::Analysing(_) => self
                .status
                .verdict
                .as_ref()
                .map_or_else(|| "probes are sampling".to_owned(), |v| v.message.clone()),
            State::Paused(paused) => paused.message.clone(),
            State::Finishing(_) => format!("the empty pods of revision {stable} go"),
            State::Soaking(_) => format!("revision {canary} serves everybody; the monitoring window runs"),
            State::RollingBack(back) => format!("{}: {}", back.reason, back.message),
            State::RolledBack(back) => format!("revision {stable} serves; {}: {}", back.reason, back.message),
        }
    }

    fn preflight_sentence(&self) -> String {
        let refused = self.obs.routes.iter().find_map(|r| r.accepted.clone().err());
        let pins = self.obs.pins.as_ref().and_then(|p| p.accepted.clone().err());
        let look = self
            .obs
            .look
            .as_ref()
            .filter(|l| l.failed > 0)
            .and_then(|l| l.error.clone());
        if let Some(why) = self.waits_for().or_else(|| self.via_wait().map(|w| w.message)) {
            return why;
        }
        match (refused, pins, look) {
            (Some(why), _, _) | (None, Some(why), _) => format!("waiting for the gateway: {why}"),
            (None, None, Some(why)) => format!("a connection to spec.probes.url failed: {why}"),
            (None, None, None) => "weights, slots and pins are being checked".to_owned(),
        }
    }
}

/// What stands in the way of a revision's pods, to be put behind a sentence.
fn because(view: &RevisionView) -> String {
    view.trouble().map(|t| format!(": {t}")).unwrap_or_default()
}

fn role(hash: &str, stable: &str, canary: Option<&str>) -> &'static str {
    match hash {
        _ if hash == stable => "stable",
        _ if Some(hash) == canary => "canary",
        _ => "old",
    }
}

fn slot_of(obs: &Observed, hash: &str) -> Option<String> {
    obs.slots
        .iter()
        .find(|(_, revision)| *revision == hash)
        .map(|(slot, _)| slot.clone())
}

/// Whether two statuses differ in nothing but progress: counts, ages, figures. Such a change may wait its turn; one that names
/// an act may not.
pub fn progress_only(old: &RolloutStatus, new: &RolloutStatus) -> bool {
    let acts = |status: &RolloutStatus| {
        let mut status = status.clone();
        status.revisions = Vec::new();
        status.sessions = None;
        status.moved = None;
        status.unannounced = None;
        let limit = status.drain.take().and_then(|d| d.pace).map(|pace| pace.limit);
        status.drain = limit.map(|limit| DrainStatus {
            pace: Some(Pace {
                limit,
                ..Pace::default()
            }),
            ..DrainStatus::default()
        });
        status.verdict = None;
        status.rehearsal = None;
        for alert in &mut status.alerts {
            alert.message.clear();
            alert.seen_at = jiff::Timestamp::UNIX_EPOCH;
        }
        status.replicas = 0;
        status.ready_replicas = 0;
        for condition in &mut status.conditions {
            condition.message.clear();
        }
        for leaving in &mut status.leaving {
            leaving.elapsed_ms = 0;
            leaving.ticked_at = jiff::Timestamp::UNIX_EPOCH;
            (leaving.sessions, leaving.unknown, leaving.oldest_seconds) = (0, 0, None);
        }
        if let Some(wave) = &mut status.wave {
            wave.settling = None;
            wave.elapsed_ms = 0;
            wave.ticked_at = jiff::Timestamp::UNIX_EPOCH;
            for pod in &mut wave.pods {
                (pod.notified, pod.closed_clean, pod.closed_forced) = (0, 0, 0);
            }
        }
        if let Some(release) = &mut status.release {
            release.baseline = None;
            if let Some(trial) = &mut release.trial {
                (trial.canary, trial.stable, trial.interval) = (Tally::default(), Tally::default(), None);
            }
        }
        status
    };
    acts(old) == acts(new)
}
