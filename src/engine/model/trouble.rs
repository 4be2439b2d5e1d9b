//! Pods that say nothing, deadlines, and others who write what is ours.

use super::faults::Fault;
use super::phases::{case, reach, releasing};
use super::world::{Case, World};
use crate::api::RolloutStatus;
use crate::api::conditions::DRAINED;

/// A release whose last step meets an old pod that does not answer, with users on it.
fn silent_pod(closes: bool) -> (World, String) {
    let mut world = releasing(Case {
        steps: vec![(100, Some(0))],
        closes,
        ..case()
    });
    reach(&mut world, "Rehearsing");
    let uid = world
        .pods
        .iter()
        .find(|p| p.revision == "aaa")
        .unwrap()
        .uid
        .clone();
    for pod in world.pods.iter_mut().filter(|p| p.uid == uid) {
        pod.silent_until = i64::MAX;
    }
    assert!(world.users_on(&uid) > 0);
    (world, uid)
}

fn drained_reason(status: &RolloutStatus) -> &str {
    status
        .conditions
        .iter()
        .find(|c| c.type_ == DRAINED)
        .map_or("", |c| c.reason.as_str())
}

#[test]
fn an_unknown_pod_is_waited_for_where_the_deadline_waits() {
    let (mut world, uid) = silent_pod(false);
    world.run(200_000);
    assert!(world.wrong.is_empty(), "{:?}", world.wrong);
    assert_eq!(world.phase(), "Moving");
    assert_eq!(drained_reason(&world.status), "DeadlinePassed");
    assert!(world.pods.iter().any(|p| p.uid == uid), "unknown is not zero");
    let others = world.users_of("aaa") - world.users_on(&uid);
    assert_eq!(others, 0, "it keeps nobody else waiting");
    for pod in &mut world.pods {
        pod.silent_until = 0;
    }
    reach(&mut world, "Soaking");
    assert_eq!(world.all_unannounced, 0);
}

#[test]
fn an_unknown_pod_is_let_go_of_after_a_deadline_that_closes() {
    let (mut world, uid) = silent_pod(true);
    let begin = world.now;
    reach(&mut world, "Soaking");
    assert!(world.pods.iter().all(|p| p.uid != uid));
    assert!(world.now - begin > 70_000, "its deadline and a lease");
}

#[test]
fn a_session_that_comes_late_is_not_cut() {
    let mut world = releasing(Case {
        steps: vec![(100, Some(0))],
        ..case()
    });
    let empty = |w: &World| {
        w.status
            .wave
            .as_ref()
            .is_some_and(|v| v.pods.iter().all(|p| p.done_at.is_some()))
    };
    world.until(100_000, empty);
    let uid = world.status.wave.as_ref().unwrap().pods[0].uid.clone();
    world.sessions[0].place = super::clients::Place::On(uid);
    reach(&mut world, "Soaking");
    assert_eq!(world.all_unannounced, 0);
}

#[test]
fn foreign_weights_in_a_release_are_repaired_and_told() {
    let mut world = releasing(Case {
        steps: vec![(50, Some(20)), (100, Some(0))],
        ..case()
    });
    reach(&mut world, "Analysing");
    world.strike(&Fault::Weights { a: 100 });
    world.run(3_000);
    assert_eq!(world.weights["b"], 50);
    assert_eq!(world.status.weight.as_ref().unwrap().programmed, Some(50));
    assert!(world.trace.iter().any(|l| l.contains("WeightsRepaired")));
}

#[test]
fn foreign_weights_outside_a_release_do_no_harm_and_are_left_alone() {
    let mut world = World::new(case());
    world.strike(&Fault::Weights { a: 30 });
    world.run(10_000);
    assert_eq!(world.weights["a"], 30);
    world.template = "bbb".to_owned();
    reach(&mut world, "Soaking");
    world.strike(&Fault::Weights { a: 30 });
    reach(&mut world, "Healthy");
    assert_eq!(
        (world.weights["a"], world.all_unannounced, world.users_of("bbb")),
        (30, 0, 60)
    );
}

#[test]
fn an_abort_in_the_window_is_safe_under_foreign_weights() {
    let mut world = releasing(case());
    reach(&mut world, "Soaking");
    world.strike(&Fault::Weights { a: 50 });
    world.run(2_000);
    super::requests::ask(&mut world, crate::api::status::Verb::Abort);
    reach(&mut world, "RolledBack");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
}

#[test]
fn users_whom_somebody_else_led_to_a_rehearsal_are_moved_back_and_not_cut() {
    let mut world = releasing(Case {
        quality: super::Quality::FailsRehearsal,
        ..case()
    });
    reach(&mut world, "Rehearsing");
    world.strike(&Fault::Weights { a: 0 });
    for session in world.sessions.iter_mut().take(10) {
        *session = super::clients::Session::dialling(world.now + 500);
    }
    world.run(1_000);
    assert!(world.status.release.as_ref().is_some_and(|r| r.exposed));
    reach(&mut world, "RolledBack");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
}

#[test]
fn clients_that_do_not_follow_the_hint_are_not_asked_again_and_again() {
    let mut world = releasing(Case {
        follows: false,
        steps: vec![(25, Some(0)), (50, Some(0)), (100, Some(0))],
        ..case()
    });
    world.until(200_000, |w| {
        w.status.weight.as_ref().is_some_and(|w| w.desired == 100)
    });
    let asked: u32 = world.sessions.iter().flat_map(|s| s.moved.values()).sum();
    assert!(asked <= 40, "{asked} were asked for 30 places");
    reach(&mut world, "Soaking");
}

#[test]
fn a_cut_on_a_revision_that_nobody_touched_is_told_with_the_change_before_it() {
    let mut world = releasing(Case {
        steps: vec![(50, Some(20)), (100, Some(0))],
        ..case()
    });
    reach(&mut world, "Analysing");
    let cut = |world: &World, revision: &str| crate::engine::observed::Cut {
        at: super::world::stamp(world.now),
        revision: revision.to_owned(),
        uid: Some("gone".to_owned()),
        what: "pod chat-1 is gone".to_owned(),
        sessions: 3,
    };
    world.run(1_000);
    world.cuts = vec![cut(&world, "bbb"), cut(&world, "aaa")];
    world.run(2_000);
    let told = &world.status.collateral;
    assert_eq!(
        told.len(),
        1,
        "the new revision is what the release is about: {told:?}"
    );
    assert_eq!((told[0].revision.as_str(), told[0].sessions), ("aaa", 3));
    assert!(
        told[0].after.starts_with("phase Analysing began"),
        "{}",
        told[0].after
    );
    assert_eq!(world.trace.iter().filter(|l| l.contains("Collateral")).count(), 1);
    for _ in 0..20 {
        world.cuts = vec![cut(&world, "aaa")];
        world.run(1_000);
    }
    assert_eq!(world.status.collateral.len(), 10);
}
