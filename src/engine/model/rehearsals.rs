//! Rehearsals: the pod that dies for one, one scenario each.

use rstest::rstest;

use super::phases::{case, reach, releasing};
use super::world::{Case, Manner, World};
use super::{Fault, Quality};
use crate::api::spec::{RehearsalPolicy, Scenario};
use crate::api::status::State;
use crate::engine::evidence::RehearsalStage;
use crate::engine::observed::NOBODY;

fn awaits_crash(world: &World) -> bool {
    let run = world.probes.as_ref();
    run.is_some_and(|run| matches!(run.stage, RehearsalStage::AwaitingCrash(_)))
}

#[rstest]
fn one_pod_dies_for_a_rehearsal_and_is_back_before_users_come(#[values(1, 4)] replicas: u32) {
    let mut world = releasing(Case { replicas, ..case() });
    reach(&mut world, "Shifting");
    assert_eq!(world.crashed.len(), 1);
    let target = world.sets["bbb"] as usize;
    let ready = world
        .pods
        .iter()
        .filter(|p| p.revision == "bbb" && p.up(world.now));
    assert_eq!(ready.count(), target, "whole again");
    reach(&mut world, "Soaking");
    assert_eq!((world.crashed.len(), world.all_unannounced), (1, 0));
}

#[test]
fn users_on_the_new_revision_save_its_pods() {
    let mut world = releasing(Case { churn: 200, ..case() });
    reach(&mut world, "Rehearsing");
    assert!(world.until(20_000, awaits_crash));
    // Somebody leads users to it at this moment.
    world.strike(&Fault::Weights { a: 50 });
    world.run(20_000);
    assert!(world.wrong.is_empty(), "{:?}", world.wrong);
    assert!(world.crashed.is_empty());
}

#[test]
fn a_pod_that_does_not_tell_its_sessions_is_not_killed() {
    let mut world = releasing(case());
    world.rollout.spec.rehearsal.scenarios = vec![Scenario::Crash];
    reach(&mut world, "Rehearsing");
    for pod in &mut world.pods {
        pod.silent_until = if pod.revision == "bbb" { i64::MAX } else { 0 };
    }
    assert!(world.until(20_000, awaits_crash));
    reach(&mut world, "Shifting");
    assert!(world.crashed.is_empty(), "unknown is not none");
}

#[test]
fn an_operator_that_dies_over_the_crash_begins_the_rehearsal_again() {
    let mut world = releasing(case());
    reach(&mut world, "Rehearsing");
    let named = |w: &World| matches!(&w.status.state, Some(State::Rehearsing(at)) if at.crash.is_some());
    assert!(world.until(20_000, named));
    world.dies = Some((0, 3_000));
    world.run(4_000);
    let State::Rehearsing(at) = world.status.state.clone().unwrap() else {
        panic!("{}", world.phase());
    };
    assert_eq!((at.attempt, at.crash), (2, None));
    reach(&mut world, "Soaking");
    assert_eq!(world.all_unannounced, 0);
}

#[test]
fn only_chosen_scenarios_are_asked_for() {
    let mut world = releasing(case());
    world.rollout.spec.rehearsal.scenarios = vec![Scenario::HandOff];
    reach(&mut world, "Shifting");
    assert!(world.crashed.is_empty());
    assert!(
        !world.trace.iter().any(|line| line.contains("rehearsal1-u")),
        "no order"
    );
    assert_eq!(world.status.release.as_ref().unwrap().pins.probe_nobody, None);
}

#[test]
fn the_pin_that_leads_to_nobody_is_there_for_the_rehearsal_only() {
    let mut world = releasing(case());
    let nobody = |w: &World| w.pins.iter().flatten().any(|pin| pin.slot == NOBODY);
    reach(&mut world, "Rehearsing");
    world.run(500);
    assert!(nobody(&world));
    reach(&mut world, "Moving");
    assert!(!nobody(&world));
}

#[test]
fn what_only_a_signal_ends_is_not_asked_to_drain_and_crashes_if_counted() {
    for counted in [true, false] {
        let mut world = releasing(Case {
            manner: Manner::Signal { counted },
            ..case()
        });
        reach(&mut world, "Shifting");
        assert_eq!(world.crashed.len(), usize::from(counted));
    }
}

#[test]
fn an_advisory_rehearsal_that_fails_kills_nobody() {
    let mut world = releasing(Case {
        quality: Quality::FailsRehearsal,
        ..case()
    });
    world.rollout.spec.rehearsal.policy = RehearsalPolicy::Advisory;
    reach(&mut world, "Shifting");
    assert!(world.crashed.is_empty());
}
