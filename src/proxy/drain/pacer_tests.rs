//! The pacer in virtual time.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn pacer(count: u32, rate: f64, lead_ms: u32) -> Pacer<u32> {
    Pacer::new(rate, MS * lead_ms, Duration::ZERO, 0..count)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as the pacer asks")]
fn ready(_: &u32) -> Standing {
    Standing::Ready
}

/// Runs to the end, always polling exactly when something is due.
fn run(pacer: &mut Pacer<u32>, told: bool) -> Vec<(Duration, Step<u32>)> {
    let mut log = Vec::new();
    while let Some(now) = pacer.next_due(true) {
        let steps = pacer.poll(now, true, ready, |_| told);
        log.extend(steps.into_iter().map(|step| (now, step)));
    }
    log
}

fn closes(log: &[(Duration, Step<u32>)]) -> Vec<Duration> {
    let closes = log.iter().filter(|(_, step)| matches!(step, Step::Close(_)));
    closes.map(|(at, _)| *at).collect()
}

fn fullest_second(times: &[Duration]) -> usize {
    let mut seconds = BTreeMap::<u64, usize>::new();
    for at in times {
        *seconds.entry(at.as_secs()).or_default() += 1;
    }
    seconds.values().copied().max().unwrap_or(0)
}

#[test]
fn session_number_k_is_told_at_k_over_rate_and_closed_one_lead_later() {
    let log = run(&mut pacer(100, 50.0, 2000), true);
    for k in 0..100 {
        let place = MS * 20 * k;
        assert!(log.contains(&(place, Step::Notice(k))), "notice of {k}");
        assert!(log.contains(&(place + MS * 2000, Step::Close(k))), "close of {k}");
    }
    assert_eq!(log.len(), 200);
}

#[test]
fn clients_that_declared_nothing_get_the_paced_close_only() {
    let log = run(&mut pacer(10, 10.0, 500), false);
    assert_eq!((closes(&log).len(), log.len()), (10, 10));
}

#[test]
fn who_is_busy_is_skipped_and_its_place_is_taken_by_the_next() {
    let mut pacer = pacer(3, 10.0, 0);
    let look = |n: &u32| if *n == 0 { Standing::Busy } else { Standing::Ready };
    let mut closed = Vec::new();
    for ms in 0..1000 {
        closed.extend(pacer.poll(MS * ms, true, look, |_| false));
    }
    assert_eq!(closed, [Step::Close(1), Step::Close(2)]);
    assert_eq!(pacer.busy(), 1);
    // Idle at last: it goes at the next look.
    let last: Vec<_> = (1000..1300)
        .flat_map(|ms| pacer.poll(MS * ms, true, ready, |_| false))
        .collect();
    assert_eq!(last, [Step::Close(0)]);
    assert!(pacer.is_done());
}

#[test]
fn who_becomes_busy_between_its_place_and_its_close_waits_again_unless_it_was_told() {
    for told in [false, true] {
        let mut pacer = pacer(1, 10.0, 500);
        pacer.poll(Duration::ZERO, true, ready, |_| told);
        let closed = pacer.poll(MS * 500, true, |_| Standing::Busy, |_| told);
        assert_eq!(closed.len(), usize::from(told));
        assert_eq!(pacer.is_done(), told);
    }
}

#[test]
fn dormant_sessions_go_at_once_and_cost_no_place() {
    let mut pacer = pacer(100, 1.0, 0);
    let look = |n: &u32| {
        if *n < 99 {
            Standing::Dormant
        } else {
            Standing::Ready
        }
    };
    let steps = pacer.poll(Duration::ZERO, true, look, |_| false);
    let dormant = steps
        .iter()
        .filter(|step| matches!(step, Step::Dormant(_)))
        .count();
    assert_eq!((dormant, steps.last()), (99, Some(&Step::Close(99))));
    assert!(pacer.is_done());
}

#[test]
fn a_lower_rate_re_spaces_what_is_left() {
    let mut pacer = pacer(100, 50.0, 1000);
    for ms in 0..=1000 {
        pacer.poll(MS * ms, true, ready, |_| true);
    }
    pacer.set_rate(5.0);
    let mut times = Vec::new();
    for ms in 1001..=4000 {
        let steps = pacer.poll(MS * ms, true, ready, |_| true);
        let closed = steps.iter().filter(|step| matches!(step, Step::Close(_)));
        times.extend(closed.map(|_| MS * ms));
    }
    // Also those who were told under the old rate close by the new one.
    assert!(fullest_second(&times) <= 5, "{times:?}");
    assert!(times.len() >= 13, "{}", times.len());
}

#[test]
fn a_higher_rate_takes_effect_at_once() {
    let mut pacer = pacer(100, 0.1, 0);
    pacer.poll(Duration::ZERO, true, ready, |_| true);
    pacer.set_rate(100.0);
    let steps: usize = (1..=100)
        .map(|ms| pacer.poll(MS * ms, true, ready, |_| true).len())
        .sum();
    assert!(steps >= 10, "{steps}");
}

#[test]
fn a_pause_keeps_the_promise_made_and_makes_no_new_one() {
    let mut pacer = pacer(5, 10.0, 1000);
    let told = |n: &u32| *n != 1;
    pacer.poll(Duration::ZERO, true, ready, told);
    pacer.poll(MS * 100, true, ready, told);
    pacer.pause();
    let paused: Vec<_> = (101..10_000)
        .flat_map(|ms| pacer.poll(MS * ms, false, ready, told))
        .collect();
    assert_eq!(paused, [Step::Close(0)]);
    pacer.resume(MS * 10_000);
    let log = run(&mut pacer, true);
    assert_eq!(closes(&log).first(), Some(&(MS * 11_000)));
    assert_eq!(closes(&log).len(), 4);
}

#[test]
fn cancelled_only_those_who_were_told_still_go() {
    let mut pacer = pacer(10, 10.0, 1000);
    for ms in 0..=150 {
        pacer.poll(MS * ms, true, ready, |n| *n == 0);
    }
    pacer.cancel();
    let rest: Vec<_> = (151..5000)
        .flat_map(|ms| pacer.poll(MS * ms, false, ready, |_| false))
        .collect();
    assert_eq!(rest, [Step::Close(0)]);
    assert!(pacer.is_done());
}

#[test]
fn sessions_that_left_by_themselves_cost_no_place() {
    let mut pacer = pacer(100, 1.0, 0);
    let look = |n: &u32| if *n < 99 { Standing::Gone } else { Standing::Ready };
    assert_eq!(
        pacer.poll(Duration::ZERO, true, look, |_| false),
        [Step::Close(99)]
    );
    assert!(pacer.is_done());
}

#[test]
fn a_long_stall_is_not_caught_up_with_in_a_burst() {
    let mut pacer = pacer(1000, 100.0, 0);
    pacer.poll(Duration::ZERO, true, ready, |_| false);
    let burst = pacer.poll(MS * 5000, true, ready, |_| false).len();
    assert!(burst <= 26, "{burst}");
}

#[test]
fn an_order_after_another_does_not_double_the_rate() {
    let mut first = pacer(100, 10.0, 0);
    let mut times = Vec::new();
    for ms in 0..=450 {
        times.extend(
            first
                .poll(MS * ms, true, ready, |_| false)
                .iter()
                .map(|_| MS * ms),
        );
    }
    let mut second = Pacer::new(10.0, Duration::ZERO, MS * 450, 100..200);
    second.inherit(first);
    for ms in 450..=3000 {
        times.extend(
            second
                .poll(MS * ms, true, ready, |_| false)
                .iter()
                .map(|_| MS * ms),
        );
    }
    assert!(fullest_second(&times) <= 10, "{times:?}");
}

proptest! {
    /// However late the wake-ups are, whoever is busy, and whatever rates are ordered: no second holds more than the
    /// highest rate in force in it, everybody goes once, and the drain ends in time.
    #[test]
    fn no_second_holds_more_than_the_rate(
        rates in proptest::collection::vec(0.3f64..120.0, 1..5),
        count in 1u32..300,
        lateness in proptest::collection::vec(0u32..40, 16),
        offset_ms in 0u32..1000,
        change_every in 1usize..50,
    ) {
        let mut pacer = pacer(count, rates[0], 300);
        let mut rate = rates[0];
        let mut times = Vec::new();
        let mut most = BTreeMap::<u64, f64>::new();
        let mut gone = HashSet::new();
        for turn in 0.. {
            let Some(due) = pacer.next_due(true) else { break };
            let now = due + MS * lateness[turn % lateness.len()];
            let before = rate;
            if turn % change_every == change_every - 1 && turn < 200 {
                rate = rates[turn / change_every % rates.len()];
                pacer.set_rate(rate);
            }
            let busy = |n: &u32| if turn < 100 && n % 7 == 3 { Standing::Busy } else { Standing::Ready };
            let at = now + MS * offset_ms;
            let high = most.entry(at.as_secs()).or_insert(before);
            *high = high.max(before).max(rate);
            for step in pacer.poll(now, true, busy, |_| false) {
                let Step::Close(session) = step else { panic!("{step:?}") };
                prop_assert!(gone.insert(session), "{} went twice", session);
                times.push(at);
            }
        }
        prop_assert_eq!(times.len(), count as usize);
        let mut seconds = BTreeMap::<u64, usize>::new();
        for at in &times {
            *seconds.entry(at.as_secs()).or_default() += 1;
        }
        for (second, count) in seconds {
            prop_assert!(count <= most[&second].ceil() as usize, "{} in second {}", count, second);
        }
        if rates.len() == 1 {
            let took = times.last().unwrap().as_secs_f64() - f64::from(offset_ms) / 1000.0;
            // A second of busy sessions is waited for.
            let ideal = f64::from(count) / rate;
            prop_assert!(took <= ideal * 1.1 + 30.0, "took {} s, ideal {} s", took, ideal);
        }
    }
}
