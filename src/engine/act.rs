//! What the phase asks of the cluster, as the difference to what is there. Routes come first, deletions last.

use std::collections::BTreeMap;
use std::time::Duration;

use super::advance::{canary_look_id, pins_look_id, rehearsal_run};
use super::evidence::ProbeTarget;
use super::observed::{PinKind, PinRule, PodView, RevisionView};
use super::plan::{Action, LookOrder, Note, Order, ProbePlan, Role};
use super::wave;
use super::work::{LOOK_UPGRADES, Work};
use crate::api::SLOTS;
use crate::api::status::{Rehearsing, Release, State, Wave, WaveReason};

/// Probe sessions while nothing is released: enough to know that a token still works.
const IDLE_PROBES: u32 = 2;
/// Sessions per second of a rehearsal's drain; only probes are on those pods.
const REHEARSAL_RATE: f64 = 20.0;

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
        self.wave();
        self.retire_whole(&state);
        self.actions.push(Action::Probe(self.probes()));
        self.looks(&state);
    }

    /// Weights are ours inside a release only; outside every slot selects the same revision and no weight does harm.
    fn weights(&mut self, state: &State) {
        if matches!(
            state,
            State::Soaking(_) | State::Healthy(_) | State::RolledBack(_) | State::Initializing(_)
        ) {
            return;
        }
        let (Some(release), Some(weight)) = (self.release().cloned(), self.status.weight.clone()) else {
            return;
        };
        if self.written_weight(&release) == Some(weight.desired) || self.obs.routes.is_empty() {
            return;
        }
        if weight.programmed == Some(weight.desired) {
            self.notes.push(Note::warning(
                "WeightsRepaired",
                format!(
                    "somebody else wrote the routes' weights; the new revision gets {} again",
                    weight.desired
                ),
            ));
            if let Some(weight) = &mut self.status.weight {
                weight.programmed = None;
                weight.asked_at = self.now;
            }
        }
        let weights: BTreeMap<String, i32> = SLOTS
            .into_iter()
            .map(|slot| {
                let share = match slot {
                    _ if *slot == release.canary_slot => weight.desired,
                    _ if *slot == release.stable_slot => 100 - weight.desired,
                    _ => 0,
                };
                (slot.to_owned(), share)
            })
            .collect();
        self.actions.push(Action::SetWeights { weights });
    }

    fn slots(&mut self, state: &State) {
        for slot in SLOTS {
            let wanted = self.slot_revision(slot, state);
            if self.obs.slots.get(slot) != Some(&wanted) {
                self.actions.push(Action::PointSlot {
                    slot: slot.to_owned(),
                    revision: wanted,
                });
            }
        }
    }

    /// An idle slot selects the revision that users are on; the new revision gets its slot at weight 0 only.
    fn slot_revision(&self, slot: &str, state: &State) -> String {
        let stable = self.stable_hash();
        let Some(release) = self.release() else {
            return stable;
        };
        let current = self
            .obs
            .slots
            .get(slot)
            .cloned()
            .unwrap_or_else(|| stable.clone());
        match state {
            State::Initializing(_) | State::Healthy(_) | State::RolledBack(_) | State::Preflight(_) => stable,
            State::Soaking(_) => release.canary.clone(),
            State::Finishing(_) if self.stable().replicas == 0 => release.canary.clone(),
            State::RollingBack(_) => {
                let weight = self.status.weight.as_ref();
                if *slot == release.canary_slot {
                    let gone = self.canary().replicas == 0 && self.canary().live().next().is_none();
                    let idle = weight.is_none_or(|w| w.desired == 0 && w.programmed == Some(0));
                    if gone && idle { stable } else { current }
                } else if weight.is_some_and(|w| w.programmed == Some(100))
                    && self.stable().in_rotation() == 0
                {
                    // From Soaking: the slot carries nobody and keeps selecting who serves until the old pods are there.
                    current
                } else {
                    stable
                }
            }
            _ if *slot == release.canary_slot => release.canary.clone(),
            _ => stable,
        }
    }

    fn pins(&mut self, state: &State) {
        let wanted = self.wanted_pins(state);
        match (&wanted, &self.obs.pins) {
            (None, Some(_)) => self.actions.push(Action::DeletePins),
            (Some(pins), there) if there.as_ref().is_none_or(|t| !t.current || t.pins != *pins) => {
                self.actions.push(Action::EnsurePins { pins: pins.clone() });
            }
            _ => {}
        }
    }

    /// Pins of the phase. A hint exists from the first move on; in a rollback it leads to the old revision, so that who kept
    /// it still lands on the service.
    fn wanted_pins(&self, state: &State) -> Option<Vec<PinRule>> {
        let release = self.release()?;
        let pin = |kind, value: &str, slot: &str| PinRule {
            kind,
            value: value.to_owned(),
            slot: slot.to_owned(),
        };
        let stable = pin(
            PinKind::ProbeHeader,
            &release.pins.probe_stable,
            &release.stable_slot,
        );
        let canary = pin(
            PinKind::ProbeHeader,
            &release.pins.probe_canary,
            &release.canary_slot,
        );
        let hint = |slot: &str| {
            release
                .hinted
                .then(|| pin(PinKind::HintQuery, &release.pins.hint, slot))
        };
        let mut pins = match state {
            State::Preflight(_) => vec![stable],
            State::RollingBack(_) => {
                let gone = self.canary().replicas == 0 && self.canary().live().next().is_none();
                if gone
                    && self
                        .status
                        .weight
                        .as_ref()
                        .is_none_or(|w| w.programmed == Some(0))
                {
                    return None;
                }
                [Some(stable), hint(&release.stable_slot)]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            State::Initializing(_) | State::Healthy(_) | State::RolledBack(_) => return None,
            _ => [Some(stable), Some(canary), hint(&release.canary_slot)]
                .into_iter()
                .flatten()
                .collect(),
        };
        pins.sort();
        Some(pins)
    }

    /// More pods where the phase needs them. Fewer only by `retire`.
    fn replicas(&mut self, state: &State) {
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
            State::Soaking(_) => replicas,
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
    fn labels(&mut self, state: &State) {
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
        let rehearsing = matches!(state, State::Rehearsing(_));
        let mut actions = Vec::new();
        for (hash, view) in &self.obs.revisions {
            let role = match () {
                () if canary_hash.as_ref() == Some(hash) => canary_role,
                () if *hash == stable_hash => Role::Stable,
                () => continue,
            };
            for pod in view.live().filter(|p| !in_wave.contains(&p.uid)) {
                let name: &'static str = role.into();
                if !pod.serving {
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
                if let Some(order) =
                    order.filter(|o| !rehearsing && matches!(o.state.as_str(), "active" | "paused"))
                {
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

    /// In the rehearsal the new revision's pods, which only probes are on, are asked to drain.
    fn rehearsal_orders(&mut self, state: &State) {
        let State::Rehearsing(Rehearsing {
            attempt,
            draining: true,
            ..
        }) = state
        else {
            return;
        };
        let Some(release) = self.release().cloned() else {
            return;
        };
        let run = rehearsal_run(&release, *attempt);
        for pod in self.canary().live() {
            let id = format!("{run}-{}", pod.uid);
            if pod
                .sessions
                .as_ref()
                .and_then(|s| s.drain.as_ref())
                .is_some_and(|d| d.id == id)
            {
                continue;
            }
            self.actions.push(Action::Order(Order {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
                id,
                reason: "rollout",
                count: None,
                rate_per_second: REHEARSAL_RATE,
                lease: wave::LEASE,
                deadline: self.obs.rollout.spec.rehearsal.timeout.0 * 2,
                close_at_deadline: false,
                reconnect_window: release
                    .drain
                    .notice
                    .reconnect_window
                    .0
                    .min(Duration::from_secs(2)),
                hint: None,
                close_code: release.drain.notice.close_code,
            }));
        }
    }

    /// Moves the wave on, and lets go of its pods when it is done.
    fn wave(&mut self) {
        let Some(mut wave) = self.status.wave.take() else {
            return;
        };
        let terms = self.terms(wave.reason == WaveReason::Rollback);
        if terms.hint.is_some() && !self.hint_is_there() {
            // Who is moved now would be moved again: the hint has to lead somewhere first.
            self.status.wave = Some(wave);
            return;
        }
        let revision = self.obs.revision(&wave.revision);
        let progress = wave::advance(&mut wave, &revision, &terms, self.now);
        let drain = self.status.drain.get_or_insert_default();
        drain.notified += progress.notified;
        drain.closed_clean += progress.closed_clean;
        drain.closed_forced += progress.closed_forced;
        self.wave_rate = progress.rate;
        self.wave_left = progress.left;
        self.overdue = progress.overdue;
        self.actions.extend(progress.actions);
        if !progress.done || !self.settle_wave(&wave, &revision) {
            self.status.wave = Some(wave);
            return;
        }
        let took = wave.ordered_at.map_or(0, |at| {
            let last = wave
                .pods
                .iter()
                .filter_map(|p| p.done_at)
                .max()
                .unwrap_or(self.now);
            last.duration_since(at).as_millis() as i64
        });
        let drain = self.status.drain.get_or_insert_default();
        drain.active_ms += took;
        let (told, clean, forced) = wave.pods.iter().fold((0, 0, 0), |sum, p| {
            (
                sum.0 + p.notified,
                sum.1 + p.closed_clean,
                sum.2 + p.closed_forced,
            )
        });
        self.notes.push(Note::normal(
            "WaveDone",
            format!("{} pods are done in {:.1} s: {told} sessions told, {clean} left in turn, {forced} closed at the deadline",
                wave.pods.len(), took as f64 / 1_000.0),
        ));
    }

    fn hint_is_there(&self) -> bool {
        let state = self.state();
        let wanted = self.wanted_pins(&state);
        self.obs
            .pins
            .as_ref()
            .is_some_and(|pins| pins.current && pins.accepted.is_ok() && Some(&pins.pins) == wanted.as_ref())
    }

    /// Retires as many of a finished wave's pods as capacity allows. True when nothing is left to do; who stays gets its
    /// labels back in the next round.
    fn settle_wave(&mut self, wave: &Wave, revision: &RevisionView) -> bool {
        if revision.live().count() as u32 != revision.replicas {
            return false;
        }
        let keep = match wave.reason {
            WaveReason::Rollout => self.limits.stable_target(self.canary().ready()),
            WaveReason::Rollback => 0,
            WaveReason::ScaleDown => self.limits.replicas,
        };
        let mine = |pod: &&PodView| wave.pods.iter().any(|p| p.uid == pod.uid && p.count.is_none());
        let (known, forced): (Vec<&PodView>, Vec<&PodView>) =
            revision.live().filter(mine).partition(|p| empty(p));
        // Whose deadline has passed is let go of whatever the floor says; the rest as far as capacity allows.
        let spare = (revision.replicas.saturating_sub(keep) as usize).saturating_sub(forced.len());
        let pods: Vec<(String, String)> = forced
            .into_iter()
            .chain(known.into_iter().take(spare))
            .map(|p| (p.name.clone(), p.uid.clone()))
            .collect();
        if pods.is_empty() {
            return true;
        }
        // A ReplicaSet deletes unready pods before cheap ones: none may be unready that might hold a session.
        let safe = revision
            .live()
            .filter(|p| !pods.iter().any(|(_, uid)| *uid == p.uid))
            .all(|p| p.ready || empty(p));
        if safe {
            self.actions.push(Action::Retire {
                revision: wave.revision.clone(),
                pods,
                from: revision.replicas,
            });
        }
        false
    }

    /// A whole revision goes: the old one when the last verdict is passed, the new one at the end of a rollback.
    fn retire_whole(&mut self, state: &State) {
        if self.status.wave.is_some() {
            return;
        }
        let Some(release) = self.release().cloned() else {
            return;
        };
        let hash = match state {
            State::Finishing(_) => release.stable,
            State::RollingBack(_) => {
                let idle = self
                    .status
                    .weight
                    .as_ref()
                    .is_none_or(|w| w.desired == 0 && w.programmed == Some(0));
                if !idle || (release.exposed && !self.canary().is_empty()) {
                    return;
                }
                release.canary
            }
            _ => return,
        };
        let revision = self.obs.revision(&hash);
        if revision.replicas == 0 || (release.exposed && !revision.is_empty()) {
            return;
        }
        let pods = revision.live().map(|p| (p.name.clone(), p.uid.clone())).collect();
        self.actions.push(Action::Retire {
            revision: hash,
            pods,
            from: revision.replicas,
        });
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
            State::Rehearsing(at) => Some(ProbePlan::Rehearsal {
                run: rehearsal_run(release, at.attempt),
                stable_pin: release.pins.probe_stable.clone(),
                canary_pin: release.pins.probe_canary.clone(),
                close_code: release.drain.notice.close_code,
            }),
            State::Surging(_) if !release.rehearsed => None,
            State::Initializing(_) | State::RollingBack(_) | State::RolledBack(_) | State::Healthy(_) => None,
            state => Some(fleet(release, &state, self.desired_weight())),
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
            self.actions.push(look(self.weight_look_id(&weight), None));
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

fn empty(pod: &PodView) -> bool {
    pod.sessions.as_ref().is_some_and(|s| s.open == 0)
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
