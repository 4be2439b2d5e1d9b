//! Waves on hand-made pods.

use super::*;
use crate::api::status::WaveReason;
use crate::engine::observed::{DrainView, SessionsView};
use crate::engine::plan::{Hint, Order};
use proptest::prelude::*;

fn pod(name: &str, open: Option<u64>) -> PodView {
    PodView {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        ready: true,
        terminating: false,
        serving: true,
        role: Some("stable".to_owned()),
        deletion_cost: None,
        trouble: None,
        sessions: open.map(|open| SessionsView {
            open,
            ..SessionsView::default()
        }),
    }
}

fn terms() -> Terms {
    Terms {
        budget: 50.0,
        pace: 50.0,
        adaptive: true,
        hold: false,
        mode: DrainMode::Ask,
        max_pods: None,
        deadline: Duration::from_secs(60),
        close_at_deadline: false,
        reconnect_window: Duration::from_secs(5),
        hint: Some(Hint::Query("wsroll=x".to_owned())),
        close_code: 1012,
        settle: Duration::from_secs(1),
    }
}

fn wave(pods: Vec<WavePod>) -> Wave {
    Wave {
        id: "r1-w1".to_owned(),
        reason: WaveReason::Rollout,
        revision: "aaa".to_owned(),
        since: at(0),
        ordered_at: None,
        elapsed_ms: 0,
        ticked_at: at(0),
        windowed: false,
        window: None,
        settling: None,
        leave_rotation: true,
        pods,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn orders(progress: &Progress) -> Vec<&Order> {
    progress
        .actions
        .iter()
        .filter_map(|a| if let Action::Order(o) = a { Some(o) } else { None })
        .collect()
}

#[test]
fn the_emptiest_pods_go_first_and_whole() {
    let pods = [
        pod("a", Some(120)),
        pod("b", Some(90)),
        pod("c", Some(100)),
        pod("d", None),
    ];
    let names = |need, max| -> Vec<String> {
        choose(pods.iter(), need, max)
            .into_iter()
            .map(|p| p.name)
            .collect()
    };
    assert_eq!(names(100, 3), ["b"], "ten more are not worth half a pod");
    assert_eq!(names(200, 3), ["b", "c"]);
    assert_eq!(names(200, 1), ["b"]);
    assert_eq!(names(1_000, 9), ["b", "c", "a"], "unknown is never chosen");
}

#[test]
fn less_than_a_pod_is_asked_by_count() {
    let pods = [pod("a", Some(100)), pod("b", Some(100))];
    let chosen = choose(pods.iter(), 20, 2);
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0].count, Some(20));
}

#[test]
fn a_pod_leaves_rotation_settles_and_only_then_gets_its_order() {
    let mut view = RevisionView {
        replicas: 1,
        pods: vec![pod("a", Some(10))],
        ..RevisionView::default()
    };
    let mut wave = wave(choose(view.pods.iter(), 10, 1));
    let first = advance(&mut wave, &view, &terms(), at(0));
    assert!(matches!(first.actions[..], [Action::LeaveRotation { .. }]));
    view.pods[0].serving = false;
    assert!(
        advance(&mut wave, &view, &terms(), at(1)).actions.is_empty(),
        "not settled"
    );
    let ordered = advance(&mut wave, &view, &terms(), at(3));
    assert_eq!(orders(&ordered)[0].id, "r1-w1-uid-a");
    assert!(orders(&ordered)[0].rate_per_second <= 45.0);
    view.pods[0].sessions.as_mut().unwrap().open = 0;
    assert!(
        !advance(&mut wave, &view, &terms(), at(4)).done,
        "done is seen in the next round"
    );
    assert!(advance(&mut wave, &view, &terms(), at(5)).done);
}

#[test]
fn orders_are_renewed_before_their_lease_runs_out_and_not_every_round() {
    let mut view = RevisionView {
        replicas: 1,
        pods: vec![pod("a", Some(10))],
        ..RevisionView::default()
    };
    view.pods[0].serving = false;
    let mut wave = wave(choose(view.pods.iter(), 10, 1));
    advance(&mut wave, &view, &terms(), at(0));
    let rate = orders(&advance(&mut wave, &view, &terms(), at(2)))[0].rate_per_second;
    let mut running = |lease_ms, at_second| {
        view.pods[0].sessions.as_mut().unwrap().drain = Some(DrainView {
            id: "r1-w1-uid-a".to_owned(),
            lease_expires_ms: Some(lease_ms),
            rate_per_second: Some(rate),
            ..DrainView::default()
        });
        orders(&advance(&mut wave, &view, &terms(), at(at_second))).len()
    };
    assert_eq!(running(29_000, 3), 0);
    assert_eq!(running(19_000, 12), 1);
}

#[test]
fn unknown_is_not_empty_and_waits_for_the_deadline() {
    let mut view = RevisionView {
        replicas: 1,
        pods: vec![pod("a", None)],
        ..RevisionView::default()
    };
    view.pods[0].serving = false;
    let mut wave = wave(everyone(&view));
    for second in 0..120 {
        assert!(!advance(&mut wave, &view, &terms(), at(second)).done);
    }
    assert_eq!(
        advance(&mut wave, &view, &terms(), at(120)).overdue,
        ["a"],
        "onDeadline Wait only tells"
    );
    let closing = Terms {
        close_at_deadline: true,
        ..terms()
    };
    advance(&mut wave, &view, &closing, at(121));
    assert!(advance(&mut wave, &view, &closing, at(122)).done);
}

#[test]
fn the_deadlines_clock_stands_still_while_no_operator_is_there() {
    let mut view = RevisionView {
        replicas: 1,
        pods: vec![pod("a", Some(5))],
        ..RevisionView::default()
    };
    view.pods[0].serving = false;
    let mut wave = wave(everyone(&view));
    for second in 0..10 {
        advance(&mut wave, &view, &terms(), at(second));
    }
    let back = advance(&mut wave, &view, &terms(), at(10_000));
    assert!(back.overdue.is_empty(), "three hours away cost one lease at most");
}

#[test]
fn who_falls_silent_keeps_exactly_its_share_until_its_lease_is_over() {
    let mut view = RevisionView {
        replicas: 2,
        pods: vec![pod("a", Some(100)), pod("b", Some(300))],
        ..RevisionView::default()
    };
    view.pods.iter_mut().for_each(|p| p.serving = false);
    let mut wave = wave(everyone(&view));
    advance(&mut wave, &view, &terms(), at(0));
    let first = advance(&mut wave, &view, &terms(), at(2));
    let rates: Vec<f64> = orders(&first).iter().map(|o| o.rate_per_second).collect();
    assert_eq!(rates.len(), 2);
    let order = |rate, lease_ms| {
        Some(DrainView {
            id: "r1-w1-uid-b".to_owned(),
            state: "active".to_owned(),
            lease_expires_ms: Some(lease_ms),
            rate_per_second: Some(rate),
            ..DrainView::default()
        })
    };
    view.pods[0].sessions = None;
    let mut last = rates[1];
    for second in 3..=40 {
        view.pods[1].sessions.as_mut().unwrap().drain = order(last, 15_000);
        let progress = advance(&mut wave, &view, &terms(), at(second));
        let given: Vec<_> = orders(&progress);
        let to_silent = given.iter().any(|o| o.pod == "a");
        last = given
            .iter()
            .find(|o| o.pod == "b")
            .map_or(last, |o| o.rate_per_second);
        if second < 2 + 30 + 2 {
            assert!(!to_silent, "it may be at work: its lease is not renewed");
            assert!(
                last <= 45.0 - rates[0] + 1e-6,
                "{last} beside {} in second {second}",
                rates[0]
            );
        }
    }
    assert!(last > 40.0, "after its lease the rest is free: {last}");
}

#[test]
fn a_rate_is_raised_only_by_what_others_have_given_up() {
    let mut view = RevisionView {
        replicas: 2,
        pods: vec![pod("a", Some(100)), pod("b", Some(100))],
        ..RevisionView::default()
    };
    view.pods[0].serving = false;
    let mut wave = wave(everyone(&view));
    advance(&mut wave, &view, &terms(), at(0));
    let alone = advance(&mut wave, &view, &terms(), at(2));
    assert!(orders(&alone)[0].rate_per_second > 44.0);
    let report = |rate| {
        Some(DrainView {
            id: "r1-w1-uid-a".to_owned(),
            state: "active".to_owned(),
            lease_expires_ms: Some(29_000),
            rate_per_second: Some(rate),
            ..DrainView::default()
        })
    };
    view.pods[1].serving = false;
    view.pods[0].sessions.as_mut().unwrap().drain = report(44.999);
    advance(&mut wave, &view, &terms(), at(3));
    let lowered = advance(&mut wave, &view, &terms(), at(5));
    let names: Vec<&str> = orders(&lowered).iter().map(|o| o.pod.as_str()).collect();
    assert_eq!(names, ["a"], "b waits until a is known to be slower");
    view.pods[0].sessions.as_mut().unwrap().drain = report(22.5);
    let both = advance(&mut wave, &view, &terms(), at(6));
    let b = orders(&both).into_iter().find(|o| o.pod == "b").unwrap();
    assert!(
        (22.0..=22.5).contains(&b.rate_per_second),
        "{}",
        b.rate_per_second
    );
}

proptest! {
    #[test]
    fn rates_of_a_wave_never_exceed_the_budget(
        opens in proptest::collection::vec(1u64..400, 1..20), budget in 1.0f64..300.0,
    ) {
        let mut view = RevisionView {
            replicas: opens.len() as u32,
            pods: opens.iter().enumerate().map(|(i, n)| pod(&format!("p{i}"), Some(*n))).collect(),
            ..RevisionView::default()
        };
        view.pods.iter_mut().for_each(|p| p.serving = false);
        let mut wave = wave(everyone(&view));
        let terms = Terms { budget, pace: budget, ..terms() };
        advance(&mut wave, &view, &terms, at(0));
        let progress = advance(&mut wave, &view, &terms, at(2));
        let sum: f64 = orders(&progress).iter().map(|o| o.rate_per_second).sum();
        prop_assert!(sum <= budget * 0.9 + 1e-6);
        prop_assert!(!orders(&progress).is_empty());
    }
}
