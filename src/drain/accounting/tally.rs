//! Counts of what became of sessions.

use hdrhistogram::Histogram;

use super::Outcome;
use crate::api::status::Returned;

/// Sessions are counted by how many zeros their hash ends with: the counts of every smaller sample are known at any time.
const CLASSES: usize = 17;
/// Longest return that is measured, milliseconds.
const LONGEST_MS: u64 = 3_600_000;
/// How long natural returns are remembered at least.
const GENERATION_MS: i64 = 30 * 60 * 1_000;
/// Fewer natural departures decide nothing.
const FEW: u64 = 20;

/// What became of the sessions that a release moved.
#[derive(Debug)]
pub(super) struct Tally {
    classes: [Counts; CLASSES],
    after_ms: Option<Histogram<u32>>,
    /// Events that pods dropped before they were read.
    pub(super) lost: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    moved: i64,
    on_target: i64,
    strays: i64,
    resumed: i64,
    not_resumed: i64,
    missing: i64,
    dormant: i64,
}

/// Sessions that left by themselves, in this and in the last half hour.
#[derive(Debug, Default)]
pub(super) struct Natural {
    generations: [Departures; 2],
    since_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Departures {
    back: u64,
    gone: u64,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            classes: [Counts::default(); CLASSES],
            // Two digits are enough for people, and some kilobytes for the histogram. The bounds are valid.
            after_ms: Histogram::new_with_bounds(1, LONGEST_MS, 2).ok(),
            lost: 0,
        }
    }

    /// A session was released, and is waited for.
    pub(super) fn moved(&mut self, session: u64) {
        self.class(session).moved += 1;
    }

    /// It is decided what became of a session; `resumed` is whether it found its state, where it came back.
    pub(super) fn settled(&mut self, session: u64, outcome: Outcome, resumed: Option<bool>) {
        let counts = self.class(session);
        match outcome {
            Outcome::Back(_) => counts.on_target += 1,
            Outcome::Stray(_) => counts.strays += 1,
            Outcome::Missing => counts.missing += 1,
            Outcome::Dormant => counts.dormant += 1,
        }
        match resumed {
            Some(true) => counts.resumed += 1,
            Some(false) => counts.not_resumed += 1,
            None => {}
        }
        if let (Outcome::Back(after) | Outcome::Stray(after), Some(histogram)) =
            (outcome, self.after_ms.as_mut())
        {
            histogram.saturating_record(u64::try_from(after.as_millis()).unwrap_or(LONGEST_MS));
        }
    }

    /// The counts of the sample at this level.
    pub(super) fn returned(&self, level: u32, natural_percent: Option<f64>) -> Returned {
        let mut sum = Counts::default();
        for class in &self.classes[(level as usize).min(CLASSES - 1)..] {
            sum.moved += class.moved;
            sum.on_target += class.on_target;
            sum.strays += class.strays;
            sum.resumed += class.resumed;
            sum.not_resumed += class.not_resumed;
            sum.missing += class.missing;
            sum.dormant += class.dormant;
        }
        let measured = self.after_ms.as_ref().filter(|h| !h.is_empty());
        let quantile = |q: f64| measured.map(|h| h.value_at_quantile(q) as i64);
        Returned {
            moved: sum.moved,
            back: sum.on_target + sum.strays,
            on_target: sum.on_target,
            strays: sum.strays,
            resumed: sum.resumed,
            not_resumed: sum.not_resumed,
            missing: sum.missing,
            dormant: sum.dormant,
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            natural_percent,
            sampled_percent: 100.0 / f64::from(1_u32 << level),
            lost_events: i64::try_from(self.lost).unwrap_or(i64::MAX),
        }
    }

    fn class(&mut self, session: u64) -> &mut Counts {
        &mut self.classes[(session.trailing_zeros() as usize).min(CLASSES - 1)]
    }
}

// === impl Natural ===

impl Natural {
    pub(super) fn count(&mut self, back: bool) {
        let [now, _] = &mut self.generations;
        if back {
            now.back += 1;
        } else {
            now.gone += 1;
        }
    }

    /// Forgets what is older than an hour.
    pub(super) fn rotate(&mut self, now_ms: i64) {
        let since = *self.since_ms.get_or_insert(now_ms);
        if now_ms - since >= GENERATION_MS {
            self.generations = [Departures::default(), self.generations[0]];
            self.since_ms = Some(now_ms);
        }
    }

    /// Share of those that left by themselves and came back, in percent with one decimal.
    pub(super) fn percent(&self) -> Option<f64> {
        let back: u64 = self.generations.iter().map(|g| g.back).sum();
        let all = back + self.generations.iter().map(|g| g.gone).sum::<u64>();
        (all >= FEW).then(|| (back as f64 / all as f64 * 1_000.0).round() / 10.0)
    }
}
