//! The live table: in place on a terminal, a line every few seconds elsewhere.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use super::{
    load::Line,
    narrate::Voice,
    rollout::{Status, Weight},
};
use crate::wait::Stopwatch;

/// How often a line comes where the table cannot change in place.
const EVERY: Duration = Duration::from_secs(3);

/// Width of the bar that shows where the sessions are.
const BAR: usize = 30;

/// What is to be seen at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Since the act began.
    pub elapsed: Duration,
    /// Where the release is.
    pub phase: String,
    /// The step as people count.
    pub step: String,
    /// Percentage of new connections for the new version; `None` where nobody weighs.
    pub weight: Option<String>,
    /// Open sessions by version, the old one first.
    pub sessions: Vec<(String, u32)>,
    /// Sessions without a socket.
    pub down: u32,
    /// Sessions that came back in the last second.
    pub back: u64,
    /// Attempts to come back that failed in the last second.
    pub failed: u64,
    /// Time left for the sessions that move now.
    pub eta: Option<Duration>,
}

/// Shows rows.
#[derive(Debug)]
pub struct Table {
    voice: Voice,
    drawn: usize,
    last: Option<(Stopwatch, String)>,
}

// === impl Row ===

impl Row {
    /// A moment of a rollout. `names` says which version a revision is, the old one first.
    pub fn of_rollout(elapsed: Duration, status: &Status, line: &Line, names: &[(String, String)]) -> Self {
        let weight = match &status.weight {
            Some(Weight { desired, programmed }) => match programmed {
                Some(programmed) if programmed != desired => format!("{programmed}>{desired} %"),
                _ => format!("{desired} %"),
            },
            None => "0 %".to_owned(),
        };
        let eta = status.drain.as_ref().and_then(|drain| drain.eta_seconds);
        Self {
            phase: status.phase.clone(),
            step: status.step.clone().unwrap_or_default(),
            weight: Some(weight),
            eta: eta
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
            ..Self::of_load(elapsed, line, names)
        }
    }

    /// A moment of which only the users know.
    pub fn of_load(elapsed: Duration, line: &Line, names: &[(String, String)]) -> Self {
        let sessions = names
            .iter()
            .map(|(revision, name)| {
                (
                    name.clone(),
                    line.revisions.get(revision).copied().unwrap_or_default(),
                )
            })
            .collect();
        Self {
            elapsed,
            sessions,
            down: line.down,
            back: line.reconnects,
            failed: line.failures,
            ..Self::default()
        }
    }

    /// One line.
    fn line(&self) -> String {
        let mut line = format!(
            "{:>4} s  {:<11} {:>3}",
            self.elapsed.as_secs(),
            self.phase,
            self.step
        );
        if let Some(weight) = &self.weight {
            let _ = write!(line, "  weight {weight:>8}");
        }
        for (name, count) in &self.sessions {
            let _ = write!(line, "  {name} {count:>5}");
        }
        let _ = write!(line, "  down {:>4}  back {:>4}/s", self.down, self.back);
        if self.failed > 0 {
            let _ = write!(line, "  failed {}/s", self.failed);
        }
        if let Some(eta) = self.eta {
            let _ = write!(line, "  eta {} s", eta.as_secs());
        }
        line
    }

    /// A few lines, always as many.
    fn block(&self) -> Vec<String> {
        let eta = self.eta.map_or_else(String::new, |eta| {
            format!(", {} s left in this wave", eta.as_secs())
        });
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed}/s failed"),
        };
        let weight = self.weight.as_ref().map_or_else(
            || "Kubernetes gives every ready pod its share".to_owned(),
            |weight| format!("{weight} of new connections to the new version"),
        );
        let counts: Vec<String> = self
            .sessions
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        vec![
            format!(
                "phase     {:<12} {:<5} {:>4} s",
                self.phase,
                self.step,
                self.elapsed.as_secs()
            ),
            format!("weight    {weight}"),
            format!(
                "sessions  [{}] {}, down {}",
                self.bar(),
                counts.join(", "),
                self.down
            ),
            format!("moving    {}/s came back{failed}{eta}", self.back),
        ]
    }

    /// `#` the newest version's share of the open sessions, `.` the others'.
    fn bar(&self) -> String {
        let all: u32 = self.sessions.iter().map(|(_, count)| count).sum();
        let new = self.sessions.last().map_or(0, |(_, count)| *count);
        let filled = (BAR as u32 * new).checked_div(all).unwrap_or(0) as usize;
        format!("{}{}", "#".repeat(filled), ".".repeat(BAR - filled))
    }
}

// === impl Table ===

impl Table {
    /// An empty one.
    pub fn new(voice: Voice) -> Self {
        Self {
            voice,
            drawn: 0,
            last: None,
        }
    }

    /// Shows the moment, or keeps quiet because nothing much is new.
    pub fn show(&mut self, row: &Row) {
        if self.voice.terminal {
            self.draw(&row.block());
            return;
        }
        let fresh = |(since, phase): &(Stopwatch, String)| *phase == row.phase && since.elapsed() < EVERY;
        if !self.last.as_ref().is_some_and(fresh) {
            println!("   {}", row.line());
            self.last = Some((Stopwatch::start(), row.phase.clone()));
        }
    }

    /// The last moment stays.
    pub fn end(&mut self, row: &Row) {
        if self.voice.terminal {
            self.draw(&row.block());
            self.drawn = 0;
        } else {
            println!("   {}", row.line());
            self.last = None;
        }
    }

    fn draw(&mut self, lines: &[String]) {
        let mut out = std::io::stdout().lock();
        // Nobody reads any more: nothing to show then.
        let _ = write!(out, "{}", redraw(self.drawn, lines)).and_then(|()| out.flush());
        self.drawn = lines.len();
    }
}

/// Lines in place of `drawn` earlier ones.
fn redraw(drawn: usize, lines: &[String]) -> String {
    let mut text = String::new();
    if drawn > 0 {
        let _ = write!(text, "\x1b[{drawn}A");
    }
    for line in lines {
        let _ = write!(text, "\r\x1b[2K   {line}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let status: Status = serde_json::from_value(serde_json::json!({
            "phase": "Moving", "step": "2/3", "weight": {"desired": 50, "programmed": 10},
            "drain": {"etaSeconds": 12, "activeMs": 4000},
        }))
        .unwrap();
        let line: Line = serde_json::from_value(serde_json::json!({
            "open": 998, "down": 2, "revisions": {"bcd": 698, "fgh": 300}, "reconnects": 44,
        }))
        .unwrap();
        let names = [("bcd", "v1"), ("fgh", "v2")].map(|(hash, name)| (hash.to_owned(), name.to_owned()));
        Row::of_rollout(Duration::from_secs(46), &status, &line, &names)
    }

    #[test]
    fn a_line_has_it_all() {
        assert_eq!(
            row().line(),
            "  46 s  Moving      2/3  weight  10>50 %  v1   698  v2   300  down    2  back   44/s  eta 12 s"
        );
    }

    #[test]
    fn the_bar_is_the_new_versions_share() {
        let bar = row().bar();
        assert_eq!(bar.matches('#').count(), 9);
        assert_eq!(bar.len(), BAR);
        assert_eq!(
            Row::default().bar(),
            ".".repeat(BAR),
            "no sessions, no division by zero"
        );
    }

    #[test]
    fn a_block_replaces_the_one_before() {
        let block = row().block();
        assert_eq!(block.len(), Row::default().block().len());
        let text = redraw(4, &block);
        assert!(text.starts_with("\x1b[4A\r"), "{text:?}");
        assert!(!redraw(0, &block).contains("\x1b[0A"));
    }
}
