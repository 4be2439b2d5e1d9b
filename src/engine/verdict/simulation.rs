//! What the rules do by chance: simulated, with fixed seeds. The table is that of `docs/verdict.md`.

use super::success::{Rule, Standing};
use super::trial::{Part, begin};
use crate::api::spec::Thresholds;
use crate::api::status::Trial;

/// Runs of every experiment.
const RUNS: u64 = 10_000;
/// Reconnects of a run: 17 minutes of 20 probes that reconnect every 10 s.
const LONG: u64 = 2_000;

/// Numbers that are the same in every run: `SplitMix64`, after Steele, Lea and Flood (2014).
struct Dice(u64);

impl Dice {
    fn succeeds(&mut self, share: f64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 <= share
    }
}

fn first_epoch() -> Trial {
    let part = Part {
        step: 0,
        settled: true,
    };
    begin(None, part, jiff::Timestamp::UNIX_EPOCH)
}

/// Looks at every sample; a passed verdict begins a new epoch, as in a release. How often it passed, and when it was stopped.
fn release(dice: &mut Dice, share: f64, most: u64, until_first: bool) -> (Vec<u64>, Option<(u64, Standing)>) {
    let limits = Thresholds::default().reconnect_success;
    let mut trial = first_epoch();
    let mut rule = Rule::of(&limits, &trial);
    let mut passes = Vec::new();
    for n in 1..=most {
        trial.canary.attempts += 1;
        trial.canary.restored += u64::from(dice.succeeds(share));
        match rule.stand(&trial.canary) {
            Standing::Above => {
                passes.push(n);
                if until_first {
                    return (passes, None);
                }
                trial = trial.next_epoch(trial.since);
                rule = Rule::of(&limits, &trial);
            }
            standing @ (Standing::Below | Standing::AtOnce) => return (passes, Some((n, standing))),
            Standing::Between => {}
        }
    }
    (passes, None)
}

#[test]
fn a_good_version_is_sent_back_by_chance_no_more_often_than_the_error_rate_says() {
    let mut dice = Dice(7);
    let mut stopped = 0;
    for _ in 0..RUNS {
        stopped += u64::from(release(&mut dice, 0.999, LONG, false).1.is_some());
    }
    println!("99.9 %: {stopped} of {RUNS} releases of {LONG} looks were sent back");
    assert!(stopped <= RUNS / 100, "{stopped}");
}

/// The harder case, which the promise covers as well: one that is just good enough not to go back.
#[test]
fn one_at_the_very_bar_is_sent_back_by_chance_no_more_often_than_the_error_rate_says() {
    let mut dice = Dice(8);
    let mut stopped = 0;
    for _ in 0..RUNS {
        stopped += u64::from(release(&mut dice, 0.8, LONG, false).1.is_some());
    }
    println!("80 %: {stopped} of {RUNS} releases of {LONG} looks were sent back");
    assert!(stopped <= RUNS / 100, "{stopped}");
}

#[test]
fn one_with_60_percent_is_always_stopped_and_never_passed() {
    let mut dice = Dice(9);
    for _ in 0..RUNS {
        let (passes, stopped) = release(&mut dice, 0.6, LONG, false);
        assert!(stopped.is_some() && passes.is_empty(), "{passes:?} {stopped:?}");
    }
}

#[test]
fn one_between_the_bars_is_hardly_ever_judged_at_all() {
    let mut dice = Dice(10);
    for share in [0.8, 0.85, 0.899] {
        let (mut wrong, mut both) = (0, 0);
        for _ in 0..RUNS {
            let (passes, stopped) = release(&mut dice, share, LONG, false);
            wrong += u64::from(!passes.is_empty() || stopped.is_some());
            both += u64::from(!passes.is_empty() && stopped.is_some());
        }
        println!(
            "{:.1} %: {wrong} of {RUNS} were judged, {both} both ways",
            share * 100.0
        );
        assert!(wrong <= RUNS / 100 && both == 0, "{share}: {wrong}, {both}");
    }
}

/// `cargo test --lib verdict::simulation::samples -- --nocapture` prints the table of `docs/verdict.md`.
#[test]
fn samples_until_a_verdict() {
    println!("| success | verdict | median | 95 % of runs |\n|---|---|---|---|");
    for (share, passes) in [
        (1.0, true),
        (0.99, true),
        (0.95, true),
        (0.6, false),
        (0.3, false),
        (0.0, false),
    ] {
        let mut dice = Dice(11);
        let mut needed: Vec<u64> = (0..RUNS)
            .map(|_| {
                let (passed, stopped) = release(&mut dice, share, 100_000, true);
                let at = if passes {
                    passed.first().copied()
                } else {
                    stopped.map(|(n, _)| n)
                };
                at.unwrap_or(u64::MAX)
            })
            .collect();
        needed.sort_unstable();
        let rank = |percent: usize| needed[(needed.len() * percent / 100).min(needed.len() - 1)];
        let verdict = if passes { "passed" } else { "rolled back" };
        println!(
            "| {:.0} % | {verdict} | {} | {} |",
            share * 100.0,
            rank(50),
            rank(95)
        );
        let most = if passes { 1_000 } else { 200 };
        assert!(rank(95) <= most, "{share}: {}", rank(95));
    }
}
