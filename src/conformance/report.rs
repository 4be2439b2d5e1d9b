//! What was found: one finding per rule.

use serde::Serialize;

use super::rule::{ALL, Level, PAGE, Rule};

/// What became of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It could not be looked at; the evidence says why.
    NotTested,
    /// The implementation leaves this optional part out.
    NotOffered,
    /// It holds as far as was seen.
    Holds,
    /// It does not.
    Fails,
}

/// One rule and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// How much it weighs.
    pub level: Level,
    /// What became of it.
    pub outcome: Outcome,
    /// What has to hold.
    pub requirement: &'static str,
    /// What was seen.
    pub evidence: String,
    /// Where it is written.
    pub link: String,
}

/// All findings, in the order of [`ALL`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One per rule.
    pub findings: Vec<Finding>,
}

// === impl Report ===

impl Report {
    /// Nothing looked at yet, for this reason.
    pub fn new(reason: &str) -> Self {
        let finding = |rule: &Rule| Finding {
            rule: rule.id,
            level: rule.level,
            outcome: Outcome::NotTested,
            requirement: rule.requirement,
            evidence: reason.to_owned(),
            link: format!("{PAGE}#{}", rule.anchor),
        };
        Self {
            findings: ALL.iter().map(finding).collect(),
        }
    }

    /// The rule holds, or not. Once failed it stays so.
    pub(super) fn check(&mut self, rule: &Rule, holds: bool, evidence: impl Into<String>) {
        self.note(
            rule,
            if holds { Outcome::Holds } else { Outcome::Fails },
            evidence,
        );
    }

    /// The rule's part is left out by the implementation.
    pub(super) fn not_offered(&mut self, rule: &Rule, evidence: impl Into<String>) {
        self.note(rule, Outcome::NotOffered, evidence);
    }

    /// The rule could not be looked at.
    pub(super) fn not_tested(&mut self, rule: &Rule, evidence: impl Into<String>) {
        self.note(rule, Outcome::NotTested, evidence);
    }

    /// The worst outcome stands, with the evidence of the first time it was seen.
    fn note(&mut self, rule: &Rule, outcome: Outcome, evidence: impl Into<String>) {
        let Some(finding) = self.findings.iter_mut().find(|finding| finding.rule == rule.id) else {
            return;
        };
        if outcome > finding.outcome || outcome == Outcome::NotTested && finding.outcome == outcome {
            finding.outcome = outcome;
            finding.evidence = evidence.into();
        }
    }

    /// What became of a rule.
    pub fn outcome(&self, rule: &Rule) -> Option<Outcome> {
        self.findings
            .iter()
            .find(|finding| finding.rule == rule.id)
            .map(|finding| finding.outcome)
    }

    /// The rules that must hold, or are offered, and do not.
    pub fn broken(&self) -> Vec<&'static str> {
        let broken = self.findings.iter().filter(|finding| {
            finding.outcome == Outcome::Fails && matches!(finding.level, Level::Must | Level::Optional)
        });
        broken.map(|finding| finding.rule).collect()
    }

    /// For people: a line per rule, and a last one with the sums.
    pub fn text(&self) -> String {
        let width = ALL.iter().map(|rule| rule.id.len()).max().unwrap_or(0);
        let mut lines: Vec<String> = self.findings.iter().map(|finding| finding.line(width)).collect();
        let count = |outcome| {
            self.findings
                .iter()
                .filter(|finding| finding.outcome == outcome)
                .count()
        };
        lines.push(format!(
            "{} hold, {} fail, {} not offered, {} not tested",
            count(Outcome::Holds),
            count(Outcome::Fails),
            count(Outcome::NotOffered),
            count(Outcome::NotTested),
        ));
        lines.join("\n") + "\n"
    }
}

// === impl Finding ===

impl Finding {
    fn line(&self, width: usize) -> String {
        let Self {
            rule,
            level,
            outcome,
            requirement,
            evidence,
            link,
        } = self;
        let word = match (outcome, level) {
            (Outcome::Holds, _) => "ok",
            (Outcome::Fails, Level::Should) => "warning",
            (Outcome::Fails, _) => "FAIL",
            (Outcome::NotOffered, _) => "not offered",
            (Outcome::NotTested, _) => "not tested",
        };
        format!("{word:<11}  {rule:<width$}  {requirement}: {evidence} [{link}]")
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::{AUTH_WRONG, DRAIN_EVEN, EVENTS_SHAPE};
    use super::*;

    #[test]
    fn a_failure_stays_and_a_should_breaks_nothing() {
        let mut report = Report::new("not begun");
        report.check(&AUTH_WRONG, true, "401");
        report.check(&AUTH_WRONG, false, "GET 200");
        report.check(&AUTH_WRONG, true, "401");
        report.check(&DRAIN_EVEN, false, "all at once");
        report.not_offered(&EVENTS_SHAPE, "404");
        assert_eq!(report.broken(), ["auth.wrong"]);
        assert_eq!(report.outcome(&EVENTS_SHAPE), Some(Outcome::NotOffered));
        let text = report.text();
        assert!(text.contains("FAIL         auth.wrong"), "{text}");
        assert!(
            text.contains(": GET 200 [docs/drain-protocol.md#2-requests]"),
            "{text}"
        );
        assert!(text.contains("warning      drain.even"), "{text}");
        assert!(text.ends_with(&format!(
            "0 hold, 2 fail, 1 not offered, {} not tested\n",
            ALL.len() - 3
        )));
    }
}
