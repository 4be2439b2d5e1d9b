//! Leases, deadlines and modes in virtual time.

use super::*;
use crate::drain::protocol::Reason;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn order() -> DrainOrder {
    DrainOrder {
        id: "o".to_owned(),
        reason: Reason::Rollout,
        select: Select::All {},
        mode: Mode::Ask,
        rate_per_second: 10.0,
        lease_seconds: 2,
        deadline_ms: None,
        on_deadline: OnDeadline::Wait,
        reconnect: crate::drain::protocol::Reconnect::default(),
        close_code: 1012,
    }
}

fn start(order: DrainOrder, count: u32) -> Running<u32> {
    Running::start(order, None, Duration::ZERO, (0..count).collect())
}

/// Polls every millisecond of a time and counts what leaves.
fn closed(running: &mut Running<u32>, from: Duration, to: Duration) -> usize {
    let mut count = 0;
    let mut now = from;
    while now < to {
        let steps = running.poll(now, |_| Standing::Ready, |_| false);
        count += steps.iter().filter(|step| matches!(step, Step::Close(_))).count();
        now += MS;
    }
    count
}

#[test]
fn without_a_renewal_it_pauses_and_with_one_it_goes_on() {
    let mut running = start(order(), 100);
    assert_eq!(closed(&mut running, Duration::ZERO, SECOND * 10), 20);
    assert_eq!(running.state(SECOND * 10), DrainState::Paused);
    running.renew(&order(), SECOND * 10);
    assert_eq!(running.state(SECOND * 10), DrainState::Active);
    assert_eq!(closed(&mut running, SECOND * 10, SECOND * 11), 10);
}

#[test]
fn the_deadlines_clock_stands_still_while_paused() {
    let with_deadline = DrainOrder {
        mode: Mode::Leave,
        deadline_ms: Some(3000),
        on_deadline: OnDeadline::Close,
        ..order()
    };
    let mut running = start(with_deadline.clone(), 100);
    assert_eq!(closed(&mut running, Duration::ZERO, SECOND * 60), 0);
    assert!(!running.deadline_passed());
    running.renew(&with_deadline, SECOND * 60);
    assert_eq!(closed(&mut running, SECOND * 60, SECOND * 61), 0);
    // From the deadline on they go, at the rate and not all at once.
    assert_eq!(closed(&mut running, SECOND * 61, SECOND * 62), 10);
    assert!(running.deadline_passed());
}

#[test]
fn at_the_deadline_wait_leaves_the_rest_alone() {
    let with_deadline = DrainOrder {
        deadline_ms: Some(1000),
        lease_seconds: 60,
        ..order()
    };
    let mut running = start(with_deadline, 100);
    assert_eq!(closed(&mut running, Duration::ZERO, SECOND * 50), 10);
    assert_eq!(running.state(SECOND * 50), DrainState::Active);
}

#[test]
fn busy_sessions_are_spared_only_by_when_idle_and_only_until_the_deadline() {
    let busy = |running: &mut Running<u32>, from: u32, to: u32| -> usize {
        let polled = (from..to).flat_map(|ms| running.poll(MS * ms, |_| Standing::Busy, |_| false));
        polled.collect::<Vec<_>>().len()
    };
    assert_eq!(busy(&mut start(order(), 5), 0, 1000), 5);
    let spare = DrainOrder {
        mode: Mode::WhenIdle,
        lease_seconds: 60,
        deadline_ms: Some(2000),
        on_deadline: OnDeadline::Close,
        ..order()
    };
    let mut running = start(spare, 5);
    assert_eq!(busy(&mut running, 0, 2000), 0);
    assert_eq!(running.progress(SECOND).busy, Some(5));
    assert_eq!(busy(&mut running, 2000, 3000), 5);
}

#[test]
fn a_pod_that_ends_needs_no_renewal_and_spares_nobody() {
    let leave = DrainOrder {
        mode: Mode::Leave,
        ..order()
    };
    let mut running = start(leave, 100);
    assert_eq!(closed(&mut running, Duration::ZERO, SECOND * 5), 0);
    running.hasten(Haste { rate: 20.0 }, SECOND * 5);
    assert_eq!(running.progress(SECOND * 5).rate_per_second, Some(20.0));
    assert_eq!(closed(&mut running, SECOND * 5, SECOND * 8), 60);
    // A renewal by the operator does not slow it down.
    running.renew(&order(), SECOND * 8);
    assert_eq!(closed(&mut running, SECOND * 8, SECOND * 9), 20);
}

#[test]
fn who_comes_late_is_meant_by_all_only() {
    let mut running = start(order(), 1);
    running.add(7);
    assert_eq!(running.progress(Duration::ZERO).eligible, Some(2));
    let mut running = start(
        DrainOrder {
            select: Select::Count(1),
            ..order()
        },
        1,
    );
    running.add(7);
    assert_eq!(running.progress(Duration::ZERO).eligible, Some(1));
    running.cancel();
    assert_eq!(running.state(Duration::ZERO), DrainState::Cancelled);
    assert_eq!(closed(&mut running, Duration::ZERO, SECOND), 0);
}
