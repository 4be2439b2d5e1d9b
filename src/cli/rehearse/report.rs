//! What the scenarios have shown, for people, for programs, and for CI systems.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::output;
use crate::engine::evidence::{ScenarioOutcome, ScenarioReport};

/// Runs that are kept one by one; of more there are sums only.
const RUNS: usize = 200;

/// All scenarios, played once with so many clients.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Run {
    pub(super) clients: u32,
    pub(super) scenarios: Vec<ScenarioReport>,
}

/// All runs.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// How often everything was played.
    played: u64,
    passed: u64,
    failed: u64,
    skipped: u64,
    /// The last of them, and all that failed among the first.
    runs: Vec<Run>,
}

impl Report {
    pub(super) fn add(&mut self, run: Run) {
        self.played += 1;
        for scenario in &run.scenarios {
            *match &scenario.outcome {
                Some(ScenarioOutcome::Passed { .. }) => &mut self.passed,
                Some(ScenarioOutcome::Skipped { .. }) => &mut self.skipped,
                Some(ScenarioOutcome::Failed(_)) | None => &mut self.failed,
            } += 1;
        }
        self.runs.push(run);
        if self.runs.len() > RUNS {
            // One that failed is worth more than the many that passed.
            let fine = self.runs.iter().position(|run| failures(run).next().is_none());
            self.runs.remove(fine.unwrap_or_default());
        }
    }

    /// The sums in a line, while it goes on.
    pub(super) fn running(&self) -> String {
        format!(
            "{} played: {} passed, {} failed, {} skipped",
            self.played, self.passed, self.failed, self.skipped
        )
    }

    /// A sentence for every scenario that failed.
    pub(super) fn failed(&self) -> Vec<String> {
        let named = |run: &Run| failures(run).collect::<Vec<_>>();
        let mut all: Vec<String> = self.runs.iter().flat_map(named).collect();
        if all.is_empty() && self.failed > 0 {
            all.push(format!("{} scenarios failed", self.failed));
        }
        all.truncate(10);
        all
    }

    /// A table for each run, and a sentence for each scenario.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for run in &self.runs {
            let head = ["SCENARIO", "OUTCOME", "RESTORED", "P50", "P95", "MEAN", "LIMIT"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            rows.extend(run.scenarios.iter().map(row));
            let _ = writeln!(text, "{} clients\n{}", run.clients, output::table(&rows));
            for scenario in &run.scenarios {
                let _ = writeln!(text, "{}: {}", scenario.scenario, sentence(scenario));
            }
            text.push('\n');
        }
        let _ = writeln!(text, "{}", self.running());
        text
    }

    /// A test suite for each run, a test for each scenario.
    pub(super) fn junit(&self) -> String {
        let mut text = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"wsroll rehearse\">\n",
        );
        for run in &self.runs {
            let count = |fits: fn(&ScenarioReport) -> bool| run.scenarios.iter().filter(|s| fits(s)).count();
            let _ = writeln!(
                text,
                "  <testsuite name=\"{} clients\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
                run.clients,
                run.scenarios.len(),
                count(|s| !matches!(
                    s.outcome,
                    Some(ScenarioOutcome::Passed { .. } | ScenarioOutcome::Skipped { .. })
                )),
                count(|s| matches!(s.outcome, Some(ScenarioOutcome::Skipped { .. }))),
            );
            for scenario in &run.scenarios {
                let seconds = scenario.mean_ms.unwrap_or_default() as f64 / 1_000.0;
                let _ = write!(
                    text,
                    "    <testcase classname=\"wsroll.rehearse\" name=\"{}\" time=\"{seconds:.3}\">",
                    scenario.scenario
                );
                let said = output::xml(&sentence(scenario));
                let _ = match &scenario.outcome {
                    Some(ScenarioOutcome::Passed { .. }) => write!(text, "<system-out>{said}</system-out>"),
                    Some(ScenarioOutcome::Skipped { .. }) => write!(text, "<skipped message=\"{said}\"/>"),
                    Some(ScenarioOutcome::Failed(failure)) => write!(
                        text,
                        "<failure type=\"{}\" message=\"{said}\"/>",
                        output::xml(&failure.check)
                    ),
                    None => write!(text, "<failure type=\"unfinished\" message=\"{said}\"/>"),
                };
                text.push_str("</testcase>\n");
            }
            text.push_str("  </testsuite>\n");
        }
        text.push_str("</testsuites>\n");
        text
    }
}

fn failures(run: &Run) -> impl Iterator<Item = String> {
    run.scenarios
        .iter()
        .filter_map(|scenario| match &scenario.outcome {
            Some(ScenarioOutcome::Failed(_)) | None => Some(format!(
                "{} with {} clients: {}",
                scenario.scenario,
                run.clients,
                sentence(scenario)
            )),
            Some(ScenarioOutcome::Passed { .. } | ScenarioOutcome::Skipped { .. }) => None,
        })
}

fn row(scenario: &ScenarioReport) -> Vec<String> {
    let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    let outcome = match &scenario.outcome {
        Some(ScenarioOutcome::Passed { .. }) => "passed",
        Some(ScenarioOutcome::Failed(_)) => "FAILED",
        Some(ScenarioOutcome::Skipped { .. }) => "skipped",
        None => "unfinished",
    };
    let figures = &scenario.figures;
    vec![
        scenario.scenario.to_string(),
        outcome.to_owned(),
        format!("{}/{}", figures.restored, figures.attempts),
        ms(figures.restored_p50_ms),
        ms(figures.restored_p95_ms),
        ms(scenario.mean_ms),
        ms(Some(scenario.limit_ms)),
    ]
}

fn sentence(scenario: &ScenarioReport) -> String {
    match &scenario.outcome {
        Some(ScenarioOutcome::Passed { message }) => message.clone(),
        Some(ScenarioOutcome::Failed(failure)) => format!("{}: {}", failure.check, failure.message),
        Some(ScenarioOutcome::Skipped { reason }) => reason.clone(),
        None => "it did not end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::spec::Scenario;
    use crate::engine::evidence::{ProbeFigures, RehearsalFailure};

    fn scenario(outcome: ScenarioOutcome) -> ScenarioReport {
        ScenarioReport {
            scenario: Scenario::Crash,
            outcome: Some(outcome),
            sessions: 5,
            figures: ProbeFigures {
                attempts: 6,
                restored: 5,
                failed: 1,
                restored_p50_ms: Some(700),
                ..ProbeFigures::default()
            },
            mean_ms: Some(812),
            limit_ms: 30_000,
        }
    }

    fn run(failed: bool) -> Run {
        let outcome = if failed {
            ScenarioOutcome::Failed(RehearsalFailure {
                check: "stateEqual".to_owned(),
                message: "\"2\" < 5 & lost".to_owned(),
            })
        } else {
            ScenarioOutcome::Passed {
                message: "fine".to_owned(),
            }
        };
        Run {
            clients: 5,
            scenarios: vec![scenario(outcome)],
        }
    }

    #[test]
    fn junit_is_well_formed_and_counts() {
        let mut report = Report::default();
        report.add(run(true));
        let xml = report.junit();
        assert!(
            xml.contains("<testsuite name=\"5 clients\" tests=\"1\" failures=\"1\" skipped=\"0\">"),
            "{xml}"
        );
        assert!(
            xml.contains(
                "<failure type=\"stateEqual\" message=\"stateEqual: &quot;2&quot; &lt; 5 &amp; lost\"/>"
            ),
            "{xml}"
        );
        assert_eq!(
            xml.matches("<testcase").count(),
            xml.matches("</testcase>").count()
        );
    }

    #[test]
    fn a_long_cycle_keeps_its_sums_and_its_failures() {
        let mut report = Report::default();
        report.add(run(true));
        for _ in 0..RUNS * 2 {
            report.add(run(false));
        }
        assert_eq!((report.played, report.failed), (RUNS as u64 * 2 + 1, 1));
        assert_eq!(report.runs.len(), RUNS);
        assert_eq!(
            report.failed(),
            ["Crash with 5 clients: stateEqual: \"2\" < 5 & lost"]
        );
    }

    #[test]
    fn people_read_a_table_and_a_sentence() {
        let mut report = Report::default();
        report.add(run(false));
        let text = report.text();
        assert!(
            text.contains("Crash     passed   5/6       700 ms  -    812 ms  30000 ms"),
            "{text}"
        );
        assert!(text.contains("Crash: fine") && text.contains("1 played: 1 passed, 0 failed, 0 skipped"));
    }
}
