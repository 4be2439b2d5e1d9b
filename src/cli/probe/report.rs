//! What a probe found, for people, programs and test runners.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::output;
use crate::engine::evidence::{ProbeFigures, RehearsalFailure};
use crate::session::Timed;

/// The checks, in the order in which they are made. The first that does not hold ends the probe.
const CHECKS: [&str; 6] = [
    "connected",
    "firstMessage",
    "restored",
    "exchange",
    "stateEqual",
    "unannounced",
];
/// The widest bar of the histogram.
const WIDTH: usize = 40;

/// A finished probe.
pub(super) struct Report {
    sessions: u32,
    figures: ProbeFigures,
    pub(super) failure: Option<RehearsalFailure>,
    /// Name, and milliseconds of every connect, sorted.
    phases: Vec<(&'static str, Vec<f64>)>,
}

impl Report {
    pub(super) fn new(
        sessions: u32,
        figures: ProbeFigures,
        failure: Option<RehearsalFailure>,
        times: &[Timed],
    ) -> Self {
        let column = |name: &'static str, of: fn(&Timed) -> Duration| {
            let mut values: Vec<f64> = times.iter().map(|timed| of(timed).as_secs_f64() * 1e3).collect();
            values.sort_by(f64::total_cmp);
            (name, values)
        };
        let phases = vec![
            column("dns", |t| t.phases.dns),
            column("tcp", |t| t.phases.tcp),
            column("tls", |t| t.phases.tls),
            column("upgrade", |t| t.phases.upgrade),
            column("firstMessage", |t| t.phases.first_message),
            column("restored", |t| t.since_dial),
        ];
        Self {
            sessions,
            figures,
            failure,
            phases,
        }
    }

    pub(super) fn text(&self) -> String {
        let figures = &self.figures;
        let mut text = format!(
            "{} sessions, {} of {} attempts restored, p50 {} ms, p95 {} ms, state lost {}\n",
            self.sessions,
            figures.restored,
            figures.attempts,
            figures.restored_p50_ms.unwrap_or_default(),
            figures.restored_p95_ms.unwrap_or_default(),
            figures.state_lost,
        );
        let Some((_, restored)) = self.phases.last().filter(|(_, values)| !values.is_empty()) else {
            return text;
        };
        text.push('\n');
        let mut rows = vec![
            ["phase", "p50 ms", "p95 ms", "max ms"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (name, values) in &self.phases {
            let share = |share| format!("{:.1}", at(values, share));
            rows.push(vec![(*name).to_owned(), share(0.5), share(0.95), share(1.0)]);
        }
        text.push_str(&output::table(&rows));
        text.push_str("\nrestored within\n");
        let buckets = buckets(restored);
        let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1);
        for (limit, count) in buckets {
            let bar = "#".repeat((count * WIDTH).div_ceil(most));
            let _ = writeln!(text, "{limit:>8} ms  {count:>6}  {bar}");
        }
        text
    }

    pub(super) fn json(&self) -> String {
        let phases: serde_json::Map<String, Value> = self
            .phases
            .iter()
            .map(|(name, values)| {
                let share = |share| (!values.is_empty()).then(|| at(values, share));
                let row = json!({"p50Ms": share(0.5), "p95Ms": share(0.95), "maxMs": share(1.0)});
                ((*name).to_owned(), row)
            })
            .collect();
        let restored = self.phases.last().map(|(_, values)| buckets(values));
        let histogram: Vec<Value> = restored
            .into_iter()
            .flatten()
            .map(|(limit, count)| json!({"withinMs": limit, "count": count}))
            .collect();
        let report = json!({
            "sessions": self.sessions,
            "figures": self.figures,
            "phases": phases,
            "histogram": histogram,
            "failure": self.failure,
        });
        format!("{report}\n")
    }

    /// A case per check: passed, failed, or left out since one before it failed.
    pub(super) fn junit(&self) -> String {
        let failed = self.failure.as_ref();
        let mut names: Vec<&str> = CHECKS.to_vec();
        if let Some(failure) = failed
            && !names.contains(&&*failure.check)
        {
            names.push(&failure.check);
        }
        let place = failed.and_then(|failure| names.iter().position(|name| *name == failure.check));
        let left_out = place.map_or(0, |place| names.len() - place - 1);
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"wsroll probe\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{left_out}\">\n",
            names.len(),
            usize::from(failed.is_some()),
        );
        for (number, name) in names.iter().enumerate() {
            let name = output::xml(name);
            let _ = match (failed, place) {
                (Some(failure), Some(place)) if place == number => writeln!(
                    xml,
                    "    <testcase classname=\"wsroll.probe\" name=\"{name}\">\n      <failure message=\"{}\"/>\n    </testcase>",
                    output::xml(&failure.message)
                ),
                (_, Some(place)) if number > place => writeln!(
                    xml,
                    "    <testcase classname=\"wsroll.probe\" name=\"{name}\"><skipped/></testcase>"
                ),
                _ => writeln!(xml, "    <testcase classname=\"wsroll.probe\" name=\"{name}\"/>"),
            };
        }
        let _ = writeln!(xml, "    <system-out>{}</system-out>", output::xml(&self.text()));
        xml.push_str("  </testsuite>\n</testsuites>\n");
        xml
    }
}

/// The nearest-rank share of sorted values; zero of none.
fn at(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default();
    (value * 100.0).round() / 100.0
}

/// How many fall into each doubling of milliseconds, from the first that has one to the last that has one.
fn buckets(sorted: &[f64]) -> Vec<(u64, usize)> {
    let limit = |value: &f64| (value.ceil().max(1.0) as u64).next_power_of_two();
    let (Some(first), Some(last)) = (sorted.first().map(limit), sorted.last().map(limit)) else {
        return Vec::new();
    };
    std::iter::successors(Some(first), |limit| limit.checked_mul(2))
        .take_while(|limit| *limit <= last)
        .map(|bound| (bound, sorted.iter().filter(|value| limit(value) == bound).count()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Phases;

    fn report(failed: Option<&str>) -> Report {
        let timed = |ms| Timed {
            since_dial: Duration::from_millis(ms),
            phases: Phases::default(),
        };
        let failure = failed.map(|check| RehearsalFailure {
            check: check.to_owned(),
            message: "1 of 2 <sessions> \"held\"\u{1}".to_owned(),
        });
        Report::new(
            2,
            ProbeFigures::default(),
            failure,
            &[timed(3), timed(4), timed(30)],
        )
    }

    #[test]
    fn the_histogram_doubles_from_the_first_to_the_last() {
        assert_eq!(
            buckets(&[0.2, 3.0, 4.0, 30.0]),
            [(1, 1), (2, 0), (4, 2), (8, 0), (16, 0), (32, 1)]
        );
        assert!(buckets(&[]).is_empty());
        let text = report(None).text();
        assert!(
            text.contains("       4 ms       2  ########################################\n"),
            "{text}"
        );
        assert!(text.contains("restored"), "{text}");
    }

    #[test]
    fn junit_has_a_case_per_check_and_leaves_out_what_was_not_tried() {
        let passed = report(None).junit();
        assert!(
            passed.contains("tests=\"6\" failures=\"0\" errors=\"0\" skipped=\"0\""),
            "{passed}"
        );
        let failed = report(Some("restored")).junit();
        assert!(
            failed.contains("failures=\"1\" errors=\"0\" skipped=\"3\""),
            "{failed}"
        );
        assert!(
            failed.contains("<failure message=\"1 of 2 &lt;sessions&gt; &quot;held&quot;\"/>"),
            "{failed}"
        );
        assert!(
            report(Some("other"))
                .junit()
                .contains("tests=\"7\" failures=\"1\"")
        );
    }

    #[test]
    fn json_has_phases_and_histogram() {
        let report: Value = serde_json::from_str(&report(None).json()).unwrap();
        assert_eq!(report["phases"]["restored"]["maxMs"], 30.0);
        assert_eq!(report["phases"]["tls"]["p50Ms"], 0.0);
        assert_eq!(report["histogram"][0], json!({"withinMs": 4, "count": 2}));
        assert_eq!(report["failure"], Value::Null);
    }
}
