//! Which pods let go of their sessions next.

use crate::api::spec::{DrainMode, HintKind, MoveSessions, Step, Via};
use crate::api::status::{AtStep, Release, State, Wave, WavePod, WaveReason};
use crate::engine::evidence::ProbeTarget;
use crate::engine::observed::{PodView, RevisionView};
use crate::engine::plan::Note;
use crate::engine::wave;
use crate::engine::windows::SLOWEST_GATEWAY_MS;
use crate::engine::work::Work;

/// Fewer returned sessions decide nothing about strays.
const LEAST_RETURNED: i64 = 20;
/// With more strays than this nobody is moved before the last step.
const MOST_STRAYS_PERCENT: i64 = 20;

/// How a step below weight 100 moves sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
enum Way {
    /// By a hint that the pins route matches.
    Pinned,
    /// In a window in which the new revision gets every new connection.
    Window,
    /// Not at all: the last step moves everybody.
    None,
}

impl Work<'_> {
    /// Fewer replicas: pods that are not in rotation leave first, then the emptiest, drained like any other.
    pub(super) fn scale_down(&mut self) {
        let (hash, serving) = self.serving();
        let excess = serving.replicas.saturating_sub(self.limits.replicas);
        let current = self.status.wave.as_ref().map(|w| w.reason);
        let own = self.status.wave.as_ref().is_some_and(|w| w.revision == hash);
        if excess == 0 && own && current == Some(WaveReason::ScaleDown) {
            self.drop_wave();
        }
        if excess == 0 || self.status.wave.is_some() || serving.live().count() as u32 != serving.replicas {
            return;
        }
        if self.by_signal(&hash) {
            let spare = serving.in_rotation() > self.limits.required;
            let may_go = |p: &&PodView| spare || !(p.ready && p.serving);
            let pods = serving.live().filter(may_go).map(wave::whole).collect();
            self.start_wave(WaveReason::ScaleDown, hash, pods, true);
            return;
        }
        let idle = serving.live().filter(|p| !(p.ready && p.serving));
        let mut pods = wave::known(idle, excess as usize);
        let spare = serving.in_rotation().saturating_sub(self.limits.required);
        let most = spare.min(excess.saturating_sub(pods.len() as u32));
        let rotating = serving.live().filter(|p| p.serving);
        pods.extend(wave::choose(rotating, u64::MAX, most as usize));
        pods.truncate(wave::MAX_PODS);
        self.start_wave(WaveReason::ScaleDown, hash, pods, true);
    }

    /// The revision that serves outside of steps, and its pods.
    fn serving(&self) -> (String, RevisionView) {
        let hash = match (self.state(), self.release()) {
            (State::Soaking(_), Some(release)) => release.canary.clone(),
            _ => self.stable_hash(),
        };
        let view = self.obs.revision(&hash);
        (hash, view)
    }

    /// Pods of a revision that belongs to no release, as after a resource that was deleted in mid-release and applied again:
    /// their sessions come to the revision that serves. True while there are any.
    pub(super) fn leftovers(&mut self) -> bool {
        let Some((hash, view)) = self.leftover() else {
            return false;
        };
        if self.obs.rollout.spec.drain.mode == DrainMode::Leave {
            self.let_leave(&hash);
            return true;
        }
        let stable = self.stable_hash();
        let ready = self.all_slots(&stable) && self.stable().in_rotation() >= self.limits.required;
        if self.status.wave.is_none() && ready {
            self.start_wave(WaveReason::Rollback, hash, wave::all(&view), true);
        }
        true
    }

    /// One wave after the other, until the step's share of the sessions is on the new revision.
    pub(super) fn moving(&mut self, at: &AtStep) {
        let (Some(release), Some(step)) = (self.release().cloned(), self.step(at.step)) else {
            return;
        };
        if let Some(wave) = &self.status.wave {
            // A window has a time of its own.
            // Only what cannot be programmed keeps a wave from its first order.
            let waits = wave.ordered_at.is_none()
                && !wave.windowed
                && wave.reason == WaveReason::Rollout
                && self.since(wave.since) > self.obs.rollout.spec.progress_deadline.0;
            if waits {
                let message = "the hint that leads moved sessions on was not programmed in time".to_owned();
                self.roll_back("NotProgrammed", message, true);
            }
            return;
        }
        let canary = self.canary();
        if canary.ready() < self.canary_target(at.step) {
            self.enter(State::Surging(self.at(at.step)));
            return;
        }
        if step.weight < 100 && !self.weight_is_programmed() {
            // A window was closed, and the gateway has not followed yet.
            return;
        }
        if self.desired_weight() != i32::from(step.weight) {
            self.enter(State::Shifting(self.at(at.step)));
            return;
        }
        let stable = self.stable();
        if self.leaves() {
            // Nobody is asked; the old revision is left to its sessions after the last verdict.
            self.enter(State::Analysing(self.at(at.step)));
        } else if step.weight < 100 {
            self.move_early(at, &release, &step);
        } else if self.by_signal(&release.stable) {
            self.dismiss_next(at, release.stable, &stable, &canary);
        } else if stable.is_empty() && stable.sessions() == 0 {
            // Before the last verdict the new revision is whole: it grows as fast as the old one's empty pods make room.
            let spare = stable
                .replicas
                .saturating_sub(self.limits.stable_target(canary.ready()));
            if canary.ready() >= self.limits.replicas {
                self.enter(State::Analysing(self.at(at.step)));
            } else if spare > 0 {
                let pods = wave::known(stable.live(), spare as usize);
                self.start_wave(WaveReason::Rollout, release.stable, pods, false);
            }
        } else {
            let pods = self.last_pods(&stable, &canary);
            self.start_wave(WaveReason::Rollout, release.stable, pods, false);
        }
    }

    /// A step below weight 100 moves its share, where there is a way that moves nobody twice.
    fn move_early(&mut self, at: &AtStep, release: &Release, step: &Step) {
        let (way, why) = self.way(release, step.move_sessions);
        let pods = match way {
            Way::Pinned => self.wave_pods(step.weight, u64::MAX),
            Way::Window => self.wave_pods(step.weight, self.window_holds()),
            Way::None => Vec::new(),
        };
        // As the step begins to move, or where it ends without.
        if way == Way::None || self.state().since() == self.now {
            let name: &'static str = way.into();
            self.notes.push(Note::normal(
                "MoveSessions",
                format!("step {}: {name}, {why}", at.step + 1),
            ));
        }
        if pods.is_empty() {
            self.enter(State::Analysing(self.at(at.step)));
        } else {
            self.start_wave(WaveReason::Rollout, release.stable.clone(), pods, true);
            if let Some(wave) = self.status.wave.as_mut().filter(|_| way == Way::Window) {
                wave.windowed = true;
            }
        }
    }

    /// How a step moves sessions, and why so.
    fn way(&self, release: &Release, wanted: MoveSessions) -> (Way, String) {
        let none = |why: &str| (Way::None, why.to_owned());
        if wanted == MoveSessions::None {
            return none("the step says so");
        }
        if release.via == Some(Via::Signal) {
            return none("pods that go by SIGTERM cannot be told where to lead their clients");
        }
        if let Some(strays) = self.too_many_strays() {
            return none(&strays);
        }
        let hint = release.drain.notice.hint;
        if wanted != MoveSessions::Window && hint != HintKind::None {
            return (
                Way::Pinned,
                format!("asked sessions come back by the hint {hint:?}"),
            );
        }
        if let Some(reason) = no_window(release) {
            return none(&reason);
        }
        (
            Way::Window,
            format!(
                "the gateway follows within {} ms",
                release.programming_ms.unwrap_or_default()
            ),
        )
    }

    /// Clients that came back on the wrong revision would be moved again and again.
    fn too_many_strays(&self) -> Option<String> {
        let returned = self.returned()?;
        let (strays, back) = (returned.strays, returned.back);
        (back >= LEAST_RETURNED && strays * 100 > back * MOST_STRAYS_PERCENT).then(|| {
            format!("{strays} of {back} moved sessions came back on the old revision: they are left for the last step")
        })
    }

    /// The last step where deletion is the order: pod after pod, as far as the way back allows. Those that are kept for it hold
    /// their sessions until the last verdict.
    fn dismiss_next(&mut self, at: &AtStep, hash: String, stable: &RevisionView, canary: &RevisionView) {
        let keep = self.limits.stable_target(canary.ready());
        let spare = stable.in_rotation() + canary.in_rotation() > self.limits.required;
        if stable.replicas > keep {
            let may_go = |p: &&PodView| spare || !(p.ready && p.serving);
            let pods = stable.live().filter(may_go).map(wave::whole).collect();
            self.start_wave(WaveReason::Rollout, hash, pods, false);
        } else if canary.ready() >= self.limits.replicas {
            self.enter(State::Analysing(self.at(at.step)));
        }
    }

    /// Pods of the old revision for the next wave of the last step: the whole revision is at weight 0, so nobody has to leave
    /// rotation; only as many sessions go as the new revision's pods can carry.
    fn last_pods(&self, stable: &RevisionView, canary: &RevisionView) -> Vec<WavePod> {
        let carried = self.limits.carries(canary.in_rotation());
        let there = self.users(canary, ProbeTarget::Canary);
        let total = self.users(stable, ProbeTarget::Stable) + there;
        let need = (total * u64::from(carried) / 100).saturating_sub(there);
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
    fn wave_pods(&self, weight: u8, most: u64) -> Vec<WavePod> {
        let (stable, canary) = (self.stable(), self.canary());
        let spare = (stable.in_rotation() + canary.in_rotation()).saturating_sub(self.limits.required);
        let max = spare.min(stable.in_rotation().saturating_sub(1));
        let there = self.users(&canary, ProbeTarget::Canary);
        let total = self.users(&stable, ProbeTarget::Stable) + there;
        let wanted = (total * u64::from(weight)).div_ceil(100);
        // A quarter more than their share, until the next pod comes, is better than a pod of the old revision that is half moved:
        // it could not be freed, and the new revision could not grow.
        let carried = total * u64::from(self.limits.carries(canary.in_rotation())) / 80;
        // Who was asked counts as moved wherever it went: clients that do not follow the hint are not asked again and again.
        let asked = self.status.drain.as_ref().map_or(0, |d| d.total.max(0) as u64);
        let need = wanted.min(carried).saturating_sub(there.max(asked));
        // Two in a hundred more or less are not worth a wave of their own.
        if max == 0 || need == 0 || need * 50 < total {
            return Vec::new();
        }
        // Who stayed for the sake of capacity, and is empty, has nobody to move.
        let holds = |p: &&PodView| p.serving && p.sessions.as_ref().is_some_and(|s| s.open > 0);
        let split = need > most;
        let mut pods = wave::choose(stable.live().filter(holds), need.min(most), max as usize);
        if split {
            // A fifth too many would not fit.
            for pod in &mut pods {
                let open = pod.sessions.unwrap_or_default();
                pod.count = pod.count.or((open > most as i64).then_some(most as i64));
            }
        }
        pods
    }

    pub(in crate::engine) fn start_wave(
        &mut self,
        reason: WaveReason,
        revision: String,
        pods: Vec<WavePod>,
        leave_rotation: bool,
    ) {
        let signal = self.by_signal(&revision);
        let pods = if signal {
            wave::signal::next_pod(pods)
        } else {
            pods
        };
        // Never two at once: what is on its way out may still hold sessions.
        let going = signal && self.obs.revision(&revision).pods.iter().any(|p| p.terminating);
        if pods.is_empty() || going {
            return;
        }
        let known: i64 = pods
            .iter()
            .map(|p| p.count.or(p.sessions).unwrap_or_default())
            .sum();
        let (id, number) = match self.status.release.as_mut() {
            Some(release) => {
                release.waves += 1;
                let hints =
                    release.drain.notice.hint != HintKind::None && reason != WaveReason::ScaleDown && !signal;
                release.hinted = release.hinted || hints;
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
            windowed: false,
            window: None,
            settling: None,
            leave_rotation,
            pods,
        });
    }
}

/// Why a window would not fit.
fn no_window(release: &Release) -> Option<String> {
    match release.programming_ms {
        None => Some("nobody knows how fast the gateway follows".to_owned()),
        Some(ms) if ms > SLOWEST_GATEWAY_MS => Some(format!(
            "drain.notice.hint is None, and a window needs a gateway that follows within {SLOWEST_GATEWAY_MS} ms: this one takes {ms}"
        )),
        Some(_) => None,
    }
}
