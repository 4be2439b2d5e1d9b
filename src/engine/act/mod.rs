//! What the phase asks of the cluster, as the difference to what is there. Routes come first, deletions last.

mod moves;
mod pods;
mod rehearsal;
mod traffic;

use super::advance::{canary_look_id, pins_look_id};
use super::evidence::ProbeTarget;
use super::plan::{Action, LookOrder, ProbePlan};
use super::work::{LOOK_UPGRADES, Work, weight_look_id};
use crate::api::status::{Release, State};

/// Probe sessions while nothing is released: enough to know that a token still works.
const IDLE_PROBES: u32 = 2;
impl Work<'_> {
    /// Derives the actions of the present phase.
    pub(super) fn act(&mut self) {
        let state = self.state();
        let waiting = matches!(state, State::Initializing(_) | State::Preflight(_));
        if waiting && !self.obs.problems.is_empty() {
            // Nothing is changed while something stands in the way; the probes that run go on.
            self.actions.push(Action::Probe(self.probes()));
            return;
        }
        self.weights(&state);
        self.slots(&state);
        self.pins(&state);
        self.replicas(&state);
        self.labels(&state);
        self.rehearsal_orders(&state);
        self.crash(&state);
        self.wave();
        self.leave();
        // Probes leave before the pods they are on.
        self.actions.push(Action::Probe(self.probes()));
        self.retire_whole(&state);
        self.looks(&state);
    }

    /// Probes of the phase. On a revision that is to become empty there are none.
    fn probes(&self) -> Option<ProbePlan> {
        let idle = |hash: &str| {
            Some(ProbePlan::Fleet {
                run: format!("idle-{hash}"),
                targets: vec![(ProbeTarget::Stable, None)],
                sessions: Some(IDLE_PROBES),
            })
        };
        let stable = self.stable_hash();
        let Some(release) = self.release() else {
            return match self.state() {
                State::Initializing(_) => None,
                _ => idle(&stable),
            };
        };
        match self.state() {
            State::Preflight(_) => idle(&stable),
            State::Rehearsing(at) => Some(self.rehearsal(release, &at)),
            State::Surging(_) if !release.rehearsed => None,
            State::Initializing(_) | State::RollingBack(_) | State::RolledBack(_) | State::Healthy(_) => None,
            state => Some(fleet(release, &state, self.step_weight())),
        }
    }

    fn looks(&mut self, state: &State) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let look = |id: String, pin: Option<String>| {
            Action::Look(LookOrder {
                id,
                pin,
                upgrades: LOOK_UPGRADES,
            })
        };
        let pins_there = self
            .obs
            .pins
            .as_ref()
            .is_some_and(|p| p.current && p.accepted.is_ok());
        if let Some(weight) = self.status.weight.clone()
            && weight.programmed != Some(weight.desired)
            && self.sole_revision(&release, weight.desired).is_some()
            && self.written_weight(&release) == Some(weight.desired)
            && self.routes_accepted()
        {
            self.actions.push(look(weight_look_id(&weight), None));
            return;
        }
        match state {
            State::Preflight(_) if pins_there => {
                self.actions.push(look(
                    pins_look_id(&release),
                    Some(release.pins.probe_stable.clone()),
                ));
            }
            State::Surging(at)
                if !release.rehearsed
                    && pins_there
                    && self.canary().ready() >= self.canary_target(at.step) =>
            {
                self.actions.push(look(
                    canary_look_id(&release),
                    Some(release.pins.probe_canary.clone()),
                ));
            }
            _ => {}
        }
    }
}

/// The fleet of a release's step: on the new revision, and on the old one while it is in rotation.
fn fleet(release: &Release, state: &State, weight: i32) -> ProbePlan {
    let mut targets = vec![(ProbeTarget::Canary, Some(release.pins.probe_canary.clone()))];
    let control = weight < 100;
    if control {
        targets.push((ProbeTarget::Stable, Some(release.pins.probe_stable.clone())));
    }
    let step = state.step().unwrap_or(release.steps.len() as u32 - 1);
    let suffix = if control { "" } else { "-alone" };
    ProbePlan::Fleet {
        run: format!("{}-step{step}{suffix}", release.id),
        targets,
        sessions: None,
    }
}
