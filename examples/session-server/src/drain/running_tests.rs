//! Leases and deadlines in virtual time.

use serde_json::{Value, json};

use super::*;

const S: Duration = Duration::from_secs(1);

fn order(changes: &Value) -> Order {
    let mut order = json!({"id": "o-1", "ratePerSecond": 1, "leaseSeconds": 10, "deadlineMs": 20_000,
        "reconnect": {"maxMs": 0}});
    for (key, value) in changes.as_object().unwrap() {
        order[key] = value.clone();
    }
    Order::parse(order.to_string().as_bytes()).unwrap()
}

fn start(changes: &Value, sessions: u32) -> Running<u32> {
    Running::start(
        order(changes),
        Duration::ZERO,
        (0..sessions).map(|n| (n, Manner::Untold)).collect(),
    )
}

/// Polls once a second up to and including `until`, renewing when asked to; counts closes.
fn run(running: &mut Running<u32>, from: u32, until: u32, renew: bool) -> usize {
    let mut closes = 0;
    for second in from..=until {
        if renew && second % 5 == 0 {
            running.renew(&running.order.clone(), S * second);
        }
        closes += running.poll(S * second, |_| false).len();
    }
    closes
}

#[test]
fn an_order_that_nobody_renews_pauses_and_its_deadline_stands_still() {
    let mut running = start(&json!({}), 100);
    assert_eq!(run(&mut running, 0, 9, false), 10);
    assert_eq!(run(&mut running, 10, 500, false), 0);
    assert_eq!(running.state(S * 500), State::Paused);
    assert_eq!(running.next_due(), None);
    // A renewal resumes both: 10 s of the 20 s deadline are left.
    assert_eq!(run(&mut running, 505, 514, true), 10);
    assert_eq!(running.state(S * 514), State::Active);
    run(&mut running, 515, 515, true);
    assert_eq!(running.state(S * 515), State::Deadline);
    assert_eq!(run(&mut running, 516, 530, true), 0);
}

#[test]
fn at_the_deadline_close_goes_on_at_the_same_rate() {
    let mut running = start(&json!({"onDeadline": "close"}), 40);
    assert_eq!(run(&mut running, 0, 19, true), 20);
    assert!(!running.deadline_passed());
    assert_eq!(run(&mut running, 20, 39, true), 20);
    assert!(running.deadline_passed());
    assert_eq!(running.state(S * 39), State::Done);
}

#[test]
fn leave_does_nothing_before_the_deadline() {
    let mut wait = start(&json!({"mode": "leave"}), 5);
    assert_eq!(run(&mut wait, 0, 60, true), 0);
    let mut close = start(&json!({"mode": "leave", "onDeadline": "close"}), 5);
    assert_eq!(run(&mut close, 0, 19, true), 0);
    // From the deadline on one by one, not all that were "due" before it.
    assert_eq!(close.next_due(), Some(S * 20));
    assert_eq!(run(&mut close, 20, 20, true), 1);
    assert_eq!(run(&mut close, 21, 24, true), 4);
}

#[test]
fn a_deadline_is_noticed_by_itself() {
    let mut running = start(&json!({"leaseSeconds": 60, "deadlineMs": 2500}), 100);
    run(&mut running, 0, 2, false);
    assert_eq!(running.next_due(), Some(Duration::from_millis(2500)));
}

#[test]
fn cancelling_lets_the_rest_stay() {
    let mut running = start(&json!({"reconnect": {"minMs": 2000, "maxMs": 2000}}), 0);
    for n in 0..5 {
        running.add(n, Manner::Told);
    }
    assert_eq!(running.poll(Duration::ZERO, |_| false), [Step::Notice(0)]);
    running.cancel();
    assert_eq!(running.state(S), State::Cancelled);
    assert_eq!(running.poll(S * 2, |_| false), [Step::Close(0)]);
    assert_eq!(running.poll(S * 9, |_| false), []);
}

#[test]
fn only_all_takes_late_comers() {
    let mut all = start(&json!({}), 1);
    all.add(7, Manner::Told);
    assert_eq!(all.tally.eligible.load(Ordering::Relaxed), 2);
    let mut some = start(&json!({"select": {"count": 1}}), 1);
    some.add(7, Manner::Told);
    assert_eq!(some.tally.eligible.load(Ordering::Relaxed), 1);
}
