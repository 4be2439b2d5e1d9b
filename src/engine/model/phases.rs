//! Which phase follows which, one scenario each.

use rstest::rstest;

use super::world::{Case, Manner, Quality, World, stamp};
use crate::api::conditions::{READY, REHEARSED, STALLED, is_true};
use crate::api::spec::{BreachAction, DrainMode, HintKind, RehearsalPolicy};
use crate::api::status::{PauseReason, State};
use crate::engine::observed::Problem;
use crate::engine::plan;
use crate::engine::plan::Action;

pub(super) fn case() -> Case {
    Case {
        seed: 7,
        replicas: 4,
        sessions: 60,
        budget: 40,
        hint: HintKind::Query,
        manner: Manner::Orders(DrainMode::Ask),
        auto: None,
        follows: true,
        steps: vec![(10, Some(1)), (50, Some(1)), (100, Some(1))],
        lag: 300,
        closes: false,
        min_ready: 100,
        quality: Quality::Good,
        bears: None,
        refuses: false,
        churn: 0,
    }
}

/// Version A serves, and B is wanted.
pub(super) fn releasing(case: Case) -> World {
    let mut world = World::new(case);
    world.template = "bbb".to_owned();
    world
}

pub(super) fn reach(world: &mut World, phase: &str) {
    let reached = world.until(200_000, |w| w.phase() == phase);
    assert!(
        reached && world.wrong.is_empty(),
        "{phase}: {:?}\n{}",
        world.wrong,
        world.trace.join("\n")
    );
}

fn phases(world: &World) -> Vec<String> {
    let phase = |line: &String| Some(line.split_once(" PHASE ")?.1.to_owned());
    world.trace.iter().filter_map(phase).collect()
}

#[test]
fn a_release_goes_step_by_step() {
    let mut world = releasing(Case {
        sessions: 200,
        ..case()
    });
    reach(&mut world, "Soaking");
    let mut seen = phases(&world);
    seen.dedup();
    for pair in [
        ["Initializing", "Healthy"],
        ["Healthy", "Preflight"],
        ["Preflight", "Surging"],
        ["Surging", "Rehearsing"],
        ["Rehearsing", "Shifting"],
        ["Shifting", "Moving"],
        ["Moving", "Analysing"],
        ["Analysing", "Finishing"],
        ["Finishing", "Soaking"],
    ] {
        assert!(seen.windows(2).any(|w| w == pair), "{pair:?} in {seen:?}");
    }
    assert!(is_true(&world.status.conditions, READY), "ready from Soaking on");
    assert!(is_true(&world.status.conditions, REHEARSED));
    assert_eq!(world.sets["aaa"], 0);
    assert_eq!(world.sets["bbb"], 4);
}

#[rstest]
fn small_services_are_released_too(
    #[values(1, 2, 3)] replicas: u32,
    #[values(HintKind::Query, HintKind::Path, HintKind::Header, HintKind::None)] hint: HintKind,
) {
    let mut world = releasing(Case {
        replicas,
        hint,
        sessions: 30,
        ..case()
    });
    reach(&mut world, "Soaking");
    assert_eq!(world.all_unannounced, 0);
    assert_eq!((world.users_of("aaa"), world.users_of("bbb")), (0, 30));
    assert_eq!(world.sets["bbb"], replicas);
}

#[test]
fn without_a_hint_nobody_moves_before_the_last_step() {
    let mut world = releasing(Case {
        hint: HintKind::None,
        lag: 2_500,
        ..case()
    });
    let last = |w: &World| w.status.weight.as_ref().is_some_and(|w| w.desired == 100);
    while !last(&world) {
        assert_eq!(world.users_of("bbb"), 0);
        world.run(250);
    }
    reach(&mut world, "Soaking");
    assert_eq!(world.users_of("bbb"), 60);
}

#[test]
fn pods_that_never_become_ready_end_the_release_at_the_progress_deadline() {
    let mut world = releasing(Case {
        quality: Quality::NeverReady,
        ..case()
    });
    reach(&mut world, "RolledBack");
    let Some(State::RolledBack(back)) = &world.status.state else {
        unreachable!()
    };
    assert_eq!(back.reason, "ProgressDeadlineExceeded");
    assert!(
        back.message
            .contains("0 of 1 pods of revision bbb are ready after 1m"),
        "{}",
        back.message
    );
    assert!(is_true(&world.status.conditions, STALLED));
    assert_eq!(world.users_of("aaa"), 60);
}

#[test]
fn a_failed_rehearsal_rejects_the_version_before_any_user_meets_it() {
    let mut world = releasing(Case {
        quality: Quality::FailsRehearsal,
        ..case()
    });
    while world.phase() != "RolledBack" {
        assert_eq!(world.users_of("bbb"), 0);
        assert_eq!(world.weights["b"], 0);
        world.run(250);
    }
    assert_eq!(world.status.rejected.as_ref().unwrap().hash, "bbb");
    assert!(
        world.status.history[0]
            .message
            .as_ref()
            .unwrap()
            .contains("firstMessage")
    );
}

#[test]
fn an_advisory_rehearsal_only_warns() {
    let mut world = releasing(Case {
        quality: Quality::FailsRehearsal,
        ..case()
    });
    world.rollout.spec.rehearsal.policy = RehearsalPolicy::Advisory;
    reach(&mut world, "Moving");
    assert!(world.trace.iter().any(|l| l.contains("rehearsal is advisory")));
}

#[test]
fn a_restart_in_the_middle_of_a_rehearsal_begins_it_again() {
    let mut world = releasing(case());
    world.until(
        60_000,
        |w| matches!(&w.status.state, Some(State::Rehearsing(at)) if at.draining),
    );
    world.probes = None;
    let mut seen = 0;
    while world.phase() == "Rehearsing" {
        if let Some(State::Rehearsing(at)) = &world.status.state {
            seen = at.attempt;
        }
        world.run(250);
    }
    assert_eq!((seen, world.phase()), (2, "Shifting"));
}

#[test]
fn a_rehearsal_that_never_reports_ends_at_the_progress_deadline() {
    let mut world = releasing(case());
    reach(&mut world, "Rehearsing");
    for _ in 0..300 {
        world.probes = None;
        world.run(250);
    }
    assert_eq!(
        world.status.history.first().map(|h| h.result.as_str()),
        Some("RolledBack")
    );
}

#[test]
fn a_version_that_breaks_under_load_goes_back_by_itself() {
    let mut world = releasing(Case {
        quality: Quality::BreaksAbove(5),
        ..case()
    });
    reach(&mut world, "RollingBack");
    let verdict = world.now;
    world.until(5_000, |w| w.weights["a"] == 100);
    assert!(world.now - verdict <= 500, "weights are the first act");
    reach(&mut world, "RolledBack");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
    assert!(
        world.status.history[0]
            .verdict_to_weights_ms
            .is_some_and(|ms| ms <= 2_000)
    );
}

#[test]
fn a_breach_that_is_only_warned_of_does_not_stop_the_release() {
    let mut world = releasing(Case {
        quality: Quality::BreaksAbove(0),
        ..case()
    });
    let thresholds = &mut world.rollout.spec.thresholds;
    thresholds.failures_in_a_row.action = BreachAction::Warn;
    thresholds.reconnect_success.action = BreachAction::Warn;
    reach(&mut world, "Soaking");
    let warnings = world
        .trace
        .iter()
        .filter(|l| l.contains("ThresholdBreached"))
        .count();
    assert!((1..6).contains(&warnings), "told {warnings} times");
}

#[test]
fn a_breach_may_pause_and_the_pause_has_a_deadline() {
    let mut world = releasing(Case {
        quality: Quality::BreaksAbove(0),
        ..case()
    });
    let thresholds = &mut world.rollout.spec.thresholds;
    thresholds.failures_in_a_row.action = BreachAction::Pause;
    thresholds.reconnect_success.action = BreachAction::Pause;
    reach(&mut world, "Paused");
    let Some(State::Paused(at)) = &world.status.state else {
        unreachable!()
    };
    assert_eq!(at.reason, PauseReason::Threshold);
    assert!(!is_true(&world.status.conditions, READY));
    reach(&mut world, "RolledBack");
    assert!(
        world.status.history[0]
            .message
            .as_ref()
            .unwrap()
            .contains("paused for")
    );
}

#[test]
fn a_step_without_a_duration_waits_for_promote_and_is_ready_meanwhile() {
    let mut world = releasing(Case {
        steps: vec![(50, None), (100, Some(0))],
        ..case()
    });
    reach(&mut world, "Paused");
    world.run(60_000);
    assert_eq!(world.phase(), "Paused", "such a pause has no deadline");
    assert!(is_true(&world.status.conditions, READY));
    super::requests::ask(&mut world, crate::api::status::Verb::Promote);
    reach(&mut world, "Soaking");
}

#[test]
fn what_stands_in_the_way_is_named_and_nothing_is_changed() {
    let world = releasing(case());
    let mut observed = world.observe();
    observed.problems = vec![Problem {
        reason: "RouteNotFound",
        message: "spec.traffic.routes: HTTPRoute chat does not exist; create it".to_owned(),
    }];
    let made = plan(&observed, stamp(world.now));
    assert_eq!(made.status.phase.as_deref(), Some("Preflight"));
    assert!(is_true(&made.status.conditions, STALLED));
    assert!(
        made.actions.iter().all(|a| matches!(a, Action::Probe(_))),
        "{:?}",
        made.actions
    );
}

#[test]
fn the_window_ends_and_the_release_is_history() {
    let mut world = releasing(case());
    reach(&mut world, "Soaking");
    reach(&mut world, "Healthy");
    assert_eq!(world.status.history[0].result, "Completed");
    assert_eq!(world.status.stable.as_deref(), Some("bbb"));
    assert_eq!((world.status.release.as_ref(), world.pins.as_ref()), (None, None));
}

#[test]
fn two_releases_in_a_row_use_the_slots_in_turn() {
    let mut world = releasing(case());
    reach(&mut world, "Soaking");
    world.template = "aaa".to_owned();
    reach(&mut world, "Preflight");
    assert_eq!(world.status.release.as_ref().unwrap().stable_slot, "b");
    reach(&mut world, "Soaking");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
}

#[test]
fn pods_that_serve_are_adopted_without_a_status() {
    let mut world = World::new(case());
    world.status = crate::api::RolloutStatus::default();
    world.run(2_000);
    assert_eq!(
        (world.phase(), world.status.stable.as_deref()),
        ("Healthy", Some("aaa"))
    );
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
}

#[test]
fn a_status_lost_in_mid_release_leaves_nobody_behind() {
    let mut world = releasing(case());
    reach(&mut world, "Moving");
    world.run(6_000);
    world.status = crate::api::RolloutStatus::default();
    reach(&mut world, "Soaking");
    assert_eq!((world.all_unannounced, world.users_of("bbb")), (0, 60));
}

fn verdict(world: &World) -> &str {
    world
        .status
        .verdict
        .as_ref()
        .map_or("none", |v| v.result.as_str())
}

#[test]
fn a_passed_verdict_of_a_step_stays_whatever_comes_after_it() {
    let mut world = releasing(Case {
        steps: vec![(50, Some(30)), (100, Some(0))],
        ..case()
    });
    reach(&mut world, "Analysing");
    world.run(1_000);
    assert_ne!(
        verdict(&world),
        "Passed",
        "nothing is known since the sessions have moved"
    );
    assert!(world.until(20_000, |w| verdict(w) == "Passed"));
    while world.phase() == "Analysing" {
        // Nothing is heard of the probes any more: missing data is no success, and takes nothing back.
        world.probes = None;
        world.run(250);
        assert_eq!(verdict(&world), "Passed");
    }
    world.run(2_000);
    let trial = world.status.release.as_ref().and_then(|r| r.trial.clone());
    let next = trial.map(|t| (t.step, t.passed));
    assert_eq!(next, Some((1, None)), "the next step needs its own");
    reach(&mut world, "Soaking");
    let told = world.trace.iter().find(|l| l.contains("StepPassed")).unwrap();
    assert!(
        told.contains("probe reconnects restored (100 %, interval"),
        "{told}"
    );
}

#[test]
fn missing_data_is_no_success_and_in_the_end_a_pause() {
    let mut world = releasing(case());
    reach(&mut world, "Analysing");
    while world.phase() == "Analysing" {
        world.probes = None;
        world.run(250);
    }
    let Some(State::Paused(at)) = &world.status.state else {
        panic!("{}", world.phase())
    };
    assert_eq!(at.reason, PauseReason::Inconclusive);
    assert_eq!(at.message, "no probe has reported yet");
}

#[test]
fn a_source_that_does_not_answer_keeps_a_step_waiting_and_rejects_nothing() {
    let mut world = releasing(case());
    world.rollout.spec.analysis = vec![
        serde_json::from_value(serde_json::json!({
            "name": "errors", "condition": "result < 1", "webhook": {"url": "http://h/"},
        }))
        .unwrap(),
    ];
    reach(&mut world, "Paused");
    let Some(State::Paused(at)) = &world.status.state else {
        unreachable!()
    };
    assert!(
        at.message.contains("waiting for analysis errors: 0 of 3 answers"),
        "{}",
        at.message
    );
    world.metrics = vec![crate::engine::observed::MetricView {
        name: "errors".to_owned(),
        samples: 3,
        ..Default::default()
    }];
    super::requests::ask(&mut world, crate::api::status::Verb::Resume);
    reach(&mut world, "Soaking");
}
