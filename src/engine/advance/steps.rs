//! The steps of a release, one phase after the other, until everybody has moved.

use std::time::Duration;

use super::{canary_look_id, people, pins_look_id, rehearsal_run};
use crate::api::spec::{PauseAction, RehearsalPolicy, Step};
use crate::api::status::{AtStep, PauseReason, Paused, Rehearsing, Release, Since, State};
use crate::engine::evidence::RehearsalStage;
use crate::engine::plan::Note;
use crate::engine::work::Work;

impl Work<'_> {
    pub(super) fn preflight(&mut self) {
        if !self.obs.problems.is_empty() {
            return;
        }
        let Some(release) = self.release().cloned() else {
            return;
        };
        if self.stable().in_rotation() < self.limits.required || self.leftovers() {
            return;
        }
        if self.waits_for().is_some() {
            // It may take hours: meanwhile the service goes on as outside of a release.
            self.scale_down();
            return;
        }
        if !self.choose_via() {
            return;
        }
        if self
            .status
            .wave
            .as_ref()
            .is_some_and(|w| w.revision == release.stable)
        {
            // Whatever a scale-down has not moved yet stays.
            self.drop_wave();
        }
        self.ask_weight(0);
        let idle = self.weight_is_programmed();
        let slots = self.all_slots(&release.stable);
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

    pub(super) fn surging(&mut self, at: &AtStep) {
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
        let id = canary_look_id(&release);
        let seen = self.looked(&id, &release.canary);
        let waited = self.since(at.since) > self.settle() + self.obs.rollout.spec.rehearsal.timeout.0;
        let tried = waited && self.obs.look.as_ref().is_some_and(|look| look.id == id);
        if seen || tried {
            self.enter(State::Rehearsing(Rehearsing {
                since: self.now,
                attempt: 1,
                draining: false,
            }));
        } else if self.over_progress_deadline() {
            let message = format!(
                "revision {} could not be looked at through the gateway",
                release.canary
            );
            self.roll_back("NotProgrammed", message, true);
        }
    }

    pub(super) fn rehearsing(&mut self, at: &Rehearsing) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let report = self
            .obs
            .rehearsal
            .as_ref()
            .filter(|r| r.run == rehearsal_run(&release, at.attempt));
        let ended = report
            .as_ref()
            .is_some_and(|r| matches!(r.stage, RehearsalStage::Passed | RehearsalStage::Failed(_)));
        if !ended && self.over_progress_deadline() {
            self.rehearsal_failed(&release, "RehearsalStuck", "it did not end in time".to_owned());
            return;
        }
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
            RehearsalStage::Running | RehearsalStage::AwaitingCrash(_) => {}
            RehearsalStage::AwaitingDrain if self.by_signal(&release.canary) => {
                let figures = &report.figures;
                self.note_baseline(figures.restored_p50_ms, figures.restored_p95_ms);
                let message = format!(
                    "{} probe sessions were opened and restored on revision {}; its SIGTERM handler was not tried",
                    report.sessions, release.canary
                );
                self.notes.push(Note::normal("Rehearsed", message));
                self.rehearsed();
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
                self.rehearsal_failed(&release, "RehearsalFailed", message);
            }
        }
    }

    fn rehearsal_failed(&mut self, release: &Release, reason: &str, message: String) {
        self.record_verdict("Breached", reason, &message);
        if self.obs.rollout.spec.rehearsal.policy == RehearsalPolicy::Required {
            self.roll_back(reason, message, true);
            return;
        }
        self.notes.push(Note::warning(
            "RehearsalFailed",
            format!("revision {}: {message}; rehearsal is advisory", release.canary),
        ));
        self.rehearsed();
    }

    fn rehearsed(&mut self) {
        if let Some(release) = self.status.release.as_mut() {
            release.rehearsed = true;
        }
        self.enter(State::Shifting(self.at(0)));
    }

    pub(super) fn shifting(&mut self, at: &AtStep) {
        let Some(step) = self.step(at.step) else { return };
        let rising = self.desired_weight() < i32::from(step.weight);
        let canary = self.canary();
        if rising && canary.ready() < self.canary_target(at.step) {
            self.enter(State::Surging(self.at(at.step)));
            return;
        }
        if rising && canary.in_rotation() == 0 {
            return;
        }
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

    pub(super) fn analysing(&mut self, at: &AtStep) {
        let Some(step) = self.step(at.step) else { return };
        let pause = self.pause_of(at.step, &step);
        if self.time_in_phase() < pause.unwrap_or_default() {
            return;
        }
        let passed = self.passed_of(at.step);
        if let Some(passed) = passed {
            let how = if passed.warned {
                "passed with a warning"
            } else {
                "passed"
            };
            if pause.is_some() {
                self.after_step(at.step, &format!("{how}: {}", passed.message));
            } else {
                let message = format!(
                    "step {} {how} and waits for promote: {}",
                    at.step + 1,
                    passed.message
                );
                self.pause(at.step, PauseReason::Step, message);
            }
        } else if self.over_progress_deadline_after(pause) {
            let message = self.status.verdict.as_ref().map(|v| v.message.clone());
            self.pause(at.step, PauseReason::Inconclusive, message.unwrap_or_default());
        }
    }

    /// How long a step is watched: as the spec says now, where it still has that step; `None` waits for `promote`.
    fn pause_of(&self, index: u32, step: &Step) -> Option<Duration> {
        let now = self.obs.rollout.spec.steps.get(index as usize);
        let pause = now
            .filter(|s| s.weight == step.weight)
            .map_or(&step.pause, |s| &s.pause);
        pause.duration.map(|d| d.0)
    }

    fn over_progress_deadline_after(&self, pause: Option<Duration>) -> bool {
        self.time_in_phase() > self.obs.rollout.spec.progress_deadline.0 + pause.unwrap_or_default()
    }

    /// Goes on after a step; says so.
    pub(in crate::engine) fn after_step(&mut self, step: u32, how: &str) -> String {
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

    pub(super) fn paused(&mut self, at: &Paused) {
        let deadline = &self.obs.rollout.spec.pause_deadline;
        let own = !matches!(at.reason, PauseReason::Requested | PauseReason::Step);
        if !own || self.time_in_phase() <= deadline.duration.0 {
            return;
        }
        let message = format!("paused for {}: {}", people(deadline.duration.0), at.message);
        match deadline.action {
            PauseAction::Rollback => self.roll_back("PauseDeadlineExceeded", message, true),
            // Every round: the publisher of events tells the same thing once.
            PauseAction::Notify => self.notes.push(Note::warning("PauseDeadlineExceeded", message)),
        }
    }
}
