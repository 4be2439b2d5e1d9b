//! What the probes report.

use std::collections::BTreeMap;

use super::world::{Quality, World, stamp};
use crate::engine::evidence::{
    ProbeEvidence, ProbeFigures, ProbeTarget, RECENT, RehearsalFailure, RehearsalReport, RehearsalStage,
};
use crate::engine::plan::ProbePlan;

/// How long the hand-over of a rehearsal takes, and its drain.
const PART_MS: i64 = 2_000;
/// Probe sessions per target.
pub(super) const SESSIONS: u64 = 2;

/// Reconnects of a target's probes per tick: twenty per second.
const PER_TICK: u64 = 5;

/// A run of probes.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub plan: ProbePlan,
    pub began: i64,
    /// What each target's probes met, tick by tick: time, whether they were restored, and how long it took.
    pub met: BTreeMap<ProbeTarget, Vec<(i64, bool, u64)>>,
}

impl Run {
    pub(super) fn name(&self) -> &str {
        match &self.plan {
            ProbePlan::Rehearsal { run, .. } | ProbePlan::Fleet { run, .. } => run,
        }
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
            met: BTreeMap::new(),
        };
        if self.probes.as_ref().is_none_or(|run| run.name() != fresh.name()) {
            self.probes = Some(fresh);
        }
    }

    pub(super) fn rehearsal(&self) -> Option<RehearsalReport> {
        let run = self.probes.as_ref()?;
        let ProbePlan::Rehearsal { run: name, .. } = &run.plan else {
            return None;
        };
        let canary = &self.status.release.as_ref()?.canary;
        let gone = self.now - run.began;
        let ordered = self
            .pods
            .iter()
            .filter(|p| p.revision == *canary && p.up(self.now))
            .all(|p| p.order.as_ref().is_some_and(|o| o.id.starts_with(name.as_str())));
        let stage = match self.quality(canary) {
            _ if gone < PART_MS => RehearsalStage::Running,
            Quality::FailsRehearsal => RehearsalStage::Failed(RehearsalFailure {
                check: "firstMessage".to_owned(),
                message: "nothing came".to_owned(),
            }),
            _ if !ordered => RehearsalStage::AwaitingDrain,
            _ if gone < 2 * PART_MS => RehearsalStage::Running,
            _ => RehearsalStage::Passed,
        };
        Some(RehearsalReport {
            run: name.clone(),
            stage,
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
        let Some(run) = &self.probes else { return 0 };
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
