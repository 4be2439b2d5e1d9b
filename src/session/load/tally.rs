//! What all sessions of a load count together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

/// The longest downtime told apart, in milliseconds; longer ones count as this.
const MAX_DOWNTIME_MS: u64 = 3_600_000;

/// The load at one moment, and what happened in the time since the line before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Milliseconds since the start.
    pub t_ms: u64,
    /// Sessions on an open socket.
    pub open: u32,
    /// Sessions that were open before and are not now.
    pub down: u32,
    /// Open sessions by the revision that welcomed them.
    pub revisions: BTreeMap<String, u32>,
    /// Connection attempts.
    pub connects: u64,
    /// Sessions that came back.
    pub reconnects: u64,
    /// Notices received.
    pub notices: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Messages said.
    pub messages_sent: u64,
    /// Numbered messages received for the first time.
    pub messages_received: u64,
}

/// What became of all sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Sessions held.
    pub sessions: u32,
    /// Sockets that ended without notice and without the ordered close code.
    pub unannounced_disconnects: u64,
    /// Sockets that were closed as announced.
    pub announced_disconnects: u64,
    /// Disconnects of the session that had most.
    pub max_disconnects_per_session: u32,
    /// Disconnects per session.
    pub mean_disconnects_per_session: f64,
    /// Messages said.
    pub messages_sent: u64,
    /// Numbered messages received, each counted once.
    pub messages_received: u64,
    /// Messages never answered on sessions that are up, refused ones, and numbers that never came.
    pub messages_lost: u64,
    /// Numbers that came more than once.
    pub duplicates_dropped: u64,
    /// Sessions not found again, or whose state differed at the end.
    pub state_lost: u64,
    /// Most first connects after a loss or notice in one second of the wall clock.
    pub peak_connects_per_s: u64,
    /// Most sessions down at one moment.
    pub peak_down: u32,
    /// Median time from losing a socket to the next answer, in milliseconds; 0 where none was lost.
    pub downtime_ms_p50: u64,
    /// 99th percentile of the same.
    pub downtime_ms_p99: u64,
    /// Sessions whose last message got no answer within 5 s.
    pub sessions_unanswered_at_end: u64,
    /// Sessions that each revision ever accepted, by the revision's name.
    pub reached: BTreeMap<String, u64>,
    /// Disconnects by close code; 1006 is none at all.
    pub close_codes: BTreeMap<u16, u64>,
    /// First connects after a loss or notice, by second of the wall clock (Unix time).
    pub connects_by_second: Vec<(i64, u64)>,
}

/// What one session knows at its end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) disconnects: u32,
    pub(super) state_lost: bool,
    pub(super) unanswered: bool,
    reached: BTreeSet<Box<str>>,
}

/// Shared by all sessions of a load.
#[derive(Debug)]
pub(super) struct Tally {
    sessions: u32,
    began: (Timestamp, Instant),
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    line: Line,
    summary: Summary,
    downtime_ms: Option<Histogram<u32>>,
    connects_by_second: BTreeMap<i64, u64>,
    disconnects: u64,
}

// === impl Ending ===

impl Ending {
    /// This revision has accepted a socket of the session.
    pub(super) fn reach(&mut self, revision: &str) {
        if !self.reached.contains(revision) {
            self.reached.insert(revision.into());
        }
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(sessions: u32, wall: Timestamp, now: Instant) -> Self {
        Self {
            sessions,
            began: (wall, now),
            counts: Mutex::default(),
        }
    }

    /// `first`: the first attempt after a loss or notice.
    pub(super) fn dialing(&self, first: bool, now: Instant) {
        let second = self.second(now);
        let mut counts = self.lock();
        counts.line.connects += 1;
        if first {
            *counts.connects_by_second.entry(second).or_default() += 1;
        }
    }

    pub(super) fn restored(&self, downtime: Duration) {
        let mut counts = self.lock();
        counts.line.reconnects += 1;
        if counts.downtime_ms.is_none() {
            counts.downtime_ms = Histogram::new_with_bounds(1, MAX_DOWNTIME_MS, 3).ok();
        }
        if let Some(histogram) = &mut counts.downtime_ms {
            histogram.saturating_record(downtime.as_millis() as u64);
        }
    }

    pub(super) fn disconnected(&self, code: u16, announced: bool) {
        let mut counts = self.lock();
        counts.disconnects += 1;
        *counts.summary.close_codes.entry(code).or_default() += 1;
        if announced {
            counts.summary.announced_disconnects += 1;
        } else {
            counts.summary.unannounced_disconnects += 1;
        }
    }

    pub(super) fn opened(&self, open: bool) {
        let mut counts = self.lock();
        let line = &mut counts.line;
        if open {
            line.open += 1;
            line.down = line.down.saturating_sub(1);
        } else {
            line.open = line.open.saturating_sub(1);
            line.down += 1;
        }
        counts.summary.peak_down = counts.summary.peak_down.max(counts.line.down);
    }

    /// A session is counted under another revision, or none.
    pub(super) fn revision(&self, before: Option<&str>, after: Option<&str>) {
        let revisions = &mut self.lock().line.revisions;
        if let Some(count) = before.and_then(|before| revisions.get_mut(before)) {
            *count = count.saturating_sub(1);
        }
        if let Some(after) = after {
            match revisions.get_mut(after) {
                Some(count) => *count += 1,
                None => drop(revisions.insert(after.to_owned(), 1)),
            }
        }
    }

    pub(super) fn said(&self) {
        let mut counts = self.lock();
        counts.line.messages_sent += 1;
        counts.summary.messages_sent += 1;
    }

    pub(super) fn received(&self) {
        let mut counts = self.lock();
        counts.line.messages_received += 1;
        counts.summary.messages_received += 1;
    }

    pub(super) fn noticed(&self) {
        self.lock().line.notices += 1;
    }

    pub(super) fn failed(&self) {
        self.lock().line.failures += 1;
    }

    pub(super) fn duplicate(&self) {
        self.lock().summary.duplicates_dropped += 1;
    }

    pub(super) fn lost(&self, messages: u64) {
        self.lock().summary.messages_lost += messages;
    }

    pub(super) fn ended(&self, ending: Ending) {
        let Ending {
            disconnects,
            state_lost,
            unanswered,
            reached,
        } = ending;
        let mut counts = self.lock();
        let summary = &mut counts.summary;
        summary.max_disconnects_per_session = summary.max_disconnects_per_session.max(disconnects);
        summary.state_lost += u64::from(state_lost);
        summary.sessions_unanswered_at_end += u64::from(unanswered);
        for revision in reached {
            *summary.reached.entry(revision.into()).or_default() += 1;
        }
    }

    pub(super) fn line(&self, now: Instant) -> Line {
        let mut counts = self.lock();
        counts.line.revisions.retain(|_, count| *count > 0);
        let line = &mut counts.line;
        let next = Line {
            t_ms: 0,
            open: line.open,
            down: line.down,
            revisions: line.revisions.clone(),
            ..Line::default()
        };
        Line {
            t_ms: (now - self.began.1).as_millis() as u64,
            ..std::mem::replace(line, next)
        }
    }

    pub(super) fn summary(&self) -> Summary {
        let counts = self.lock();
        let downtime = |quantile| {
            let histogram = counts.downtime_ms.as_ref();
            histogram.map_or(0, |histogram| histogram.value_at_quantile(quantile))
        };
        let by_second = &counts.connects_by_second;
        Summary {
            sessions: self.sessions,
            mean_disconnects_per_session: counts.disconnects as f64 / f64::from(self.sessions.max(1)),
            peak_connects_per_s: by_second.values().copied().max().unwrap_or(0),
            connects_by_second: by_second.iter().map(|(&at, &n)| (at, n)).collect(),
            downtime_ms_p50: downtime(0.5),
            downtime_ms_p99: downtime(0.99),
            ..counts.summary.clone()
        }
    }

    /// The second of the wall clock, so that peaks line up with what others measure.
    fn second(&self, now: Instant) -> i64 {
        let (wall, began) = self.began;
        let since = i64::try_from((now - began).as_millis()).unwrap_or(i64::MAX);
        wall.as_millisecond().saturating_add(since).div_euclid(1000)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counters stay meaningful even if a holder panicked.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
