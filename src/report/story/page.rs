//! A story as people read it: one page, as text or as Markdown.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::{ProbeEntry, Story};

/// A page: headings, and what stands under them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The title.
    pub title: String,
    /// What stands on it.
    pub blocks: Vec<Block>,
}

/// A part of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// A heading.
    Heading(&'static str),
    /// A sentence or more.
    Text(String),
    /// Things and what they are.
    Facts(Vec<(&'static str, String)>),
    /// Rows of as many columns as the head has.
    Table(Vec<&'static str>, Vec<Vec<String>>),
    /// Points.
    List(Vec<String>),
}

/// The page about a release, as of `now`.
pub fn page(namespace: &str, rollout: &str, story: &Story, now: Timestamp) -> Page {
    let mut blocks = vec![Block::Text(headline(story)), Block::Facts(facts(story, now))];
    let mut section = |heading, block: Option<Block>| {
        if let Some(block) = block {
            blocks.push(Block::Heading(heading));
            blocks.push(block);
        }
    };
    section("Timeline", Some(timeline(story)));
    section("Verdicts", verdicts(story));
    section("Rehearsal", scenarios(story));
    section("Probes", probes(story));
    section("Waves", waves(story));
    section("Requests", requests(story));
    section("What to look at", Some(Block::List(hints(story))));
    Page {
        title: format!("{namespace}/{rollout}: release {}", story.number),
        blocks,
    }
}

fn headline(story: &Story) -> String {
    let outcome = match story.outcome.as_deref() {
        None => "It is under way.".to_owned(),
        Some("Completed") => "It completed.".to_owned(),
        Some("RolledBack") => "It was rolled back.".to_owned(),
        Some("Superseded") => "It was superseded.".to_owned(),
        Some("Withdrawn") => "Its template was taken back before anything moved.".to_owned(),
        Some(other) => format!("It ended: {other}."),
    };
    match (&story.reason, &story.message) {
        (Some(reason), Some(message)) => format!("{outcome} {reason}: {message}."),
        (None, Some(message)) => format!("{outcome} {message}."),
        _ => outcome,
    }
}

fn facts(story: &Story, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let from = if story.from.is_empty() { "?" } else { &story.from };
    facts.push(("Revision", format!("{from} -> {}", story.to)));
    if !story.images.is_empty() {
        facts.push(("Images", story.images.join(", ")));
    }
    if !story.steps.is_empty() {
        let steps: Vec<String> = story.steps.iter().map(ToString::to_string).collect();
        facts.push(("Steps", format!("{} %", steps.join(", "))));
    }
    facts.push(("Begun", at(story.begun)));
    match story.ended {
        Some(ended) => facts.push((
            "Ended",
            format!("{}, after {}", at(ended), span(story.begun, ended)),
        )),
        None => facts.push(("Running for", span(story.begun, now))),
    }
    facts.push((
        "Sessions",
        format!(
            "{} open at the beginning, {} moved: {} in turn, {} at the deadline",
            story.sessions,
            story.moved(),
            story.drain.closed_clean,
            story.drain.closed_forced
        ),
    ));
    if story.drain_ms > 0 {
        facts.push(("Moving took", short(SignedDuration::from_millis(story.drain_ms))));
    }
    if let Some(returned) = &story.returned {
        let mut line = format!(
            "{} of {} came back, {} strays, {} missing, {} without their state",
            returned.back, returned.moved, returned.strays, returned.missing, returned.not_resumed
        );
        if let (Some(p50), Some(p95)) = (returned.p50_ms, returned.p95_ms) {
            let _ = write!(line, "; half of them within {p50} ms, 95 % within {p95} ms");
        }
        if returned.sampled_percent < 100.0 {
            let _ = write!(line, " (of a sample of {} %)", returned.sampled_percent);
        }
        facts.push(("Returns", line));
    }
    facts.push(("Unannounced", story.unannounced.to_string()));
    if let Some(ms) = story.verdict_to_weights_ms {
        facts.push(("Weights back", format!("{ms} ms after the verdict")));
    }
    facts
}

fn timeline(story: &Story) -> Block {
    let mut rows = vec![vec![
        at(story.begun),
        "+0s".to_owned(),
        "begun".to_owned(),
        String::new(),
    ]];
    for (n, phase) in story.phases.iter().enumerate() {
        if n == story.phases.len() / 3 && story.phases_omitted > 0 {
            let omitted = format!("({} phases are left out)", story.phases_omitted);
            rows.push(vec![String::new(), String::new(), omitted, String::new()]);
        }
        let step = phase.step.map_or_else(String::new, |step| {
            let weight = story.steps.get(step as usize - 1);
            weight.map_or_else(
                || format!(", step {step}"),
                |weight| format!(", step {step} ({weight} %)"),
            )
        });
        rows.push(vec![
            at(phase.since),
            format!("+{}", span(story.begun, phase.since)),
            format!("{}{step}", phase.phase),
            phase.sentence.clone().unwrap_or_default(),
        ]);
    }
    if let (Some(ended), Some(outcome)) = (story.ended, &story.outcome) {
        let after = format!("+{}", span(story.begun, ended));
        rows.push(vec![at(ended), after, outcome.clone(), String::new()]);
    }
    Block::Table(vec!["TIME", "AFTER", "WHAT", "WHY"], rows)
}

fn verdicts(story: &Story) -> Option<Block> {
    let rows: Vec<_> = story
        .verdicts
        .iter()
        .map(|v| {
            vec![
                at(v.at),
                v.step.map_or_else(|| "-".to_owned(), |step| step.to_string()),
                v.result.clone(),
                v.reason.clone(),
                v.sentence.clone(),
            ]
        })
        .collect();
    let head = vec!["TIME", "STEP", "RESULT", "REASON", "NUMBERS"];
    (!rows.is_empty()).then_some(Block::Table(head, rows))
}

fn scenarios(story: &Story) -> Option<Block> {
    let rows: Vec<_> = story
        .scenarios
        .iter()
        .map(|s| {
            let mean = s.mean_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
            vec![
                s.scenario.clone(),
                s.outcome.clone(),
                s.sessions.to_string(),
                mean,
                format!("{} ms", s.limit_ms),
                s.sentence.clone(),
            ]
        })
        .collect();
    let head = vec!["SCENARIO", "OUTCOME", "SESSIONS", "MEAN", "ALLOWED", "NUMBERS"];
    (!rows.is_empty()).then_some(Block::Table(head, rows))
}

fn probes(story: &Story) -> Option<Block> {
    let rows: Vec<_> = story.probes.iter().map(probe_row).collect();
    let head = vec![
        "TARGET",
        "RECONNECTS",
        "RESTORED",
        "FAILED",
        "STATE LOST",
        "CUT",
        "P50",
        "P95",
        "LAST FAILURE",
    ];
    (!rows.is_empty()).then_some(Block::Table(head, rows))
}

fn probe_row(entry: &ProbeEntry) -> Vec<String> {
    let total = entry.total();
    let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    let share = if total.attempts > 0 {
        format!(
            " ({:.1} %)",
            total.restored as f64 * 100.0 / total.attempts as f64
        )
    } else {
        String::new()
    };
    vec![
        entry.target.to_string(),
        total.attempts.to_string(),
        format!("{}{share}", total.restored),
        total.failed.to_string(),
        total.state_lost.to_string(),
        total.unannounced.to_string(),
        ms(entry.p50_ms),
        ms(entry.p95_ms),
        entry.last_failure.clone().unwrap_or_default(),
    ]
}

fn waves(story: &Story) -> Option<Block> {
    let mut rows: Vec<_> = story
        .waves
        .iter()
        .map(|w| {
            vec![
                at(w.since),
                w.id.clone(),
                w.reason.clone(),
                w.pods.to_string(),
                w.counts.notified.to_string(),
                w.counts.closed_clean.to_string(),
                w.counts.closed_forced.to_string(),
                if w.done { "" } else { "under way" }.to_owned(),
            ]
        })
        .collect();
    if story.waves_omitted > 0 {
        let mut row = vec![
            String::new(),
            format!("({} earlier waves are left out)", story.waves_omitted),
        ];
        row.resize(8, String::new());
        rows.insert(0, row);
    }
    let head = vec!["TIME", "WAVE", "REASON", "PODS", "TOLD", "IN TURN", "FORCED", ""];
    (!rows.is_empty()).then_some(Block::Table(head, rows))
}

fn requests(story: &Story) -> Option<Block> {
    let rows: Vec<_> = story
        .requests
        .iter()
        .map(|r| {
            let result = if r.accepted { "" } else { "refused: " };
            vec![
                at(r.at),
                r.verb.clone(),
                r.by.sentence(),
                format!("{result}{}", r.sentence),
            ]
        })
        .collect();
    (!rows.is_empty()).then_some(Block::Table(vec!["TIME", "VERB", "BY", "RESULT"], rows))
}

/// What somebody should look at, most serious first; and that there is nothing, where there is nothing.
pub fn hints(story: &Story) -> Vec<String> {
    let mut hints = Vec::new();
    let state_lost: u64 = story.probes.iter().map(|p| p.total().state_lost).sum();
    if state_lost > 0 {
        hints.push(format!(
            "{state_lost} probe sessions came back without their state: the new revision does not read what the old one wrote, or they do not share a store."
        ));
    }
    if story.unannounced > 0 {
        hints.push(format!(
            "{} sessions ended without an announcement: look for pods that vanished or restarted at the time (`kubectl get events`), and at the audit trail's `unannounced` lines, which name them.",
            story.unannounced
        ));
    }
    if let Some(returned) = &story.returned {
        if returned.not_resumed > 0 {
            hints.push(format!(
                "{} users came back without their state.",
                returned.not_resumed
            ));
        }
        if returned.missing > 0 {
            hints.push(format!(
                "{} moved sessions did not come back in time; {} is what leaves and comes back by itself.",
                returned.missing,
                returned
                    .natural_percent
                    .map_or_else(|| "unknown".to_owned(), |p| format!("{p} %"))
            ));
        }
        if returned.strays > 0 {
            hints.push(format!(
                "{} sessions landed on the wrong revision: their clients do not present the hint.",
                returned.strays
            ));
        }
    }
    if story.drain.closed_forced > 0 {
        hints.push(format!(
            "{} sessions were closed at the deadline: raise drain.deadline, or the budget.",
            story.drain.closed_forced
        ));
    }
    for failed in story.scenarios.iter().filter(|s| s.outcome == "Failed") {
        hints.push(format!(
            "The scenario {} failed: {}.",
            failed.scenario, failed.sentence
        ));
    }
    for skipped in story.scenarios.iter().filter(|s| s.outcome == "Skipped") {
        hints.push(format!(
            "The scenario {} was not played: {}.",
            skipped.scenario, skipped.sentence
        ));
    }
    let failed = |p: &&ProbeEntry| p.total().failed > 0;
    for probe in story.probes.iter().filter(failed) {
        let last = probe.last_failure.as_deref().unwrap_or("no sentence was kept");
        hints.push(format!(
            "{} of {} probe reconnects on {} failed, the last: {last}.",
            probe.total().failed,
            probe.total().attempts,
            probe.target
        ));
    }
    if story.requests.iter().any(|r| !r.accepted) {
        hints.push("A request was refused: see above.".to_owned());
    }
    if hints.is_empty() {
        hints.push("Nothing.".to_owned());
    }
    hints
}

// === impl Page ===

impl Page {
    /// As plain text.
    pub fn text(&self, table: impl Fn(&[Vec<String>]) -> String) -> String {
        let mut text = format!("{}\n", self.title);
        for block in &self.blocks {
            match block {
                Block::Heading(heading) => {
                    let _ = write!(text, "\n{heading}\n");
                }
                Block::Text(sentence) => {
                    let _ = writeln!(text, "{sentence}");
                }
                Block::Facts(facts) => {
                    text.push('\n');
                    for (name, value) in facts {
                        let _ = writeln!(text, "{name:<13}{value}");
                    }
                }
                Block::Table(head, rows) => {
                    let head = head.iter().map(ToString::to_string).collect();
                    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().cloned()).collect();
                    text.push_str(&table(&all));
                }
                Block::List(points) => {
                    for point in points {
                        let _ = writeln!(text, "- {point}");
                    }
                }
            }
        }
        text
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", escaped(&self.title));
        for block in &self.blocks {
            text.push('\n');
            match block {
                Block::Heading(heading) => {
                    let _ = writeln!(text, "## {heading}");
                }
                Block::Text(sentence) => {
                    let _ = writeln!(text, "{}", escaped(sentence));
                }
                Block::Facts(facts) => {
                    text.push_str("| | |\n|---|---|\n");
                    for (name, value) in facts {
                        let _ = writeln!(text, "| {name} | {} |", escaped(value));
                    }
                }
                Block::Table(head, rows) => {
                    let head: Vec<String> = head.iter().map(|h| h.to_lowercase()).collect();
                    let _ = writeln!(text, "| {} |", head.join(" | "));
                    let _ = writeln!(text, "|{}", "---|".repeat(head.len()));
                    for row in rows {
                        let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
                        let _ = writeln!(text, "| {} |", cells.join(" | "));
                    }
                }
                Block::List(points) => {
                    for point in points {
                        let _ = writeln!(text, "- {}", escaped(point));
                    }
                }
            }
        }
        text
    }
}

/// Text that cannot end a cell or begin a tag.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

/// A time to the second, in UTC.
pub fn at(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn span(from: Timestamp, to: Timestamp) -> String {
    short(to.duration_since(from))
}

/// Two units at most, as kubectl shows ages: `3m12s`, `2h5m`, `3d4h`. Never below zero.
pub fn short(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let pair = |big: i64, unit: char, small: i64, rest: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{rest}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => pair(minutes, 'm', seconds % 60, 's'),
        (0, ..) => pair(hours, 'h', minutes, 'm'),
        _ => pair(days, 'd', hours, 'h'),
    }
}
