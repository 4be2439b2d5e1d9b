//! How many pods there are, what their labels say, and when a whole revision goes.

use crate::api::status::State;
use crate::engine::advance::rehearsal_run;
use crate::engine::observed::DrainView;
use crate::engine::plan::{Action, Role};
use crate::engine::work::Work;

impl Work<'_> {
    /// More pods where the phase needs them. Fewer only by `retire`.
    pub(super) fn replicas(&mut self, state: &State) {
        let replicas = self.limits.replicas;
        let (stable_hash, stable) = (self.stable_hash(), self.stable());
        let wanted_stable = match state {
            State::Finishing(_) | State::Soaking(_) => 0,
            State::Initializing(_) | State::Healthy(_) | State::RolledBack(_) | State::Preflight(_) => {
                replicas
            }
            State::RollingBack(_) => replicas,
            _ => self.limits.stable_target(self.canary().ready()),
        };
        if !self.obs.revisions.contains_key(&stable_hash) {
            if matches!(state, State::Initializing(_)) {
                self.actions.push(Action::CreateRevision {
                    revision: stable_hash,
                    replicas,
                    role: Role::Stable,
                });
            }
        } else if stable.replicas < wanted_stable {
            self.actions.push(Action::Grow {
                revision: stable_hash,
                replicas: wanted_stable,
            });
        }
        let Some(release) = self.release().cloned() else {
            return;
        };
        let wanted_canary = match state {
            State::Surging(at) => self.canary_target(at.step),
            // It carries everybody: more replicas are its own.
            State::Moving(at) | State::Analysing(at) if self.step_weight() == 100 => {
                self.canary_target(at.step)
            }
            State::Finishing(_) | State::Soaking(_) => replicas,
            _ => return,
        };
        if !self.obs.revisions.contains_key(&release.canary) {
            self.actions.push(Action::CreateRevision {
                revision: release.canary,
                replicas: wanted_canary,
                role: Role::Rehearsal,
            });
        } else if self.canary().replicas < wanted_canary {
            self.actions.push(Action::Grow {
                revision: release.canary,
                replicas: wanted_canary,
            });
        }
    }

    /// Pods that are in no wave are in rotation, in their role, and follow no order of ours.
    pub(super) fn labels(&mut self, state: &State) {
        let canary_role = match state {
            State::Soaking(_) => Role::Stable,
            _ if self.release().is_some_and(|r| r.rehearsed) => Role::Canary,
            _ => Role::Rehearsal,
        };
        let stable_hash = self.stable_hash();
        let canary_hash = self.release().map(|r| r.canary.clone());
        let in_wave: Vec<String> = self
            .status
            .wave
            .iter()
            .flat_map(|w| &w.pods)
            .map(|p| p.uid.clone())
            .collect();
        let run = match (state, self.release()) {
            (State::Rehearsing(at), Some(release)) if at.draining => {
                Some(format!("{}-", rehearsal_run(release, at.attempt)))
            }
            _ => None,
        };
        // Whoever comes to a pod under such an order would be asked to leave, though the order is done with those it was for.
        let rehearsal = self.release().map(|release| format!("{}-rehearsal", release.id));
        let rehearsal = |id: &str| rehearsal.as_ref().is_some_and(|prefix| id.starts_with(prefix));
        let mut actions = Vec::new();
        for (hash, view) in &self.obs.revisions {
            let role = match () {
                () if canary_hash.as_ref() == Some(hash) => canary_role,
                () if *hash == stable_hash => Role::Stable,
                () => continue,
            };
            if self.is_leaving(hash) {
                continue;
            }
            for pod in view.live().filter(|p| !in_wave.contains(&p.uid)) {
                let name: &'static str = role.into();
                // The cost of an earlier retirement that came to nothing would send the wrong pod away later.
                let marked = pod.deletion_cost.is_some_and(|cost| cost != 0);
                if !pod.serving || marked {
                    actions.push(Action::EnterRotation {
                        pod: pod.name.clone(),
                        uid: pod.uid.clone(),
                        role,
                    });
                } else if pod.role.as_deref() != Some(name) {
                    actions.push(Action::SetRole {
                        pod: pod.name.clone(),
                        uid: pod.uid.clone(),
                        role,
                    });
                }
                let order = pod.sessions.as_ref().and_then(|s| s.drain.as_ref());
                let works = |state: &str| matches!(state, "active" | "paused");
                let wanted = |id: &str| run.as_ref().is_some_and(|run| id.starts_with(run.as_str()));
                let lasts = |o: &&DrainView| works(&o.state) || (o.state == "done" && rehearsal(&o.id));
                if let Some(order) = order.filter(|o| lasts(o) && !wanted(&o.id)) {
                    actions.push(Action::CancelOrder {
                        pod: pod.name.clone(),
                        uid: pod.uid.clone(),
                        id: order.id.clone(),
                    });
                }
            }
        }
        self.actions.extend(actions);
    }

    /// A whole revision goes: the old one when the last verdict is passed, the new one at the end of a rollback, and one that
    /// belongs to no release.
    pub(super) fn retire_whole(&mut self, state: &State) {
        if self.status.wave.is_some() {
            return;
        }
        let (hash, exposed) = match (state, self.release()) {
            // The new revision has to carry everybody before the way back is given up.
            (State::Finishing(_), Some(release)) if self.canary().in_rotation() >= self.limits.required => {
                (release.stable.clone(), true)
            }
            (State::RollingBack(_), Some(release)) if self.is_at_zero() => {
                (release.canary.clone(), release.exposed)
            }
            // Its pods go wave by wave; what is left is a set whose pods were never made.
            (State::Healthy(_) | State::RolledBack(_) | State::Preflight(_), _) => match self.leftover() {
                Some((hash, view)) if view.pods.is_empty() => (hash, true),
                _ => return,
            },
            _ => return,
        };
        let revision = self.obs.revision(&hash);
        if self.is_leaving(&hash) {
            return;
        }
        if revision.replicas == 0 || (exposed && !revision.is_empty()) {
            return;
        }
        self.actions.push(Action::Retire {
            revision: hash,
            pods: revision.live().map(|p| (p.name.clone(), p.uid.clone())).collect(),
            from: revision.replicas,
            to: 0,
        });
    }

    fn is_at_zero(&self) -> bool {
        let weight = self.status.weight.as_ref();
        weight.is_none_or(|w| w.desired == 0 && w.programmed == Some(0))
    }
}
