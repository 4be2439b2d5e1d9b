//! Applications with only SIGTERM (`via: Signal`), and how `Auto` comes to it, one scenario each.

use rstest::rstest;

use super::phases::{case, reach, releasing};
use super::requests::ask;
use super::world::{Answer, Case, Manner, Quality, World};
use crate::api::conditions::{STALLED, is_true};
use crate::api::spec::Via;
use crate::api::status::Verb;

fn signalled(counted: bool) -> Case {
    Case {
        manner: Manner::Signal { counted },
        ..case()
    }
}

/// When a pod was dismissed, and which.
fn dismissed(world: &World) -> Vec<(i64, String)> {
    let of = |line: &String| {
        let (at, rest) = line.split_once(" Dismiss ")?;
        let uid = rest.split("uid: \"").nth(1)?.split('"').next()?;
        Some((at.parse().ok()?, uid.to_owned()))
    };
    let mut all: Vec<(i64, String)> = world.trace.iter().filter_map(of).collect();
    all.dedup_by(|a, b| a.1 == b.1);
    all
}

#[test]
fn pods_go_one_at_a_time_the_emptiest_first() {
    let mut world = releasing(signalled(true));
    reach(&mut world, "Moving");
    while world.status.weight.as_ref().is_none_or(|w| w.desired < 100) {
        assert_eq!(world.users_of("bbb"), 0, "no step before the last moves anybody");
        world.run(250);
    }
    let on: std::collections::BTreeMap<String, u64> = world
        .pods
        .iter()
        .filter(|p| p.revision == "aaa")
        .map(|p| (p.uid.clone(), world.users_on(&p.uid)))
        .collect();
    reach(&mut world, "Soaking");
    let gone = dismissed(&world);
    assert_eq!(gone.len(), 4);
    assert!(
        gone.windows(2).all(|pair| on[&pair[0].1] <= on[&pair[1].1]),
        "{gone:?} of {on:?}"
    );
    for pair in gone.windows(2) {
        let waited = pair[1].0 - pair[0].0;
        assert!(
            waited >= 3_000 + 5_000,
            "the next after {waited} ms, before those of the last are back"
        );
    }
    let moved = world.status.drain.as_ref().unwrap().closed_clean;
    assert_eq!((moved, world.users_of("bbb"), world.all_unannounced), (60, 60, 0));
    let most = world.sessions.iter().flat_map(|s| s.moved.values()).max();
    assert_eq!(most, Some(&1));
}

#[test]
fn an_unknown_count_is_never_zero_and_waits_for_the_deadline() {
    let mut world = releasing(Case {
        steps: vec![(100, Some(0))],
        ..signalled(false)
    });
    reach(&mut world, "Moving");
    let begin = world.now;
    assert!(
        world.until(400_000, |w| w.phase() == "Soaking"),
        "{:?}",
        world.wrong
    );
    let gone = dismissed(&world);
    assert_eq!(gone.len(), 4);
    assert!(gone[0].0 - begin > 40_000, "after {} ms", gone[0].0 - begin);
    assert_eq!((world.users_of("bbb"), world.all_unannounced), (60, 0));
}

#[test]
fn the_way_back_is_kept_until_the_last_verdict() {
    let mut world = releasing(Case {
        steps: vec![(100, Some(10))],
        ..signalled(true)
    });
    reach(&mut world, "Analysing");
    assert_eq!(
        (world.sets["aaa"], world.sets["bbb"]),
        (2, 4),
        "the floor, and a whole new revision"
    );
    assert!(world.users_of("aaa") > 0, "whose sessions are not moved yet");
    ask(&mut world, Verb::Abort);
    reach(&mut world, "RolledBack");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
}

#[rstest]
fn a_broken_version_goes_back_by_signal_as_well(#[values(true, false)] counted: bool) {
    let mut world = releasing(Case {
        quality: Quality::BreaksAbove(5),
        ..signalled(counted)
    });
    assert!(
        world.until(600_000, |w| w.phase() == "RolledBack"),
        "{:?}",
        world.wrong
    );
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (60, 0));
}

#[rstest]
fn fewer_replicas_dismiss_the_emptiest(#[values(true, false)] counted: bool) {
    let mut world = World::new(signalled(counted));
    world.set_replicas(2);
    assert!(
        world.until(200_000, |w| w.sets["aaa"] == 2 && w.status.wave.is_none()),
        "{:?}",
        world.wrong
    );
    world.run(10_000);
    assert_eq!(
        (
            dismissed(&world).len(),
            world.all_unannounced,
            world.users_of("aaa")
        ),
        (2, 0, 60)
    );
}

#[test]
fn auto_never_falls_to_the_signal_silently() {
    let mut world = releasing(Case {
        auto: Some(Answer::No),
        ..signalled(true)
    });
    reach(&mut world, "Preflight");
    world.run(90_000);
    assert_eq!(world.phase(), "Preflight");
    let stalled = world
        .status
        .conditions
        .iter()
        .find(|c| c.type_ == STALLED)
        .unwrap();
    assert!(is_true(&world.status.conditions, STALLED));
    assert_eq!(stalled.reason, "SignalNotAccepted");
    assert!(
        stalled.message.contains("kubectl wsroll promote"),
        "{}",
        stalled.message
    );
    ask(&mut world, Verb::Promote);
    assert!(world.status.release.as_ref().unwrap().signal_accepted);
    reach(&mut world, "Moving");
    assert_eq!(world.status.release.as_ref().unwrap().via, Some(Via::Signal));
    assert!(
        world
            .trace
            .iter()
            .any(|l| l.contains("via Signal: it was accepted by promote"))
    );
    reach(&mut world, "Soaking");
    assert_eq!((world.users_of("bbb"), world.all_unannounced), (60, 0));
}

#[test]
fn auto_is_the_protocol_where_pods_answer_it() {
    let mut world = releasing(Case {
        auto: Some(Answer::Yes),
        ..case()
    });
    reach(&mut world, "Rehearsing");
    assert_eq!(world.status.release.as_ref().unwrap().via, Some(Via::Protocol));
    reach(&mut world, "Soaking");
    assert!(dismissed(&world).is_empty());
}

#[test]
fn auto_waits_while_nobody_has_answered() {
    let mut world = releasing(Case {
        auto: Some(Answer::NotYet),
        ..case()
    });
    world.run(30_000);
    assert_eq!(world.phase(), "Preflight");
    ask(&mut world, Verb::Promote);
    assert!(
        !world.status.last_request.as_ref().unwrap().accepted,
        "there is nothing to accept yet"
    );
    world.case.auto = Some(Answer::Yes);
    reach(&mut world, "Soaking");
}
