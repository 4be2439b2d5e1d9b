//! Which phase follows which, and when.

mod ends;
mod moves;
mod rehearsal;
mod steps;
mod trials;

use std::time::Duration;

use super::plan::Note;
use super::verdict::{Judgement, Outcome};
use super::work::Work;
use crate::api::spec::BreachAction;
use crate::api::status::{PauseReason, Release, Since, State};

/// Phases that one decision may pass through.
const HOPS: usize = 8;

/// How long a new revision with a weight may have no ready pod.
const NO_READY_PODS: Duration = Duration::from_secs(5);

impl Work<'_> {
    /// Goes from phase to phase until one has to wait.
    pub(super) fn advance(&mut self) {
        self.watch_leaving();
        self.close_overdue();
        self.expose();
        self.weight_is_programmed();
        self.windows();
        self.watch();
        self.alert();
        for _ in 0..HOPS {
            let before = self.status.state.clone();
            match self.state() {
                State::Initializing(_) => self.initializing(),
                State::Healthy(_) | State::RolledBack(_) => {
                    self.leftovers();
                    self.scale_down();
                }
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

    /// Users may be on a new revision that got no weight from us: somebody else wrote weights, or pointed a slot at it.
    fn expose(&mut self) {
        let Some(release) = self.release() else { return };
        let carries = |slot: &String| self.obs.slots.get(slot) == Some(&release.canary);
        let led = self
            .obs
            .routes
            .iter()
            .flat_map(|route| &route.rules)
            .flatten()
            .any(|(slot, weight)| *weight > 0 && carries(slot));
        if led && let Some(release) = self.status.release.as_mut() {
            release.exposed = true;
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
        self.sample();
        self.conserve();
        let Some(trial) = self.release().and_then(|r| r.trial.clone()) else {
            return;
        };
        let step = self.state().step().unwrap_or(release.steps.len() as u32 - 1);
        let Outcome {
            judgement,
            mut warnings,
        } = self.judge(&release, &trial);
        let stays = matches!(self.state(), State::Paused(_) | State::Soaking(_));
        match judgement {
            Judgement::Breach(breach) => {
                self.record_verdict("Breached", &breach.reason, &breach.message);
                match breach.action {
                    BreachAction::Rollback => self.roll_back(&breach.reason, breach.message, true),
                    BreachAction::Pause if !stays => {
                        self.pause(step, PauseReason::Threshold, breach.message);
                    }
                    BreachAction::Pause | BreachAction::Warn => warnings.push(breach),
                }
            }
            Judgement::ControlFailing(message) => {
                self.record_verdict("Inconclusive", "ControlFailing", &message);
                if !stays {
                    self.pause(step, PauseReason::ControlFailing, message);
                }
            }
            Judgement::Pass(message) => self.passed(&trial, message, !warnings.is_empty()),
            Judgement::Inconclusive(message) => match trial.passed {
                // What was reached on a step stays.
                Some(passed) => self.record_verdict("Passed", "Thresholds", &passed.message),
                None => self.record_verdict("Inconclusive", "Samples", &message),
            },
        }
        self.warn_of(&warnings);
        let lasting = self.time_in_phase() > NO_READY_PODS;
        if !matches!(self.state(), State::Soaking(_) | State::RollingBack(_))
            && self.desired_weight() > 0
            && lasting
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
        if self.all_slots(&hash) && self.stable().ready() >= self.limits.required {
            self.notes
                .push(Note::normal("Ready", format!("revision {hash} serves")));
            self.enter(State::Healthy(Since { since: self.now }));
        }
    }

    /// Whether every slot selects this revision.
    fn all_slots(&self, hash: &str) -> bool {
        let slots = self.obs.rollout.slots();
        slots
            .iter()
            .all(|slot| self.obs.slots.get(*slot).is_some_and(|h| h == hash))
    }

    fn step(&self, index: u32) -> Option<crate::api::spec::Step> {
        self.release()?.steps.get(index as usize).cloned()
    }

    /// Pods that the new revision shall have now, for a step.
    pub(super) fn canary_target(&self, step: u32) -> u32 {
        let weight = self.step(step).map_or(100, |s| s.weight);
        if weight == 100 && self.leaves() {
            // The old revision's pods stay as long as their sessions do: nothing becomes free for the new one.
            return self.limits.replicas.max(self.canary().replicas);
        }
        self.limits
            .canary_target(weight, self.stable().replicas, self.canary().replicas)
    }
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
