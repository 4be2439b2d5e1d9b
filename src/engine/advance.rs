//! Which phase follows which, and when.

use std::time::Duration;

use super::evidence::RehearsalStage;
use super::observed::RevisionView;
use super::plan::Note;
use super::verdict::Judgement;
use super::wave;
use super::work::Work;
use crate::api::spec::{BreachAction, HintKind, MoveSessions, PauseAction, RehearsalPolicy};
use crate::api::status::{
    AtStep, PauseReason, Paused, Rehearsing, Release, RollingBack, Since, Soaking, State, Wave, WavePod,
    WaveReason,
};

/// Phases that one decision may pass through.
const HOPS: usize = 8;

impl Work<'_> {
    /// Goes from phase to phase until one has to wait.
    pub(super) fn advance(&mut self) {
        self.watch();
        for _ in 0..HOPS {
            let before = self.status.state.clone();
            match self.state() {
                State::Initializing(_) => self.initializing(),
                State::Healthy(_) | State::RolledBack(_) => self.scale_down(),
                State::Preflight(_) => self.preflight(),
                State::Surging(at) => self.surging(&at),
                State::Rehearsing(at) => self.rehearsing(&at),
                State::Shifting(at) => self.shifting(&at),
                State::Moving(at) => self.moving(&at),
                State::Analysing(at) => self.analysing(&at),
                State::Paused(at) => self.paused(&at),
                State::Finishing(_) => self.finishing(),
                State::Soaking(at) => self.soaking(&at),
                State::RollingBack(at) => self.rolling_back(&at),
            }
            if self.status.state == before {
                break;
            }
        }
    }

    /// Judges the new revision wherever users may be on it.
    fn watch(&mut self) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let watched = match self.state() {
            State::Surging(_) => release.rehearsed,
            State::Shifting(_)
            | State::Moving(_)
            | State::Analysing(_)
            | State::Paused(_)
            | State::Soaking(_) => true,
            _ => false,
        };
        if !watched {
            return;
        }
        if let Some(stable) = self.obs.evidence_of(super::evidence::ProbeTarget::Stable)
            && stable.window.attempts >= u64::from(release.thresholds.reconnect_success.min_samples)
        {
            self.note_baseline(stable.window.restored_p50_ms, stable.window.restored_p95_ms);
        }
        let step = self.state().step().unwrap_or(release.steps.len() as u32 - 1);
        match self.judge(&release) {
            Judgement::Breach {
                reason,
                message,
                action,
            } => {
                self.record_verdict("Breached", reason, &message);
                match action {
                    BreachAction::Rollback => self.roll_back(reason, message, true),
                    BreachAction::Pause if !matches!(self.state(), State::Paused(_) | State::Soaking(_)) => {
                        self.pause(step, PauseReason::Threshold, message);
                    }
                    BreachAction::Pause | BreachAction::Warn => {
                        self.notes
                            .push(Note::warning("ThresholdBreached", format!("{reason}: {message}")));
                    }
                }
            }
            Judgement::ControlFailing(message) => {
                self.record_verdict("Inconclusive", "ControlFailing", &message);
                if matches!(
                    self.state(),
                    State::Analysing(_) | State::Moving(_) | State::Shifting(_) | State::Surging(_)
                ) {
                    self.pause(step, PauseReason::ControlFailing, message);
                }
            }
            Judgement::Pass(message) => self.record_verdict("Passed", "Thresholds", &message),
            Judgement::Inconclusive(message) => self.record_verdict("Inconclusive", "Samples", &message),
        }
        let over_deadline = self.time_in_phase() > Duration::from_secs(5);
        if !matches!(self.state(), State::Soaking(_) | State::RollingBack(_))
            && self.desired_weight() > 0
            && over_deadline
            && self.canary().ready() == 0
        {
            self.roll_back(
                "NoReadyPods",
                format!("revision {} has no ready pod left", release.canary),
                true,
            );
        }
    }

    fn initializing(&mut self) {
        if !self.obs.problems.is_empty() {
            return;
        }
        let hash = self.stable_hash();
        let slots = crate::api::SLOTS
            .iter()
            .all(|slot| self.obs.slots.get(*slot) == Some(&hash));
        if slots && self.stable().ready() >= self.limits.required {
            self.notes
                .push(Note::normal("Ready", format!("revision {hash} serves")));
            self.enter(State::Healthy(Since { since: self.now }));
        }
    }

    /// Fewer replicas: the emptiest pods leave, drained like any other.
    fn scale_down(&mut self) {
        let stable = self.stable();
        let excess = stable.replicas.saturating_sub(self.limits.replicas);
        if excess == 0 || self.status.wave.is_some() || stable.live().count() as u32 != stable.replicas {
            return;
        }
        let spare = stable
            .in_rotation()
            .saturating_sub(self.limits.required.min(self.limits.replicas))
            .min(excess);
        let pods = wave::choose(stable.live(), u64::MAX, spare as usize);
        self.start_wave(WaveReason::ScaleDown, self.stable_hash(), pods, true);
    }

    fn preflight(&mut self) {
        if !self.obs.problems.is_empty() {
            return;
        }
        let Some(release) = self.release().cloned() else {
            return;
        };
        if self.stable().in_rotation() < self.limits.required.min(self.limits.replicas) {
            return;
        }
        self.ask_weight(0);
        let idle = self.weight_is_programmed();
        let slots = crate::api::SLOTS
            .iter()
            .all(|slot| self.obs.slots.get(*slot) == Some(&release.stable));
        let pinned = self
            .obs
            .pins
            .as_ref()
            .is_some_and(|p| p.current && p.accepted.is_ok());
        let id = pins_look_id(&release);
        if !(idle && slots && pinned && self.looked(&id, &release.stable)) {
            return;
        }
        if let Some(look) = &self.obs.look {
            // From the phase's begin: an upper bound, since the route may have been there before.
            let ms = look.at.duration_since(self.state().since()).as_millis().max(0) as u64;
            if let Some(release) = self.status.release.as_mut() {
                release.programming_ms = Some(ms);
            }
        }
        self.enter(State::Surging(self.at(0)));
    }

    fn surging(&mut self, at: &AtStep) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let (canary, target) = (self.canary(), self.canary_target(at.step));
        if canary.ready() < target {
            if self.over_progress_deadline() {
                let trouble = canary.live().find_map(|p| p.trouble.clone());
                let trouble = trouble.map(|t| format!(": {t}")).unwrap_or_default();
                let message = format!(
                    "{} of {target} pods of revision {} are ready after {}{trouble}",
                    canary.ready(),
                    release.canary,
                    people(self.obs.rollout.spec.progress_deadline.0)
                );
                self.roll_back("ProgressDeadlineExceeded", message, true);
            }
            return;
        }
        if release.rehearsed {
            self.enter(State::Shifting(self.at(at.step)));
            return;
        }
        if self.obs.slots.get(&release.canary_slot) != Some(&release.canary) {
            return;
        }
        // A revision that answers nobody cannot be seen through the gateway: the rehearsal will say so by name.
        let seen = self.looked(&canary_look_id(&release), &release.canary);
        let waited = self.since(at.since) > self.settle() + self.obs.rollout.spec.rehearsal.timeout.0;
        if seen
            || (waited
                && self
                    .obs
                    .look
                    .as_ref()
                    .is_some_and(|l| l.id == canary_look_id(&release)))
        {
            self.enter(State::Rehearsing(Rehearsing {
                since: self.now,
                attempt: 1,
                draining: false,
            }));
        }
    }

    fn rehearsing(&mut self, at: &Rehearsing) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let report = self
            .obs
            .rehearsal
            .as_ref()
            .filter(|r| r.run == rehearsal_run(&release, at.attempt));
        let Some(report) = report else {
            if at.draining {
                // The operator was restarted in the middle: the probes' memory is gone, so they begin again.
                let again = Rehearsing {
                    since: at.since,
                    attempt: at.attempt + 1,
                    draining: false,
                };
                self.enter(State::Rehearsing(again));
            }
            return;
        };
        match &report.stage {
            RehearsalStage::Running => {
                if self.over_progress_deadline() {
                    self.roll_back(
                        "RehearsalStuck",
                        "the rehearsal did not end in time".to_owned(),
                        true,
                    );
                }
            }
            RehearsalStage::AwaitingDrain => {
                if !at.draining {
                    self.enter(State::Rehearsing(Rehearsing {
                        draining: true,
                        ..at.clone()
                    }));
                }
            }
            RehearsalStage::Passed => {
                let figures = &report.figures;
                self.note_baseline(figures.restored_p50_ms, figures.restored_p95_ms);
                let message = format!(
                    "{} probe sessions were opened, moved and restored on revision {}",
                    report.sessions, release.canary
                );
                self.notes.push(Note::normal("Rehearsed", message));
                self.rehearsed();
            }
            RehearsalStage::Failed(failure) => {
                let message = format!("{}: {}", failure.check, failure.message);
                self.record_verdict("Breached", "RehearsalFailed", &message);
                if self.obs.rollout.spec.rehearsal.policy == RehearsalPolicy::Required {
                    self.roll_back("RehearsalFailed", message, true);
                } else {
                    self.notes.push(Note::warning(
                        "RehearsalFailed",
                        format!("{message}; rehearsal is advisory"),
                    ));
                    self.rehearsed();
                }
            }
        }
    }

    fn rehearsed(&mut self) {
        if let Some(release) = self.status.release.as_mut() {
            release.rehearsed = true;
        }
        self.enter(State::Shifting(self.at(0)));
    }

    fn shifting(&mut self, at: &AtStep) {
        let Some(step) = self.step(at.step) else { return };
        if let Some(release) = self.status.release.as_mut() {
            release.exposed = true;
        }
        self.ask_weight(i32::from(step.weight));
        if self.weight_is_programmed() {
            self.enter(State::Moving(self.at(at.step)));
        } else if self.over_progress_deadline() {
            let refused = self.obs.routes.iter().find_map(|r| r.accepted.clone().err());
            let refused = refused.unwrap_or_else(|| "fresh connections do not follow it".to_owned());
            let message = format!(
                "the weight {} was not programmed in time: {refused}",
                self.desired_weight()
            );
            self.roll_back("NotProgrammed", message, true);
        }
    }

    /// One wave after the other, until the step's share of the sessions is on the new revision.
    fn moving(&mut self, at: &AtStep) {
        let (Some(release), Some(step)) = (self.release().cloned(), self.step(at.step)) else {
            return;
        };
        if self.status.wave.is_some() {
            return;
        }
        let canary = self.canary();
        if canary.ready() < self.canary_target(at.step) {
            self.enter(State::Surging(self.at(at.step)));
            return;
        }
        if self.desired_weight() != i32::from(step.weight) {
            self.enter(State::Shifting(self.at(at.step)));
            return;
        }
        let stable = self.stable();
        if step.weight < 100 {
            let pods = if pinned(&release, step.move_sessions) {
                self.wave_pods(step.weight)
            } else {
                Vec::new()
            };
            if pods.is_empty() {
                self.enter(State::Analysing(self.at(at.step)));
            } else {
                self.start_wave(WaveReason::Rollout, release.stable, pods, true);
            }
        } else if stable.is_empty() && stable.sessions() == 0 {
            self.enter(State::Analysing(self.at(at.step)));
        } else {
            let pods = self.last_pods(&stable, &canary);
            self.start_wave(WaveReason::Rollout, release.stable, pods, false);
        }
    }

    /// Pods of the old revision for the next wave of the last step: the whole revision is at weight 0, so nobody has to leave
    /// rotation; only as many sessions go as the new revision's pods can carry.
    fn last_pods(&self, stable: &RevisionView, canary: &RevisionView) -> Vec<WavePod> {
        let carried = self.limits.carries(canary.in_rotation());
        let total = stable.sessions() + canary.sessions();
        let need = (total * u64::from(carried) / 100).saturating_sub(canary.sessions());
        let some = if carried < 100 {
            let full = stable
                .live()
                .filter(|p| p.sessions.as_ref().is_some_and(|s| s.open > 0));
            wave::choose(full, need, wave::MAX_PODS)
        } else {
            Vec::new()
        };
        if some.is_empty() {
            wave::everyone(stable)
        } else {
            some
        }
    }

    /// Pods of the old revision for the next wave of a step below weight 100.
    ///
    /// As many as can leave rotation while ready capacity holds and one is left for the users that the weight still sends there.
    fn wave_pods(&self, weight: u8) -> Vec<WavePod> {
        let (stable, canary) = (self.stable(), self.canary());
        let spare = (stable.in_rotation() + canary.in_rotation()).saturating_sub(self.limits.required);
        let max = spare.min(stable.in_rotation().saturating_sub(1));
        let total = stable.sessions() + canary.sessions();
        let wanted = (total * u64::from(weight)).div_ceil(100);
        let carried = total * u64::from(self.limits.carries(canary.in_rotation())) / 100;
        let need = wanted.min(carried).saturating_sub(canary.sessions());
        // Two in a hundred more or less are not worth a wave of their own.
        if max == 0 || need == 0 || need * 50 < total {
            return Vec::new();
        }
        wave::choose(stable.live().filter(|p| p.serving), need, max as usize)
    }

    pub(super) fn start_wave(
        &mut self,
        reason: WaveReason,
        revision: String,
        pods: Vec<WavePod>,
        leave_rotation: bool,
    ) {
        if pods.is_empty() {
            return;
        }
        let known: i64 = pods
            .iter()
            .map(|p| p.count.or(p.sessions).unwrap_or_default())
            .sum();
        let (id, number) = match self.status.release.as_mut() {
            Some(release) => {
                release.waves += 1;
                release.hinted = release.hinted || release.drain.notice.hint == HintKind::Query;
                (format!("{}-w{}", release.id, release.waves), release.waves)
            }
            None => (format!("s{}", self.now.as_millisecond()), 1),
        };
        let drain = self.status.drain.get_or_insert_default();
        drain.wave = number;
        drain.total += known;
        let names: Vec<&str> = pods.iter().map(|p| p.name.as_str()).collect();
        self.notes.push(Note::normal(
            "WaveStarted",
            format!(
                "wave {number}: {known} sessions on {} pods leave ({})",
                pods.len(),
                names.join(", ")
            ),
        ));
        self.status.wave = Some(Wave {
            id,
            reason,
            revision,
            since: self.now,
            ordered_at: None,
            elapsed_ms: 0,
            ticked_at: self.now,
            leave_rotation,
            pods,
        });
    }

    fn analysing(&mut self, at: &AtStep) {
        let (Some(release), Some(step)) = (self.release().cloned(), self.step(at.step)) else {
            return;
        };
        let waited = self.time_in_phase();
        if waited < step.pause.duration.map_or(Duration::ZERO, |d| d.0) {
            return;
        }
        match self.judge(&release) {
            Judgement::Pass(_) if step.pause.duration.is_some() => {
                self.after_step(at.step, "passed");
            }
            Judgement::Pass(_) => {
                let message = format!("step {} is passed and waits for promote", at.step + 1);
                self.pause(at.step, PauseReason::Step, message);
            }
            Judgement::Inconclusive(message)
                if self.over_progress_deadline_after(step.pause.duration.map(|d| d.0)) =>
            {
                self.pause(at.step, PauseReason::Inconclusive, message);
            }
            _ => {}
        }
    }

    fn over_progress_deadline_after(&self, pause: Option<Duration>) -> bool {
        self.time_in_phase() > self.obs.rollout.spec.progress_deadline.0 + pause.unwrap_or_default()
    }

    /// Goes on after a step; says so.
    pub(super) fn after_step(&mut self, step: u32, how: &str) -> String {
        let steps = self.release().map_or(0, |r| r.steps.len() as u32);
        let message = format!("step {} of {steps} {how}", step + 1);
        self.notes.push(Note::normal("StepPassed", message.clone()));
        if step + 1 < steps {
            self.enter(State::Surging(self.at(step + 1)));
        } else {
            self.enter(State::Finishing(Since { since: self.now }));
        }
        message
    }

    fn paused(&mut self, at: &Paused) {
        let deadline = &self.obs.rollout.spec.pause_deadline;
        let own = !matches!(at.reason, PauseReason::Requested | PauseReason::Step);
        if own && self.time_in_phase() > deadline.duration.0 && deadline.action == PauseAction::Rollback {
            let message = format!("paused for {}: {}", people(deadline.duration.0), at.message);
            self.roll_back("PauseDeadlineExceeded", message, true);
        }
    }

    fn finishing(&mut self) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let stable = self.obs.revision(&release.stable);
        if !stable.is_empty() {
            let last = release.steps.len() as u32 - 1;
            self.enter(State::Moving(self.at(last)));
            return;
        }
        if stable.replicas > 0 || stable.live().next().is_some() {
            return;
        }
        self.status.stable = Some(release.canary.clone());
        let slots = crate::api::SLOTS
            .iter()
            .all(|slot| self.obs.slots.get(*slot) == Some(&release.canary));
        if !slots {
            return;
        }
        self.notes.push(Note::normal(
            "ReleaseCompleted",
            format!("revision {} serves everybody", release.canary),
        ));
        let window = self.obs.rollout.spec.rollback_window;
        self.enter(State::Soaking(Soaking {
            since: self.now,
            until: self
                .now
                .saturating_add(window.signed())
                .unwrap_or(jiff::Timestamp::MAX),
        }));
    }

    fn soaking(&mut self, at: &Soaking) {
        if self.now >= at.until {
            self.close_release("Completed", None);
            self.status.weight = None;
            self.enter(State::Healthy(Since { since: self.now }));
        }
    }

    fn rolling_back(&mut self, at: &RollingBack) {
        let Some(release) = self.release().cloned() else {
            self.enter(State::Healthy(Since { since: self.now }));
            return;
        };
        let (stable, canary) = (self.stable(), self.canary());
        let pointed = self.obs.slots.get(&release.stable_slot) == Some(&release.stable);
        let carried = if pointed {
            i32::from(self.limits.carries(stable.in_rotation()))
        } else {
            0
        };
        let floor = if canary.in_rotation() == 0 && pointed && stable.in_rotation() > 0 {
            0
        } else {
            100 - carried
        };
        let ceiling = if self.status.weight.is_some() {
            self.desired_weight()
        } else {
            0
        };
        // From Soaking the old revision's slot carries nobody; its share begins when its pods are there.
        self.ask_weight(if pointed { floor.min(ceiling) } else { ceiling });
        let programmed = self.weight_is_programmed();
        let zero = self.desired_weight() == 0;
        if zero && at.weights_restored_at.is_none() && self.written_weight(&release) == Some(0) {
            let restored = RollingBack {
                weights_restored_at: Some(self.now),
                ..at.clone()
            };
            self.status.state = Some(State::RollingBack(restored));
        }
        if !zero || !programmed || self.status.wave.is_some() {
            return;
        }
        if canary.replicas == 0 && canary.live().next().is_none() {
            if self.obs.slots.get(&release.canary_slot) == Some(&release.stable) && self.obs.pins.is_none() {
                self.finish_rollback(at.reason.clone(), at.message.clone(), at.reject);
            }
            return;
        }
        // Users may be there: their sessions move back as gently as they came.
        if release.exposed && !canary.is_empty() && stable.in_rotation() >= self.limits.required {
            self.start_wave(
                WaveReason::Rollback,
                release.canary,
                wave::everyone(&canary),
                false,
            );
        }
    }

    // --- helpers ---

    fn step(&self, index: u32) -> Option<crate::api::spec::Step> {
        self.release()?.steps.get(index as usize).cloned()
    }

    /// Pods that the new revision shall have now, for a step.
    pub(super) fn canary_target(&self, step: u32) -> u32 {
        let weight = self.step(step).map_or(100, |s| s.weight);
        self.limits
            .canary_target(weight, self.stable().replicas, self.canary().replicas)
    }
}

/// Whether a step moves sessions by the hint. `Auto` needs one to be configured.
fn pinned(release: &Release, how: MoveSessions) -> bool {
    how != MoveSessions::None && release.drain.notice.hint == HintKind::Query
}

/// Identifies the look for the pins route itself.
pub(super) fn pins_look_id(release: &Release) -> String {
    format!("{}-pins", release.id)
}

/// Identifies the look for the new revision behind its pin.
pub(super) fn canary_look_id(release: &Release) -> String {
    format!("{}-canary", release.id)
}

/// Identifies a rehearsal.
pub(super) fn rehearsal_run(release: &Release, attempt: u32) -> String {
    format!("{}-rehearsal{attempt}", release.id)
}

fn people(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |d| format!("{d:#}"))
}
