//! The rehearsal: what the probes wait for is done, what they found is noted, and its end decides whether users meet the revision.

use super::rehearsal_run;
use crate::api::spec::RehearsalPolicy;
use crate::api::status::{
    CrashedPod, RehearsalStatus, Rehearsing, Release, ScenarioResult, ScenarioStatus, State,
};
use crate::engine::evidence::{
    RehearsalPods, RehearsalReport, RehearsalStage, ScenarioOutcome, ScenarioReport,
};
use crate::engine::observed::{PodView, RevisionView};
use crate::engine::plan::{Note, Role};
use crate::engine::work::Work;

/// Longest sentence of a scenario that status keeps, in bytes.
const SENTENCE: usize = 1_000;

impl Work<'_> {
    pub(super) fn rehearsing(&mut self, at: &Rehearsing) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let report = self.rehearsal_report(&release, at.attempt).cloned();
        if let Some(report) = &report {
            self.note_scenarios(&release, report);
        }
        let ended = report
            .as_ref()
            .is_some_and(|r| matches!(r.stage, RehearsalStage::Passed | RehearsalStage::Failed(_)));
        if !ended && self.over_progress_deadline() {
            self.rehearsal_failed(&release, "RehearsalStuck", "it did not end in time".to_owned());
            return;
        }
        let Some(report) = report else {
            if at.draining || at.drained || at.crash.is_some() {
                // The operator was restarted in the middle: the probes' memory is gone, so they begin again.
                let again = Rehearsing {
                    since: at.since,
                    attempt: at.attempt + 1,
                    draining: false,
                    drained: false,
                    crash: None,
                };
                self.enter(State::Rehearsing(again));
            }
            return;
        };
        let mut next = at.clone();
        // An order ends with the scenario that waited for it: the next one's sessions may stay.
        next.draining = false;
        match &report.stage {
            RehearsalStage::Running => {}
            RehearsalStage::AwaitingCrash(_) => {
                next.crash = next.crash.or_else(|| self.choose_crash(&release, at.attempt));
            }
            RehearsalStage::AwaitingDrain => (next.draining, next.drained) = (true, true),
            RehearsalStage::Passed => {
                self.rehearsal_passed(&release, &report);
                return;
            }
            RehearsalStage::Failed(failure) => {
                let message = format!("{}: {}", failure.check, failure.message);
                self.rehearsal_failed(&release, "RehearsalFailed", message);
                return;
            }
        }
        self.enter(State::Rehearsing(next));
    }

    fn rehearsal_report(&self, release: &Release, attempt: u32) -> Option<&RehearsalReport> {
        let run = rehearsal_run(release, attempt);
        self.obs.rehearsal.as_ref().filter(|r| r.run == run)
    }

    /// The pods that may die for the rehearsal: the probes wait for it, nobody is led to the revision and nobody ever was, and the
    /// pod counts no more sessions than the probes know to be theirs. An error says what is in the way.
    pub(in crate::engine) fn crashable(
        &self,
        release: &Release,
        attempt: u32,
    ) -> Result<Vec<&PodView>, String> {
        let awaited = self.rehearsal_report(release, attempt).map(|r| &r.stage);
        let Some(RehearsalStage::AwaitingCrash(RehearsalPods { pods })) = awaited else {
            return Err("the probes do not wait for it".to_owned());
        };
        let at_zero = self.status.weight.as_ref();
        let at_zero = at_zero.is_some_and(|w| w.desired == 0 && w.programmed == Some(0));
        let written = self.obs.routes.is_empty() || self.written_weight(release) == Some(0);
        if release.exposed || !at_zero || !written {
            return Err(format!("users may be on revision {}", release.canary));
        }
        let rehearsal: &'static str = Role::Rehearsal.into();
        let mine = |pod: &&PodView| {
            let probes = pods.get(&pod.name).copied().unwrap_or_default();
            let open = pod.sessions.as_ref().map(|s| s.open);
            pod.ready
                && pod.role.as_deref() == Some(rehearsal)
                && probes > 0
                && open.is_some_and(|open| open <= u64::from(probes))
        };
        let canary = self.obs.revisions.get(&release.canary);
        let found: Vec<&PodView> = canary
            .into_iter()
            .flat_map(RevisionView::live)
            .filter(mine)
            .collect();
        if found.is_empty() {
            return Err(format!(
                "of no pod of revision {} it is known that it carries none but the {} probes",
                release.canary,
                pods.values().sum::<u32>()
            ));
        }
        Ok(found)
    }

    /// The pod with most to show.
    fn choose_crash(&self, release: &Release, attempt: u32) -> Option<CrashedPod> {
        let pods = self.crashable(release, attempt).ok()?;
        let open = |pod: &PodView| pod.sessions.as_ref().map_or(0, |s| s.open);
        let doomed = pods.into_iter().max_by_key(|pod| (open(pod), &pod.name))?;
        Some(CrashedPod {
            pod: doomed.name.clone(),
            uid: doomed.uid.clone(),
        })
    }

    fn rehearsal_passed(&mut self, release: &Release, report: &RehearsalReport) {
        // What died for the rehearsal is back before users may come.
        if self.canary().ready() < self.canary_target(0) {
            if self.over_progress_deadline() {
                let message = format!(
                    "{} of {} pods of revision {} are ready after its crash",
                    self.canary().ready(),
                    self.canary_target(0),
                    release.canary
                );
                self.rehearsal_failed(release, "RehearsalStuck", message);
            }
            return;
        }
        let measured = if report.stable.restored > 0 {
            &report.stable
        } else {
            &report.figures
        };
        self.note_baseline(measured.restored_p50_ms, measured.restored_p95_ms);
        let skipped = scenarios_of(report, |outcome| {
            matches!(outcome, ScenarioOutcome::Skipped { .. })
        });
        let passed = scenarios_of(report, |outcome| {
            matches!(outcome, ScenarioOutcome::Passed { .. })
        });
        let skipped = if skipped.is_empty() {
            String::new()
        } else {
            format!("; not played: {skipped}")
        };
        let message = format!(
            "{} probe sessions played {passed} against revision {}{skipped}",
            report.sessions, release.canary
        );
        self.notes.push(Note::normal("Rehearsed", message));
        self.rehearsed();
    }

    fn rehearsal_failed(&mut self, release: &Release, reason: &str, message: String) {
        self.record_verdict("Breached", reason, &message);
        if self.obs.rollout.spec.rehearsal.policy == RehearsalPolicy::Required {
            self.roll_back(reason, message, true);
            return;
        }
        self.notes.push(Note::warning(
            "RehearsalFailed",
            format!("revision {}: {message}; rehearsal is advisory", release.canary),
        ));
        self.rehearsed();
    }

    fn rehearsed(&mut self) {
        if let Some(release) = self.status.release.as_mut() {
            release.rehearsed = true;
        }
        self.enter(State::Shifting(self.at(0)));
    }

    /// Writes what the scenarios have shown until now, and tells of each that failed.
    fn note_scenarios(&mut self, release: &Release, report: &RehearsalReport) {
        let seen = RehearsalStatus {
            revision: release.canary.clone(),
            scenarios: report.scenarios.iter().take(5).map(line).collect(),
        };
        let before = self.status.rehearsal.replace(seen.clone());
        let told = |name| {
            let lines = before.iter().flat_map(|before| &before.scenarios);
            lines
                .filter(|line| line.outcome == ScenarioResult::Failed)
                .any(|line| line.name == name)
        };
        let failed = seen
            .scenarios
            .iter()
            .filter(|line| line.outcome == ScenarioResult::Failed);
        for line in failed.filter(|line| !told(line.name)) {
            let message = line.message.clone().unwrap_or_default();
            self.notes.push(Note::warning(
                "ScenarioFailed",
                format!("{} on revision {}: {message}", line.name, release.canary),
            ));
        }
    }
}

/// Names of the scenarios with such an outcome.
fn scenarios_of(report: &RehearsalReport, fits: impl Fn(&ScenarioOutcome) -> bool) -> String {
    let names: Vec<String> = report
        .scenarios
        .iter()
        .filter(|s| s.outcome.as_ref().is_some_and(&fits))
        .map(|s| s.scenario.to_string())
        .collect();
    names.join(", ")
}

fn line(report: &ScenarioReport) -> ScenarioStatus {
    let ms = |ms: Option<u64>| ms.map(|ms| ms as i64);
    let (outcome, message) = match &report.outcome {
        None => (ScenarioResult::Running, None),
        Some(ScenarioOutcome::Passed { message }) => (ScenarioResult::Passed, Some(message.clone())),
        Some(ScenarioOutcome::Failed(failure)) => (
            ScenarioResult::Failed,
            Some(format!("{}: {}", failure.check, failure.message)),
        ),
        Some(ScenarioOutcome::Skipped { reason }) => (ScenarioResult::Skipped, Some(reason.clone())),
    };
    ScenarioStatus {
        name: report.scenario,
        outcome,
        message: message.map(shortened),
        sessions: i64::from(report.sessions),
        attempts: report.figures.attempts as i64,
        restored: report.figures.restored as i64,
        p50_ms: ms(report.figures.restored_p50_ms),
        p95_ms: ms(report.figures.restored_p95_ms),
        mean_ms: ms(report.mean_ms),
        limit_ms: report.limit_ms as i64,
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > SENTENCE {
        let end = (0..=SENTENCE).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
    }
    text
}
