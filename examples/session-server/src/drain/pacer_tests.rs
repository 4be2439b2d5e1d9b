//! The pacer in virtual time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn pacer(count: u32, rate: f64, lead_ms: u32, manner: Manner) -> Pacer<u32> {
    Pacer::new(
        rate,
        MS * lead_ms,
        Duration::ZERO,
        (0..count).map(|n| (n, manner)),
    )
}

/// Runs to the end, always polling exactly when something is due.
fn run(pacer: &mut Pacer<u32>) -> Vec<(Duration, Step<u32>)> {
    let mut log = Vec::new();
    while let Some(now) = pacer.next_due(true) {
        log.extend(
            pacer
                .poll(now, true, |_| false)
                .into_iter()
                .map(|step| (now, step)),
        );
    }
    log
}

fn closes(log: &[(Duration, Step<u32>)]) -> Vec<Duration> {
    log.iter()
        .filter(|(_, step)| matches!(step, Step::Close(_)))
        .map(|(at, _)| *at)
        .collect()
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
    let log = run(&mut pacer(100, 50.0, 2000, Manner::Told));
    for k in 0..100 {
        let place = MS * 20 * k;
        assert!(log.contains(&(place, Step::Notice(k))), "notice of {k}");
        assert!(log.contains(&(place + MS * 2000, Step::Close(k))), "close of {k}");
    }
    assert_eq!(log.len(), 200);
}

#[test]
fn clients_that_declared_nothing_get_the_paced_close_only() {
    let log = run(&mut pacer(10, 10.0, 500, Manner::Untold));
    assert_eq!(closes(&log).len(), 10);
    assert_eq!(log.len(), 10);
}

#[test]
fn clients_that_overlap_are_not_closed_while_they_move() {
    let mut pacer = pacer(1, 10.0, 500, Manner::Overlapping);
    assert_eq!(pacer.poll(Duration::ZERO, true, |_| false), [Step::Notice(0)]);
    // It left: nothing is closed.
    assert_eq!(pacer.poll(MS * 600, true, |_| true), []);
    assert!(pacer.is_done());
}

#[test]
fn clients_that_overlap_and_never_leave_are_closed_in_a_turn_of_their_own() {
    let log = run(&mut pacer(1, 10.0, 500, Manner::Overlapping));
    assert_eq!(log[1], (MS * 500 + OVERLAP_GRACE + MS * 500, Step::Close(0)));
}

#[test]
fn a_lower_rate_re_spaces_what_is_left() {
    let mut pacer = pacer(100, 50.0, 1000, Manner::Told);
    for ms in 0..=1000 {
        pacer.poll(MS * ms, true, |_| false);
    }
    pacer.set_rate(5.0);
    let mut times = Vec::new();
    for ms in 1001..=4000 {
        let steps = pacer.poll(MS * ms, true, |_| false);
        times.extend(
            steps
                .iter()
                .filter(|step| matches!(step, Step::Close(_)))
                .map(|_| MS * ms),
        );
    }
    // Also those who were told under the old rate close by the new one.
    assert!(fullest_second(&times) <= 5, "{times:?}");
    assert!(times.len() >= 14, "{}", times.len());
}

#[test]
fn a_higher_rate_takes_effect_at_once() {
    let mut pacer = pacer(100, 0.1, 0, Manner::Told);
    pacer.poll(Duration::ZERO, true, |_| false);
    pacer.set_rate(100.0);
    assert_eq!(pacer.next_due(true), Some(MS * 10));
}

#[test]
fn a_pause_keeps_the_promise_made_and_makes_no_new_one() {
    let mut pacer = pacer(4, 10.0, 1000, Manner::Told);
    pacer.add(4, Manner::Untold);
    pacer.poll(Duration::ZERO, true, |_| false);
    pacer.poll(MS * 100, true, |_| false);
    pacer.pause();
    let mut log = Vec::new();
    for ms in 101..10_000 {
        log.extend(pacer.poll(MS * ms, false, |_| false));
    }
    assert_eq!(log, [Step::Close(0), Step::Close(1)]);
    pacer.resume(MS * 10_000);
    let log = run(&mut pacer);
    assert_eq!(closes(&log), [MS * 11_000, MS * 11_100, MS * 11_200]);
}

#[test]
fn those_who_know_of_nothing_go_back_when_paused() {
    let mut pacer = pacer(2, 10.0, 1000, Manner::Untold);
    pacer.poll(MS * 100, true, |_| false);
    pacer.pause();
    for ms in 101..5000 {
        assert_eq!(pacer.poll(MS * ms, false, |_| false), []);
    }
    pacer.resume(MS * 5000);
    assert_eq!(closes(&run(&mut pacer)).len(), 2);
}

#[test]
fn sessions_that_left_by_themselves_cost_no_place() {
    let mut pacer = pacer(100, 1.0, 0, Manner::Untold);
    assert_eq!(pacer.poll(Duration::ZERO, true, |n| *n < 99), [Step::Close(99)]);
    assert!(pacer.is_done());
}

#[test]
fn a_long_stall_is_not_caught_up_with_in_a_burst() {
    let mut pacer = pacer(1000, 100.0, 0, Manner::Untold);
    pacer.poll(Duration::ZERO, true, |_| false);
    let burst = pacer.poll(MS * 5000, true, |_| false).len();
    assert!(burst <= 26, "{burst}");
}

proptest! {
    /// However late the wake-ups are, no second ever holds more than the rate, and the drain still ends in time.
    #[test]
    fn no_second_holds_more_than_the_rate(
        rate in 0.3f64..120.0,
        count in 1u32..300,
        lateness in proptest::collection::vec(0u32..40, 16),
        offset_ms in 0u32..1000,
    ) {
        let mut pacer = pacer(count, rate, 300, Manner::Untold);
        let mut times = Vec::new();
        for turn in 0.. {
            let Some(due) = pacer.next_due(true) else { break };
            let now = due + MS * lateness[turn % lateness.len()];
            times.extend(pacer.poll(now, true, |_| false).iter().map(|_| now + MS * offset_ms));
        }
        prop_assert_eq!(times.len(), count as usize);
        prop_assert!(fullest_second(&times) <= rate.ceil() as usize);
        let ideal = f64::from(count) / rate;
        let took = times.last().unwrap().as_secs_f64() - f64::from(offset_ms) / 1000.0;
        prop_assert!(took <= ideal * 1.06 + 1.0, "took {} s, ideal {} s", took, ideal);
    }
}
