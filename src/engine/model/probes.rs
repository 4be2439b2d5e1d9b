//! What the probes report.

use std::collections::BTreeMap;

use super::world::{Quality, World, stamp};
use crate::api::spec::Scenario;
use crate::engine::evidence::{
    ProbeEvidence, ProbeFigures, ProbeTarget, RECENT, RehearsalFailure, RehearsalPods, RehearsalReport,
    RehearsalStage,
};
use crate::engine::plan::ProbePlan;

/// How long one part of a rehearsal takes.
const PART_MS: i64 = 1_000;
/// How long the probes wait for a pod to die.
const CRASH_MS: i64 = 8_000;
/// Probe sessions per target.
pub(super) const SESSIONS: u64 = 2;

/// Reconnects of a target's probes per tick: twenty per second.
const PER_TICK: u64 = 5;

/// A run of probes.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub plan: ProbePlan,
    pub began: i64,
    /// How far a rehearsal is: scenarios that are over, what it waits for, and since when.
    pub over: usize,
    pub stage: RehearsalStage,
    pub since: i64,
    /// What each target's probes met, tick by tick: time, whether they were restored, and how long it took.
    pub met: BTreeMap<ProbeTarget, Vec<(i64, bool, u64)>>,
}

impl Run {
    pub(super) fn name(&self) -> &str {
        match &self.plan {
            ProbePlan::Rehearsal { run, .. } | ProbePlan::Fleet { run, .. } => run,
        }
    }

    fn enter(&mut self, stage: RehearsalStage, now: i64) {
        (self.stage, self.since) = (stage, now);
    }
}

impl World {
    pub(super) fn probe(&mut self, plan: Option<ProbePlan>) {
        let Some(plan) = plan else {
            self.probes = None;
            return;
        };
        let fresh = Run {
            plan,
            began: self.now,
            over: 0,
            stage: RehearsalStage::Running,
            since: self.now,
            met: BTreeMap::new(),
        };
        match &mut self.probes {
            // What was done for it is news to a run that goes on.
            Some(run) if run.name() == fresh.name() => run.plan = fresh.plan,
            probes => *probes = Some(fresh),
        }
    }

    /// The probes play on.
    pub(super) fn rehearse(&mut self) {
        let Some(mut run) = self.probes.take() else { return };
        let canary = self.status.release.as_ref().map(|r| r.canary.clone());
        if let (ProbePlan::Rehearsal { .. }, Some(canary)) = (&run.plan, canary) {
            self.play(&mut run, &canary);
        }
        self.probes = Some(run);
    }

    fn play(&self, run: &mut Run, canary: &str) {
        let ProbePlan::Rehearsal {
            run: name,
            scenarios,
            drains,
            acts,
            ..
        } = run.plan.clone()
        else {
            return;
        };
        let (now, waited) = (self.now, self.now - run.since);
        let up = || self.pods.iter().filter(|p| p.revision == canary && p.up(now));
        match (&run.stage, scenarios.get(run.over)) {
            (RehearsalStage::Passed | RehearsalStage::Failed(_), _) => {}
            (RehearsalStage::AwaitingDrain, _) => {
                let ordered =
                    |p: &super::pods::Pod| p.order.as_ref().is_some_and(|o| o.id.starts_with(name.as_str()));
                if up().all(ordered) {
                    run.over += 1;
                    run.enter(RehearsalStage::Running, now);
                }
            }
            (RehearsalStage::AwaitingCrash(_), _) => {
                if acts.crashed.is_some() || waited > CRASH_MS {
                    run.over += 1;
                    run.enter(RehearsalStage::Running, now);
                }
            }
            (RehearsalStage::Running, _) if waited < PART_MS || acts.draining => {}
            (RehearsalStage::Running, None) => run.enter(RehearsalStage::Passed, now),
            (RehearsalStage::Running, Some(_)) if self.quality(canary) == Quality::FailsRehearsal => {
                let failure = RehearsalFailure {
                    check: "firstMessage".to_owned(),
                    message: "nothing came".to_owned(),
                };
                run.enter(RehearsalStage::Failed(failure), now);
            }
            (RehearsalStage::Running, Some(Scenario::GracefulShutdown)) if drains => {
                run.enter(RehearsalStage::AwaitingDrain, now);
            }
            (RehearsalStage::Running, Some(Scenario::Crash)) => {
                let probes = up().map(|p| (p.name.clone(), self.probes_of(run, &p.uid) as u32));
                let pods = probes.filter(|(_, probes)| *probes > 0).collect();
                run.enter(RehearsalStage::AwaitingCrash(RehearsalPods { pods }), now);
            }
            (RehearsalStage::Running, Some(_)) => {
                run.over += 1;
                run.enter(RehearsalStage::Running, now);
            }
        }
    }

    pub(super) fn rehearsal(&self) -> Option<RehearsalReport> {
        let run = self.probes.as_ref()?;
        let ProbePlan::Rehearsal { run: name, .. } = &run.plan else {
            return None;
        };
        Some(RehearsalReport {
            run: name.clone(),
            stage: run.stage.clone(),
            sessions: 20,
            figures: figures(20, 20),
            scenarios: Vec::new(),
            stable: figures(20, 20),
        })
    }

    /// The fleet's probes reconnect.
    pub(super) fn sample(&mut self) {
        let Some(mut run) = self.probes.take() else {
            return;
        };
        if let ProbePlan::Fleet { targets, .. } = &run.plan {
            for (target, _) in targets {
                let revision = self.probed(*target);
                let burdened = self.burdened(&revision);
                let restored = !(self.breaks(&revision) || burdened && self.case.refuses);
                let took = if burdened { 900 } else { 40 };
                run.met
                    .entry(*target)
                    .or_default()
                    .push((self.now, restored, took));
            }
        }
        self.probes = Some(run);
    }

    fn probed(&self, target: ProbeTarget) -> String {
        match (target, &self.status.release) {
            (ProbeTarget::Canary, Some(release)) => release.canary.clone(),
            _ => self.stable(),
        }
    }

    /// A server that more clients reconnect to than it bears is slow for its probes as well, or does not answer them.
    fn burdened(&self, revision: &str) -> bool {
        let second = self.now.div_euclid(1_000) - 1;
        let came = self.arrivals.get(&second).copied().unwrap_or_default();
        revision == "bbb" && self.case.bears.is_some_and(|bears| came > bears)
    }

    pub(super) fn evidence(&self) -> Vec<ProbeEvidence> {
        let Some(run) = &self.probes else {
            return Vec::new();
        };
        let ProbePlan::Fleet { targets, .. } = &run.plan else {
            return Vec::new();
        };
        let of = |(target, _): &(ProbeTarget, Option<String>)| {
            let met = run.met.get(target).map_or(&[][..], Vec::as_slice);
            let since = |from: i64| {
                let met = met.iter().filter(|(at, ..)| *at >= from);
                met.fold((0, 0, 40), |(all, good, took), (_, restored, slow)| {
                    (
                        all + PER_TICK,
                        good + u64::from(*restored) * PER_TICK,
                        took.max(*slow),
                    )
                })
            };
            let figures_of = |from: i64| {
                let (attempts, restored, p95) = since(from);
                ProbeFigures {
                    restored_p95_ms: Some(p95),
                    ..figures(attempts, restored)
                }
            };
            let row = met.iter().rev().take_while(|(_, restored, _)| !restored).count() as u64;
            ProbeEvidence {
                target: *target,
                since: stamp(run.began),
                open: SESSIONS as u32,
                total: figures_of(i64::MIN),
                window: figures_of(self.now - 300_000),
                recent: figures_of(self.now - RECENT.as_millis() as i64),
                failures_in_a_row: (row * PER_TICK) as u32,
                last_failure: None,
                pods: BTreeMap::new(),
            }
        };
        targets.iter().map(of).collect()
    }

    /// Probe sessions that a pod reports beside the users'.
    pub(super) fn probes_on(&self, uid: &str) -> u64 {
        self.probes.as_ref().map_or(0, |run| self.probes_of(run, uid))
    }

    fn probes_of(&self, run: &Run, uid: &str) -> u64 {
        let release = self.status.release.as_ref();
        let on = |revision: &str| {
            let first = self
                .pods
                .iter()
                .find(|p| p.revision == revision && p.serving && p.up(self.now));
            u64::from(first.is_some_and(|p| p.uid == uid)) * SESSIONS
        };
        match (&run.plan, release) {
            (ProbePlan::Rehearsal { .. }, Some(release)) => on(&release.canary),
            (ProbePlan::Fleet { targets, .. }, Some(release)) => targets
                .iter()
                .map(|(target, _)| match target {
                    ProbeTarget::Canary => on(&release.canary),
                    ProbeTarget::Stable => on(&release.stable),
                })
                .sum(),
            _ => on(&self.stable()),
        }
    }
}

fn figures(attempts: u64, restored: u64) -> ProbeFigures {
    ProbeFigures {
        attempts,
        restored,
        failed: attempts - restored,
        restored_p50_ms: Some(20),
        restored_p95_ms: Some(40),
        ..ProbeFigures::default()
    }
}
