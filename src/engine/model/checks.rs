//! The invariants, checked at every act and at every step of time.

use super::pods::Running;
use super::world::World;
use crate::api::spec::DrainMode;
use crate::api::status::{State, WaveReason};
use crate::engine::budget::HEADROOM;
use crate::engine::leaving::order_prefix;
use crate::engine::observed::{Observed, PodView};
use crate::engine::plan::{Action, Order, Plan};
use crate::engine::wave::LEASE;

/// What others write is found and repaired within this; until then nobody can promise who is led where.
const REPAIR_MS: i64 = 4_000;
/// What a status may weigh, in bytes.
const STATUS_BYTES: usize = 60_000;

impl World {
    fn fail(&mut self, what: String) {
        self.trace.push(format!("{} WRONG {what}", self.now));
        self.wrong.push(what);
    }

    fn foreign_lately(&self) -> bool {
        self.now - self.foreign_at < REPAIR_MS
    }

    pub(super) fn check_state(&mut self) {
        self.check_rates();
        let second = (self.now / 1_000) - 1;
        let came = self.arrivals.get(&second).copied().unwrap_or_default();
        if came > self.case.budget {
            self.fail(format!(
                "{came} first connects of drained sessions in second {second}, the budget is {}",
                self.case.budget
            ));
        }
    }

    /// What the pods may be working at, whether they answer or not, adds up to what the budget allows.
    fn check_rates(&mut self) {
        let works = |order: &&Running| {
            let done = order.cancelled || order.id.starts_with("leave-") || order.left == Some(0);
            !done && order.lease_until > self.now && !order.id.contains("rehearsal")
        };
        let rate: f64 = self
            .pods
            .iter()
            .filter(|pod| pod.up(self.now) && self.users_on(&pod.uid) > 0)
            .filter_map(|pod| pod.order.as_ref().filter(works))
            .map(|order| order.rate)
            .sum();
        let most = f64::from(self.case.budget) * HEADROOM;
        if rate > most + 1e-6 {
            self.fail(format!("pods work at {rate:.3} per second, {most} is the most"));
        }
    }

    /// All new connections go to the new revision before the last step only in a window that status names and that has an end.
    fn check_window(&mut self, plan: &Plan) {
        let status = &plan.status;
        let (Some(State::Moving(at)), Some(release), Some(weight)) =
            (&status.state, &status.release, &status.weight)
        else {
            return;
        };
        let step = release
            .steps
            .get(at.step as usize)
            .map_or(100, |s| i32::from(s.weight));
        let window = status.wave.as_ref().and_then(|w| w.window.as_ref());
        let named = window.is_some_and(|w| w.weight == step);
        if weight.desired > step && !named {
            self.fail(format!(
                "weight {} at a step of {step}, and no window is named",
                weight.desired
            ));
        }
    }

    pub(super) fn check_plan(&mut self, observed: &Observed, plan: &Plan) {
        let text = serde_json::to_string(&plan.status).unwrap();
        if text.len() > STATUS_BYTES {
            self.fail(format!("the status weighs {} bytes", text.len()));
        }
        self.check_window(plan);
        // Ready pods in rotation, after all that this plan takes out.
        let (before, after) = rotation(observed, plan);
        let required = crate::engine::capacity::Limits::of(&observed.rollout).required;
        if after < before && after < required {
            self.fail(format!(
                "{after} ready pods stay in rotation of {before}, {required} are required: {:?}",
                plan.actions
            ));
        }
    }

    /// No pod with open or unknown sessions goes before its deadline.
    pub(super) fn check_delete(&mut self, index: usize) {
        let pod = self.pods[index].clone();
        let users = self.users_on(&pod.uid);
        let dismissed = self.dismissed.contains(&pod.uid);
        if users > 0 && !dismissed && !self.deadline_passed(&pod.uid) {
            self.fail(format!("pod {} is deleted with {users} users on it", pod.uid));
        }
    }

    fn deadline_passed(&self, uid: &str) -> bool {
        let Some(wave) = &self.status.wave else {
            return false;
        };
        let spec = &self.rollout.spec;
        let (deadline, closes) = match wave.reason {
            WaveReason::Rollback => (spec.rollback.deadline.0, true),
            _ => (spec.drain.deadline.0, self.case.closes),
        };
        let entry = wave.pods.iter().find(|p| p.uid == uid);
        let spent = entry
            .and_then(|e| e.ordered_ms)
            .map_or(0, |at| wave.elapsed_ms - at);
        closes && spent > (deadline + LEASE).as_millis() as i64
    }

    pub(super) fn check_action(&mut self, observed: &Observed, action: &Action) {
        match action {
            Action::Retire { revision, pods, .. } => self.check_retire(observed, revision, pods),
            Action::Order(order) => self.check_order(observed, order),
            Action::SetWeights { weights } => {
                let release = self.status.release.clone();
                let desired = self.status.weight.as_ref().map(|w| w.desired);
                let Some(release) = release else {
                    return self.fail("weights are written outside a release".to_owned());
                };
                let share = weights.get(&release.canary_slot).copied();
                if share != desired {
                    self.fail(format!("weight {share:?} is written, status says {desired:?}"));
                }
                let before = observed.status.weight.as_ref().map_or(0, |w| w.desired);
                let canary = observed.revision(&release.canary);
                if desired > Some(before) && (canary.in_rotation() == 0 || !release.rehearsed) {
                    self.fail(format!(
                        "weight {desired:?} goes to a revision that cannot carry it"
                    ));
                }
                let stable = observed.revision(&release.stable);
                if desired < Some(before) && stable.in_rotation() == 0 {
                    self.fail(format!(
                        "weight goes back to {desired:?} though nothing of the old revision is ready"
                    ));
                }
            }
            Action::PointSlot { slot, revision } => {
                let led = self.weights.get(slot).copied().unwrap_or_default() > 0;
                let ready = observed.revision(revision).in_rotation() > 0;
                let first = matches!(self.status.state, Some(State::Initializing(_)));
                if led && !ready && !first && !self.foreign_lately() {
                    self.fail(format!(
                        "slot {slot} is led users, and is pointed at {revision}, which has no ready pod"
                    ));
                }
            }
            Action::Dismiss { revision, uid, .. } => self.check_dismiss(observed, revision, uid),
            Action::Crash { uid, .. } => self.check_crash(uid),
            Action::LeaveRotation { uid, .. } => {
                let named = self
                    .status
                    .wave
                    .as_ref()
                    .is_some_and(|w| w.pods.iter().any(|p| p.uid == *uid));
                let revision = self
                    .pods
                    .iter()
                    .find(|p| p.uid == *uid)
                    .map(|p| p.revision.clone());
                let leaving = self
                    .status
                    .leaving
                    .iter()
                    .any(|l| Some(&l.revision) == revision.as_ref());
                if !named && !leaving {
                    self.fail(format!("{uid} leaves rotation, and no wave in status names it"));
                }
            }
            _ => {}
        }
    }

    fn check_retire(&mut self, observed: &Observed, revision: &str, pods: &[(String, String)]) {
        let exposed = self
            .status
            .release
            .as_ref()
            .is_none_or(|r| r.canary != revision || r.exposed);
        for (_, uid) in pods {
            let view = observed
                .revision(revision)
                .pods
                .iter()
                .find(|p| p.uid == *uid)
                .cloned();
            let known_empty = |p: &PodView| p.sessions.as_ref().is_some_and(|s| s.open == 0);
            let empty = view.as_ref().is_some_and(known_empty);
            if !empty && exposed && !self.deadline_passed(uid) {
                self.fail(format!("{uid} is retired before its deadline: {view:?}"));
            }
        }
    }

    /// One pod at a time, named by a wave, out of rotation, and known or past its deadline.
    fn check_dismiss(&mut self, observed: &Observed, revision: &str, uid: &str) {
        let wave = self.status.wave.clone();
        let Some((wave, entry)) = wave.as_ref().and_then(|w| {
            let entry = w.pods.iter().find(|p| p.uid == uid);
            entry.map(|entry| (w, entry))
        }) else {
            return self.fail(format!("{uid} is dismissed, and no wave in status names it"));
        };
        let view = observed.revision(revision);
        let known = view.pods.iter().any(|p| p.uid == uid && p.sessions.is_some());
        let spent = entry.ordered_ms.map_or(0, |at| wave.elapsed_ms - at);
        let deadline = match wave.reason {
            WaveReason::Rollback => self.rollout.spec.rollback.deadline,
            _ => self.rollout.spec.drain.deadline,
        };
        if !known && spent <= deadline.as_millis() as i64 {
            self.fail(format!(
                "{uid} is dismissed after {spent} ms, and nobody knows what is on it"
            ));
        }
        if self
            .pods
            .iter()
            .any(|p| p.revision == revision && p.gone_at.is_some())
        {
            self.fail(format!("{uid} is dismissed while another pod is on its way out"));
        }
        self.check_routed(uid);
    }

    /// The one pod that status names, once, at weight 0, and never with a user on it: whatever anybody else wrote before.
    fn check_crash(&mut self, uid: &str) {
        let named = matches!(&self.status.state, Some(State::Rehearsing(at)) if at.crash.as_ref().is_some_and(|c| c.uid == uid));
        let weight = self.status.weight.as_ref().map(|w| w.desired);
        let users = self.users_on(uid);
        if !named || weight != Some(0) || users > 0 {
            self.fail(format!(
                "{uid} is killed with {users} users on it at weight {weight:?}, named in status: {named}"
            ));
        }
        let theirs = self.status.release.as_ref().map(|r| r.canary.clone());
        if self
            .pods
            .iter()
            .find(|p| p.uid == uid)
            .map(|p| p.revision.clone())
            != theirs
        {
            self.fail(format!("{uid} is killed, and is no pod of the new revision"));
        }
        self.check_routed(uid);
    }

    /// As the gateway does now, not as it was told.
    fn check_routed(&mut self, uid: &str) {
        let Some(pod) = self.pods.iter().find(|p| p.uid == uid).cloned() else {
            return;
        };
        let plane = self.gateway.plane();
        let led: i32 = plane
            .weights
            .iter()
            .filter(|(slot, _)| plane.slots.get(*slot) == Some(&pod.revision))
            .map(|(_, weight)| *weight)
            .sum();
        let routed = plane
            .endpoints
            .get(&pod.revision)
            .is_some_and(|pods| pods.contains(&pod.uid));
        if led > 0 && routed && !self.foreign_lately() {
            self.fail(format!(
                "{uid} is asked to let go while it is in rotation at weight {led}"
            ));
        }
    }

    fn check_order(&mut self, observed: &Observed, order: &Order) {
        let rehearsal = matches!(&self.status.state, Some(State::Rehearsing(at)) if at.draining);
        let wave = self.status.wave.as_ref();
        let named = wave.is_some_and(|w| {
            order.id == format!("{}-{}", w.id, order.uid) && w.pods.iter().any(|p| p.uid == order.uid)
        });
        let leaves = |l: &crate::api::status::Leaving| order.id.starts_with(&order_prefix(l));
        let leaving = order.mode == DrainMode::Leave && self.status.leaving.iter().any(leaves);
        if !named && !rehearsal && !leaving {
            self.fail(format!("order {} is not named in status", order.id));
        }
        let pod = self.pods.iter().find(|p| p.uid == order.uid).cloned();
        let Some(pod) = pod else { return };
        self.check_routed(&pod.uid);
        let windowed = self.status.wave.as_ref().is_some_and(|w| w.windowed);
        let share = self
            .status
            .release
            .as_ref()
            .and_then(|r| self.gateway.plane().weights.get(&r.canary_slot).copied());
        if named && windowed && share != Some(100) && !self.foreign_lately() {
            self.fail(format!(
                "{} is asked to let go in a window that is not open",
                pod.uid
            ));
        }
        if rehearsal && self.users_on(&pod.uid) > 0 && self.foreign_at < 0 {
            self.fail(format!("users are on {} in the rehearsal", pod.uid));
        }
        let _ = observed;
    }
}

/// Ready pods in rotation of the release's revisions: now, and without those that the plan takes out.
fn rotation(observed: &Observed, plan: &Plan) -> (u32, u32) {
    let status = &plan.status;
    let mut ours: Vec<String> = status.stable.iter().cloned().collect();
    if let Some(release) = &status.release {
        ours.extend([release.stable.clone(), release.canary.clone()]);
    }
    ours.sort();
    ours.dedup();
    let back = matches!(status.state, Some(State::RollingBack(_)));
    if back && let Some(release) = &status.release {
        ours.retain(|r| *r != release.canary);
    }
    let mut out: Vec<&String> = Vec::new();
    for action in &plan.actions {
        match action {
            Action::LeaveRotation { uid, .. } | Action::Dismiss { uid, .. } | Action::Crash { uid, .. } => {
                out.push(uid);
            }
            Action::Retire { pods, .. } => out.extend(pods.iter().map(|(_, uid)| uid)),
            _ => {}
        }
    }
    let rotating = |pod: &&PodView| pod.ready && pod.serving;
    let all: Vec<String> = ours
        .iter()
        .flat_map(|r| {
            observed
                .revision(r)
                .live()
                .filter(rotating)
                .map(|p| p.uid.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    let left = all.iter().filter(|uid| !out.contains(uid)).count();
    (all.len() as u32, left as u32)
}
