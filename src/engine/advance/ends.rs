//! How a release ends: with the new revision serving everybody, or with the old one.

use crate::api::status::{RollingBack, Since, Soaking, State, WaveReason};
use crate::engine::plan::Note;
use crate::engine::wave;
use crate::engine::work::Work;

impl Work<'_> {
    pub(super) fn finishing(&mut self) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let stable = self.obs.revision(&release.stable);
        // One that goes by SIGTERM holds its sessions until it is gone.
        let signal = self.by_signal(&release.stable);
        let going = signal && !stable.pods.is_empty();
        let there = stable.replicas > 0 || stable.live().next().is_some() || going;
        let whole = self.canary().in_rotation() >= self.limits.required;
        if self.leaves() && there && whole {
            self.let_leave(&release.stable);
        }
        let leaving = self.is_leaving(&release.stable);
        if !leaving && there && signal {
            // The pods that were kept for a way back go now, one by one.
            if self.status.wave.is_none() && whole {
                self.start_wave(WaveReason::Rollout, release.stable, wave::all(&stable), false);
            }
            return;
        }
        if !leaving && !stable.is_empty() {
            let last = release.steps.len() as u32 - 1;
            self.enter(State::Moving(self.at(last)));
            return;
        }
        if there && !leaving {
            return;
        }
        self.status.stable = Some(release.canary.clone());
        if !self.all_slots(&release.canary) {
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

    pub(super) fn soaking(&mut self, at: &Soaking) {
        if self.now >= at.until {
            self.close_release("Completed", None);
            self.status.weight = None;
            self.enter(State::Healthy(Since { since: self.now }));
        } else {
            self.scale_down();
        }
    }

    pub(super) fn rolling_back(&mut self, at: &RollingBack) {
        let Some(release) = self.release().cloned() else {
            self.enter(State::Healthy(Since { since: self.now }));
            return;
        };
        if self.way_back_is_gone() {
            let message = format!(
                "the ReplicaSet of revision {} was deleted in the rollback: revision {} stays",
                release.stable, release.canary
            );
            self.notes.push(Note::warning("RollbackImpossible", message));
            self.drop_wave();
            self.ask_weight(100);
            self.enter(State::Finishing(Since { since: self.now }));
            return;
        }
        let (stable, canary) = (self.stable(), self.canary());
        self.take_back(&release.stable);
        let gone = self.canary_is_gone();
        let ended = |work: &mut Self| work.finish_rollback(at.reason.clone(), at.message.clone(), at.reject);
        if gone && !release.exposed && self.obs.pins.is_none() && self.all_slots(&release.stable) {
            // Nothing of it was ever there: whether the gateway can be programmed does not matter.
            ended(self);
            return;
        }
        let pointed = self.obs.slots.get(&release.stable_slot) == Some(&release.stable);
        // Ready pods that only lack our own label get it back in this very round: the way back does not wait for the next. A weight
        // places new connections, the sessions follow when there is room for them: until then pods may get twice their share of
        // new ones, which is better than leading users to a version that was found broken.
        let carried = if pointed && stable.in_rotation() > 0 {
            (2 * i32::from(self.limits.carries(stable.ready()))).min(100)
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
        if gone {
            if self.all_slots(&release.stable) && self.obs.pins.is_none() {
                ended(self);
            }
            return;
        }
        if self.leaves() && !at.reject && release.exposed {
            // Nobody is moved for a newer template: its sessions leave by themselves.
            self.let_leave(&release.canary);
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
}
