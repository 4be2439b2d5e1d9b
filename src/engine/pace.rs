//! The adaptive part of a budget: additive increase, multiplicative decrease.
//!
//! The budget is the most that may be moved per second. What reconnects are seen to bear may be less: the pace is halved when they
//! become slow or are refused, at most once in the time that a change needs to show, and grows again step by step without trouble.
//! After Jacobson's congestion avoidance (1988): whoever halves on trouble and grows by a constant settles at what can be borne.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::status::{Pace, PaceSeen};

/// How often the pace grows, and counters are looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// What a lowering leaves.
const DECREASE: f64 = 0.5;
/// What a period without trouble adds, of the budget.
const INCREASE: f64 = 0.05;
/// Counters that nobody looked at for so long prove nothing about now.
const STALE: Duration = Duration::from_secs(15);
/// So many in a hundred may fail without its being the pace: the alert threshold for reconnect failures.
const MOST_FAILED_PERCENT: i64 = 5;
/// A 95th percentile of fewer reconnects is a single one.
const LEAST_SAMPLES: u64 = 5;
/// Reconnects that are slower by less are not slow.
const NOISE_MS: u64 = 250;

/// What is known of reconnects on the revision that sessions are moved to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// Connections that its pods refused since they started.
    pub refused: i64,
    /// Sessions resumed there.
    pub resumed: i64,
    /// Resumes that failed there.
    pub resume_failed: i64,
    /// Reconnects of the probes in the last seconds that ended.
    pub probes: u64,
    /// Of them, those that failed.
    pub probes_failed: u64,
    /// Of those that ended last, how many failed in a row.
    pub probes_failed_in_a_row: u32,
    /// Their 95th percentile, milliseconds.
    pub p95_ms: Option<u64>,
    /// What it is compared with.
    pub baseline_p95_ms: Option<u64>,
}

/// Between what the pace moves, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Sessions per second at most.
    pub budget: f64,
    /// Sessions per second at least: however bad it looks, a drain comes to an end.
    pub floor: f64,
    /// How long a change needs to show: sessions that were told before come back until then.
    pub window: Duration,
}

impl Bounds {
    /// Of a release: at least 1 per second, or 2 % of the budget.
    pub fn of_drain(budget: f64, window: Duration) -> Self {
        Self::with_floor(budget, (budget * 0.02).max(1.0), window)
    }

    /// Of a rollback: users are on a version that was found broken, so it never becomes slower than a quarter.
    pub fn of_rollback(budget: f64, window: Duration) -> Self {
        Self::with_floor(budget, (budget * 0.25).max(1.0), window)
    }

    fn with_floor(budget: f64, floor: f64, window: Duration) -> Self {
        Self {
            budget,
            floor: floor.min(budget),
            window: window.max(PERIOD),
        }
    }
}

/// The pace after what was just seen. Sessions that are moved elsewhere than before begin at the budget.
pub fn next(
    before: Option<&Pace>,
    target: &str,
    evidence: &Evidence,
    bounds: Bounds,
    now: Timestamp,
) -> Pace {
    let seen = PaceSeen {
        at: now,
        target: target.to_owned(),
        refused: evidence.refused,
        resumed: evidence.resumed,
        resume_failed: evidence.resume_failed,
    };
    let Some(before) = before.filter(|p| p.seen.target == target) else {
        return Pace {
            limit: bounds.budget,
            reason: None,
            lowered_at: None,
            changed_at: now,
            seen,
        };
    };
    let mut pace = Pace {
        limit: before.limit.clamp(bounds.floor, bounds.budget),
        ..before.clone()
    };
    let looked = since(now, before.seen.at);
    let trouble = slow(evidence).or_else(|| refused(&before.seen, evidence, looked));
    if let Some(trouble) = trouble {
        let shown = before.lowered_at.is_none_or(|at| since(now, at) >= bounds.window);
        if shown {
            pace.limit = (pace.limit * DECREASE).max(bounds.floor);
            pace.lowered_at = Some(now);
            pace.reason = Some(format!(
                "{} of {} sessions per second: {trouble}",
                figure(pace.limit),
                figure(bounds.budget)
            ));
            pace.seen = seen;
        } else if looked >= PERIOD {
            pace.seen = seen;
        }
        // Growth begins a whole period after the last trouble.
        pace.changed_at = now;
        return pace;
    }
    if looked >= PERIOD {
        pace.seen = seen;
    }
    let periods = since(now, before.changed_at).as_millis() / PERIOD.as_millis();
    if periods > 0 && pace.limit < bounds.budget {
        let grown = bounds.budget * INCREASE * periods as f64;
        pace.limit = (pace.limit + grown).min(bounds.budget);
        pace.changed_at = now;
    }
    if pace.limit >= bounds.budget {
        pace.reason = None;
    }
    pace
}

/// Whether so many of the last probe reconnects failed that the pace is lowered; one alone is an accident.
pub fn many_failed(probes: u64, failed: u64, in_a_row: u32) -> bool {
    in_a_row > 1 || (failed > 1 && failed * 100 > probes * MOST_FAILED_PERCENT.unsigned_abs())
}

/// Probes take more than twice as long as before, or many of them fail.
fn slow(evidence: &Evidence) -> Option<String> {
    let Evidence {
        probes,
        probes_failed,
        probes_failed_in_a_row: row,
        ..
    } = *evidence;
    if many_failed(probes, probes_failed, row) {
        return Some(format!(
            "{probes_failed} of the last {probes} probe reconnects failed"
        ));
    }
    let (p95, base) = (evidence.p95_ms?, evidence.baseline_p95_ms?);
    let restored = probes.saturating_sub(probes_failed);
    (restored >= LEAST_SAMPLES && p95 > (2 * base).max(base + NOISE_MS))
        .then(|| format!("95 % of the probe reconnects take {p95} ms, {base} ms before the move"))
}

/// More than a few in a hundred of those that came since the last look were turned away. Pods that went take their counts with
/// them: what shrank tells nothing.
fn refused(seen: &PaceSeen, evidence: &Evidence, looked: Duration) -> Option<String> {
    if looked > STALE {
        return None;
    }
    let refused = (evidence.refused - seen.refused).max(0);
    let failed = (evidence.resume_failed - seen.resume_failed).max(0);
    let came = (evidence.resumed - seen.resumed).max(0) + failed + refused;
    ((refused + failed) * 100 > came * MOST_FAILED_PERCENT).then(|| {
        format!(
            "{refused} connections were refused and {failed} resumes failed, of {came} in {:.0} s",
            looked.as_secs_f64().max(1.0)
        )
    })
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then).max(SignedDuration::ZERO)).unwrap_or_default()
}

/// One decimal where it tells something.
fn figure(rate: f64) -> String {
    if rate >= 10.0 || rate.fract() == 0.0 {
        format!("{rate:.0}")
    } else {
        format!("{rate:.1}")
    }
}

#[cfg(test)]
#[expect(
    clippy::float_cmp,
    reason = "halves and twentieths of round figures are exact"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(5);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + ms).unwrap()
    }

    fn calm() -> Evidence {
        Evidence {
            probes: 20,
            p95_ms: Some(40),
            baseline_p95_ms: Some(40),
            ..Evidence::default()
        }
    }

    fn late() -> Evidence {
        Evidence {
            p95_ms: Some(900),
            ..calm()
        }
    }

    /// Looks every half second.
    fn run(mut pace: Pace, from: i64, to: i64, bounds: Bounds, evidence: impl Fn(i64) -> Evidence) -> Pace {
        let mut ms = from;
        while ms <= to {
            pace = next(Some(&pace), "bbb", &evidence(ms), bounds, at(ms));
            ms += 500;
        }
        pace
    }

    fn begin(bounds: Bounds) -> Pace {
        next(None, "bbb", &calm(), bounds, at(0))
    }

    #[test]
    fn it_begins_at_the_budget_and_says_why_it_is_lower() {
        let bounds = Bounds::of_drain(50.0, WINDOW);
        let pace = begin(bounds);
        assert_eq!((pace.limit, pace.reason.as_ref()), (50.0, None));
        let pace = next(Some(&pace), "bbb", &late(), bounds, at(500));
        assert_eq!(pace.limit, 25.0);
        assert_eq!(
            pace.reason.as_deref(),
            Some(
                "25 of 50 sessions per second: 95 % of the probe reconnects take 900 ms, 40 ms before the move"
            )
        );
    }

    #[test]
    fn it_is_halved_once_in_the_time_that_a_change_needs_to_show() {
        let bounds = Bounds::of_drain(64.0, WINDOW);
        let pace = run(begin(bounds), 500, 5_000, bounds, |_| late());
        assert_eq!(pace.limit, 32.0);
        let pace = run(pace, 5_500, 5_500, bounds, |_| late());
        assert_eq!(pace.limit, 16.0);
    }

    #[test]
    fn constant_trouble_ends_at_the_floor() {
        for bounds in [
            Bounds::of_drain(200.0, WINDOW),
            Bounds::of_rollback(200.0, WINDOW),
        ] {
            let pace = run(begin(bounds), 0, 120_000, bounds, |_| late());
            assert_eq!(pace.limit, bounds.floor);
        }
        assert_eq!(Bounds::of_drain(200.0, WINDOW).floor, 4.0);
        assert_eq!(Bounds::of_rollback(200.0, WINDOW).floor, 50.0);
        assert_eq!(Bounds::of_drain(10.0, WINDOW).floor, 1.0);
    }

    #[test]
    fn it_grows_by_a_twentieth_of_the_budget_every_two_seconds_until_nothing_holds_it() {
        let bounds = Bounds::of_drain(40.0, WINDOW);
        let low = next(Some(&begin(bounds)), "bbb", &late(), bounds, at(500));
        let pace = run(low, 1_000, 6_500, bounds, |_| calm());
        assert_eq!(pace.limit, 20.0 + 3.0 * 2.0);
        assert!(pace.reason.is_some(), "still below the budget");
        let pace = run(pace, 7_000, 25_000, bounds, |_| calm());
        assert_eq!((pace.limit, pace.reason.as_ref()), (40.0, None));
    }

    #[test]
    fn refusals_of_the_pods_count_from_the_last_look_on() {
        let bounds = Bounds::of_drain(40.0, WINDOW);
        let counted = |refused, resumed| Evidence {
            refused,
            resumed,
            ..Evidence::default()
        };
        let first = next(None, "bbb", &counted(1_000, 0), bounds, at(0));
        let same = next(Some(&first), "bbb", &counted(1_000, 100), bounds, at(2_000));
        assert_eq!(
            same.limit, 40.0,
            "what was refused before the move is not its fault"
        );
        let few = next(Some(&same), "bbb", &counted(1_002, 160), bounds, at(4_000));
        assert_eq!(few.limit, 40.0, "two of sixty-two are not the pace");
        let many = next(Some(&few), "bbb", &counted(1_012, 180), bounds, at(6_000));
        assert_eq!(many.limit, 20.0);
        assert!(
            many.reason
                .unwrap()
                .contains("10 connections were refused and 0 resumes failed, of 30 in 2 s")
        );
        let gone = next(Some(&few), "bbb", &counted(3, 0), bounds, at(6_000));
        assert_eq!(gone.limit, 40.0, "a pod that went takes its counts with it");
        let away = next(Some(&few), "bbb", &counted(2_000, 180), bounds, at(60_000));
        assert_eq!(away.limit, 40.0, "nobody looked for a minute");
    }

    #[test]
    fn two_failures_in_a_row_are_trouble_and_one_is_an_accident() {
        let bounds = Bounds::of_drain(40.0, WINDOW);
        let failed = |failed, row| Evidence {
            probes: 200,
            probes_failed: failed,
            probes_failed_in_a_row: row,
            ..Evidence::default()
        };
        let limit = |evidence: Evidence| next(Some(&begin(bounds)), "bbb", &evidence, bounds, at(500)).limit;
        assert_eq!(
            (limit(failed(1, 1)), limit(failed(2, 1)), limit(failed(2, 2))),
            (40.0, 40.0, 20.0)
        );
    }

    #[test]
    fn sessions_that_go_elsewhere_begin_at_the_budget() {
        let bounds = Bounds::of_drain(40.0, WINDOW);
        let low = next(Some(&begin(bounds)), "bbb", &late(), bounds, at(500));
        assert_eq!(next(Some(&low), "aaa", &calm(), bounds, at(1_000)).limit, 40.0);
        let smaller = Bounds::of_drain(10.0, WINDOW);
        assert_eq!(
            next(Some(&begin(bounds)), "bbb", &calm(), smaller, at(500)).limit,
            10.0
        );
    }

    #[test]
    fn it_settles_at_what_a_slow_server_bears() {
        // It is slow while more than 18 come per second.
        let bounds = Bounds::of_drain(50.0, WINDOW);
        let mut pace = begin(bounds);
        let (mut sum, mut count) = (0.0, 0);
        for ms in (500..300_000).step_by(500) {
            let seen = if pace.limit > 18.0 { late() } else { calm() };
            pace = next(Some(&pace), "bbb", &seen, bounds, at(ms));
            if ms > 60_000 {
                (sum, count) = (sum + pace.limit, count + 1);
            }
        }
        let mean = sum / f64::from(count);
        assert!((9.0..=18.0).contains(&mean), "{mean}");
    }

    proptest! {
        #[test]
        fn it_stays_between_floor_and_budget_and_recovers(
            budget in 1.0f64..500.0, back in any::<bool>(),
            troubles in proptest::collection::vec(any::<bool>(), 1..200),
        ) {
            let bounds = if back { Bounds::of_rollback(budget, WINDOW) } else { Bounds::of_drain(budget, WINDOW) };
            let mut pace = begin(bounds);
            let mut ms = 0;
            for trouble in troubles {
                ms += 500;
                pace = next(Some(&pace), "bbb", &if trouble { late() } else { calm() }, bounds, at(ms));
                prop_assert!(pace.limit <= budget && pace.limit >= bounds.floor, "{pace:?}");
                prop_assert_eq!(pace.reason.is_some(), pace.limit < budget || trouble && pace.reason.is_some());
            }
            let calm_again = run(pace, ms + 500, ms + 60_000, bounds, |_| calm());
            prop_assert_eq!((calm_again.limit, calm_again.reason), (budget, None));
        }
    }
}
