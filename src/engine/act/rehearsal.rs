//! What the rehearsal asks of the new revision's pods, which only probes are on: a drain, and a death.

use std::time::Duration;

use crate::api::spec::{DrainMode, Via};
use crate::api::status::{Rehearsing, Release, State};
use crate::engine::advance::rehearsal_run;
use crate::engine::evidence::{RehearsalActs, RehearsalStage};
use crate::engine::plan::{Action, Order, ProbePlan};
use crate::engine::wave;
use crate::engine::work::Work;

/// Sessions per second of a rehearsal's drain; only probes are on those pods.
const REHEARSAL_RATE: f64 = 20.0;

impl Work<'_> {
    /// In the rehearsal the new revision's pods, which only probes are on, are asked to drain.
    pub(super) fn rehearsal_orders(&mut self, state: &State) {
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
                mode: DrainMode::Ask,
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

    /// The pod that status names dies, if it is still there, and if nobody but probes is on it still.
    pub(super) fn crash(&mut self, state: &State) {
        let State::Rehearsing(at) = state else { return };
        let Some(crash) = &at.crash else { return };
        let Some(release) = self.release() else { return };
        let doomed = self.crashable(release, at.attempt);
        if doomed.is_ok_and(|pods| pods.iter().any(|pod| pod.uid == crash.uid)) {
            self.actions.push(Action::Crash {
                pod: crash.pod.clone(),
                uid: crash.uid.clone(),
            });
        }
    }

    /// What the probes play, and what was done for them.
    pub(super) fn rehearsal(&self, release: &Release, at: &Rehearsing) -> ProbePlan {
        let canary = self.canary();
        let spec = &self.obs.rollout.spec;
        let counted = |pod: &crate::engine::observed::PodView| {
            let open = pod.sessions.as_ref().map(|s| s.open);
            open.map(|open| (pod.name.clone(), open))
        };
        ProbePlan::Rehearsal {
            run: rehearsal_run(release, at.attempt),
            stable_pin: release.pins.probe_stable.clone(),
            canary_pin: release.pins.probe_canary.clone(),
            nobody_pin: release.pins.probe_nobody.clone(),
            scenarios: spec.rehearsal.scenarios.clone(),
            canary: release.canary.clone(),
            close_code: release.drain.notice.close_code,
            drains: !self.by_signal(&release.canary),
            notices: canary.via != Some(Via::Sidecar),
            connects_per_second: REHEARSAL_RATE as u32,
            acts: RehearsalActs {
                draining: at.draining,
                crashed: at.crash.as_ref().map(|crash| crash.pod.clone()),
                hindrance: self.hindrance(release, at),
                open: canary.live().filter_map(counted).collect(),
            },
        }
    }

    /// Why the pod that the probes wait for was not killed yet.
    fn hindrance(&self, release: &Release, at: &Rehearsing) -> Option<String> {
        let stage = self.obs.rehearsal.as_ref().map(|report| &report.stage);
        match stage {
            Some(RehearsalStage::AwaitingCrash(_)) if at.crash.is_none() => {
                self.crashable(release, at.attempt).err()
            }
            _ => None,
        }
    }
}
