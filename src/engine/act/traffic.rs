//! Weights, slots and pins of the phase.

use std::collections::BTreeMap;

use crate::api::spec::HintKind;
use crate::api::status::{Release, State};
use crate::engine::observed::{NOBODY, PinKind, PinRule};
use crate::engine::plan::{Action, Note};
use crate::engine::work::Work;

impl Work<'_> {
    /// Weights are ours inside a release only; outside every slot selects the same revision and no weight does harm.
    pub(super) fn weights(&mut self, state: &State) {
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
        }
        // The gateway's time to follow runs from the last writing.
        if let Some(weight) = &mut self.status.weight {
            weight.programmed = weight.programmed.filter(|w| *w != weight.desired);
            weight.asked_at = self.now;
        }
        let weights: BTreeMap<String, i32> = self
            .obs
            .rollout
            .slots()
            .iter()
            .copied()
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

    pub(super) fn slots(&mut self, state: &State) {
        for &slot in self.obs.rollout.slots() {
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
            State::Finishing(_) if self.stable().replicas == 0 || self.is_leaving(&release.stable) => {
                release.canary.clone()
            }
            State::RollingBack(_) if *slot == release.canary_slot => {
                if (self.canary_is_gone() && self.weight_is(release, 0))
                    || (current != release.canary && !release.exposed)
                {
                    stable
                } else {
                    release.canary.clone()
                }
            }
            State::RollingBack(_) => {
                // From Soaking: the slot keeps selecting who serves until the old pods are there, and nobody is led to it.
                let from_soaking = self.desired_weight() == 100 && current == release.canary;
                let early = self.stable().in_rotation() == 0 || !self.weight_is(release, 100);
                if from_soaking && early { current } else { stable }
            }
            _ if *slot == release.canary_slot => {
                // Only while nobody is led there, or where it carried its users before.
                let serves = release.rehearsed && self.canary().in_rotation() > 0;
                if serves || self.weight_is(release, 0) {
                    release.canary.clone()
                } else {
                    current
                }
            }
            _ => stable,
        }
    }

    /// Whether the routes say this weight, and the gateway was seen to follow.
    pub(in crate::engine) fn weight_is(&self, release: &Release, wanted: i32) -> bool {
        let weight = self.status.weight.as_ref();
        weight.is_some_and(|w| w.desired == wanted && w.programmed == Some(wanted))
            && self.written_weight(release) == Some(wanted)
    }

    pub(super) fn pins(&mut self, state: &State) {
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
    pub(super) fn wanted_pins(&self, state: &State) -> Option<Vec<PinRule>> {
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
        let carried = match release.drain.notice.hint {
            HintKind::Query => Some(PinKind::HintQuery),
            HintKind::Path => Some(PinKind::HintPath),
            HintKind::Header => Some(PinKind::HintHeader),
            HintKind::None => None,
        };
        let carried = carried.filter(|_| release.hinted);
        let hint = |slot: &str| carried.map(|kind| pin(kind, &release.pins.hint, slot));
        let mut pins = match state {
            State::Preflight(_) => vec![stable],
            State::RollingBack(_) => {
                if self.canary_is_gone()
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
            _ => {
                let nobody = release.pins.probe_nobody.as_ref();
                let nobody = nobody.filter(|_| !release.rehearsed);
                let nobody = nobody.map(|value| pin(PinKind::ProbeHeader, value, NOBODY));
                [Some(stable), Some(canary), nobody, hint(&release.canary_slot)]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        };
        pins.sort();
        Some(pins)
    }
}
