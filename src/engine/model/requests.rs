//! What people ask for, other templates in mid-release, other replicas.

use rstest::rstest;

use super::phases::{case, reach, releasing};
use super::world::{Case, Quality, World};
use crate::api::status::{Request, State, Verb};

pub(super) fn ask(world: &mut World, verb: Verb) {
    world.request = Some(Request {
        verb,
        release: None,
        nonce: format!("n{}", world.now),
    });
    world.run(1_000);
    let answer = world.status.last_request.as_ref().expect("an answer");
    assert_eq!(Some(&answer.nonce), world.request.as_ref().map(|r| &r.nonce));
}

fn accepted(world: &World) -> bool {
    world.status.last_request.as_ref().is_some_and(|r| r.accepted)
}

const PHASES: [&str; 7] = [
    "Preflight",
    "Surging",
    "Rehearsing",
    "Shifting",
    "Moving",
    "Analysing",
    "Soaking",
];

/// A world at a phase; `later` in it.
fn at(phase: &str) -> World {
    let mut world = releasing(Case {
        steps: vec![(50, Some(5)), (100, Some(5))],
        ..case()
    });
    reach(&mut world, phase);
    if phase == "Moving" {
        world.run(3_000);
    }
    world
}

#[rstest]
fn abort_goes_back_from_every_phase(#[values(0, 1, 2, 3, 4, 5, 6)] index: usize) {
    let mut world = at(PHASES[index]);
    ask(&mut world, Verb::Abort);
    assert!(accepted(&world), "{:?}", world.status.last_request);
    reach(&mut world, "RolledBack");
    assert_eq!(
        (world.users_of("aaa"), world.all_unannounced),
        (60, 0),
        "from {}",
        PHASES[index]
    );
    assert_eq!(world.status.rejected.as_ref().unwrap().hash, "bbb");
    assert_eq!(world.sets.get("bbb").copied().unwrap_or_default(), 0);
    world.run(30_000);
    assert_eq!(
        (world.phase(), world.status.releases),
        ("RolledBack", 1),
        "not tried again"
    );
}

#[rstest]
fn a_newer_template_takes_the_place_in_every_phase(#[values(0, 1, 2, 3, 4, 5, 6)] index: usize) {
    let mut world = at(PHASES[index]);
    world.template = "ccc".to_owned();
    let done = world.until(300_000, |w| {
        w.phase() == "Soaking" && w.status.stable.as_deref() == Some("ccc")
    });
    assert!(
        done && world.wrong.is_empty(),
        "{:?}\n{}",
        world.wrong,
        world.trace.join("\n")
    );
    assert_eq!((world.users_of("ccc"), world.all_unannounced), (60, 0));
    assert!(world.status.rejected.is_none(), "superseded is not rejected");
}

#[rstest]
fn the_old_template_ends_the_release_in_every_phase(#[values(0, 1, 2, 3, 4, 5, 6)] index: usize) {
    let mut world = at(PHASES[index]);
    world.template = "aaa".to_owned();
    let back =
        |w: &World| matches!(w.phase(), "Healthy" | "Soaking") && w.status.stable.as_deref() == Some("aaa");
    assert!(
        world.until(300_000, back) && world.wrong.is_empty(),
        "{:?}",
        world.wrong
    );
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
}

#[rstest]
#[case(Verb::Promote)]
#[case(Verb::Resume)]
#[case(Verb::Pause)]
#[case(Verb::Abort)]
#[case(Verb::Retry)]
fn what_cannot_be_done_is_refused_once_and_with_a_reason(#[case] verb: Verb) {
    let mut world = World::new(case());
    ask(&mut world, verb);
    assert!(!accepted(&world));
    let told = |w: &World| w.trace.iter().filter(|l| l.contains("RequestRefused")).count();
    world.run(5_000);
    assert_eq!(told(&world), 1);
    assert_eq!(world.phase(), "Healthy");
}

#[test]
fn a_request_for_another_release_is_refused() {
    let mut world = at("Analysing");
    world.request = Some(Request {
        verb: Verb::Abort,
        release: Some(9),
        nonce: "n".to_owned(),
    });
    world.run(1_000);
    assert!(!accepted(&world));
    assert_eq!(world.phase(), "Analysing");
}

#[test]
fn a_pause_in_the_middle_of_a_wave_stops_it_and_resume_goes_on() {
    let mut world = releasing(Case {
        sessions: 200,
        budget: 10,
        ..case()
    });
    world.until(100_000, |w| w.arrivals.values().sum::<u32>() > 8);
    ask(&mut world, Verb::Pause);
    assert!(accepted(&world), "{:?}", world.status.last_request);
    world.run(4_000);
    let moved = world.arrivals.values().sum::<u32>();
    world.run(20_000);
    assert_eq!(
        world.arrivals.values().sum::<u32>(),
        moved,
        "nobody moves while it stands still"
    );
    assert!(
        world.pods.iter().all(|p| p.serving),
        "every pod is back in rotation"
    );
    ask(&mut world, Verb::Resume);
    reach(&mut world, "Soaking");
    let most = world.sessions.iter().flat_map(|s| s.moved.values()).max();
    assert_eq!((most, world.all_unannounced), (Some(&1), 0));
}

#[test]
fn promote_ends_the_watch_of_a_step() {
    let mut world = releasing(Case {
        steps: vec![(50, Some(3_600)), (100, Some(0))],
        ..case()
    });
    reach(&mut world, "Analysing");
    ask(&mut world, Verb::Promote);
    assert!(accepted(&world));
    reach(&mut world, "Soaking");
}

#[test]
fn a_rejected_template_is_tried_again_on_retry_only() {
    let mut world = releasing(Case {
        quality: Quality::FailsRehearsal,
        ..case()
    });
    reach(&mut world, "RolledBack");
    world.template = "aaa".to_owned();
    reach(&mut world, "Healthy");
    world.template = "bbb".to_owned();
    world.run(20_000);
    assert_eq!(
        (world.phase(), world.status.releases),
        ("RolledBack", 1),
        "remembered over a revert"
    );
    ask(&mut world, Verb::Retry);
    assert!(accepted(&world));
    reach(&mut world, "Rehearsing");
    assert_eq!(world.status.releases, 2);
}

#[rstest]
#[case("Healthy")]
#[case("Soaking")]
fn fewer_replicas_drain_the_emptiest_pods(#[case] phase: &str) {
    let mut world = World::new(case());
    if phase == "Soaking" {
        world.rollout.spec.rollback_window = crate::api::Span::secs(600);
        world.template = "bbb".to_owned();
        reach(&mut world, phase);
    }
    world.set_replicas(2);
    let left = |w: &World| w.pods.len() == 2 && w.status.wave.is_none();
    assert!(
        world.until(60_000, left) && world.wrong.is_empty(),
        "{:?}\n{}",
        world.wrong,
        world.trace.join("\n")
    );
    world.run(2_000);
    assert_eq!((world.phase(), world.all_unannounced), (phase, 0));
    assert_eq!(
        world
            .sessions
            .iter()
            .filter(|s| matches!(s.place, super::clients::Place::On(_)))
            .count(),
        60
    );
    world.set_replicas(3);
    assert!(world.until(20_000, |w| w.pods.len() == 3));
}

#[test]
fn a_scale_down_that_is_taken_back_leaves_the_rest_where_they_are() {
    let mut world = World::new(Case {
        sessions: 200,
        budget: 10,
        ..case()
    });
    world.set_replicas(2);
    world.until(20_000, |w| w.arrivals.values().sum::<u32>() > 5);
    world.set_replicas(4);
    world.run(10_000);
    assert!(world.status.wave.is_none());
    assert!(world.pods.iter().all(|p| p.serving) && world.pods.len() == 4);
    assert_eq!(world.all_unannounced, 0);
}

#[test]
fn replicas_may_change_in_mid_release() {
    let mut world = at("Moving");
    world.set_replicas(7);
    world.run(5_000);
    world.set_replicas(3);
    reach(&mut world, "Soaking");
    assert_eq!((world.users_of("bbb"), world.all_unannounced), (60, 0));
    assert!(matches!(world.status.state, Some(State::Soaking(_))));
}

#[test]
fn a_way_back_that_somebody_deleted_is_named_and_not_waited_for() {
    let mut world = at("Soaking");
    world.sets.remove("aaa");
    ask(&mut world, Verb::Abort);
    assert!(!accepted(&world));
    let answer = world.status.last_request.clone().unwrap().message;
    assert!(
        answer.contains("the ReplicaSet of revision aaa was deleted"),
        "{answer}"
    );
    reach(&mut world, "Healthy");
    assert_eq!(
        (world.status.stable.as_deref(), world.users_of("bbb")),
        (Some("bbb"), 60)
    );
}

#[test]
fn a_way_back_that_is_deleted_in_a_rollback_ends_on_the_new_revision() {
    let mut world = at("Soaking");
    ask(&mut world, Verb::Abort);
    assert_eq!(world.phase(), "RollingBack");
    world.sets.remove("aaa");
    world.pods.retain(|p| p.revision != "aaa");
    reach(&mut world, "Healthy");
    assert!(world.trace.iter().any(|l| l.contains("RollbackImpossible")));
    assert_eq!((world.users_of("bbb"), world.all_unannounced), (60, 0));
}
