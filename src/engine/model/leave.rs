//! Sessions that nobody may cut (`drain.mode: Leave`), one scenario each.

use super::clients::{Place, Session};
use super::phases::{case, reach, releasing};
use super::requests::ask;
use super::world::{Case, Manner, World};
use crate::api::conditions::{READY, STALLED, is_true};
use crate::api::spec::DrainMode;
use crate::api::status::Verb;

fn leaving(closes: bool) -> World {
    releasing(Case {
        manner: Manner::Orders(DrainMode::Leave),
        closes,
        ..case()
    })
}

fn moves(world: &World) -> u32 {
    world.sessions.iter().flat_map(|s| s.moved.values()).sum()
}

fn held(world: &World) -> Vec<&str> {
    world.status.leaving.iter().map(|l| l.revision.as_str()).collect()
}

/// So many users of a revision hang up.
fn hang_up(world: &mut World, revision: &str, most: usize) {
    let pods: Vec<String> = world
        .pods
        .iter()
        .filter(|p| p.revision == revision)
        .map(|p| p.uid.clone())
        .collect();
    let on = |s: &Session| matches!(&s.place, Place::On(uid) if pods.contains(uid));
    for session in world.sessions.iter_mut().filter(|s| on(s)).take(most) {
        session.place = Place::Away;
    }
}

#[test]
fn a_release_is_over_without_moving_anybody_and_pods_go_as_they_become_empty() {
    let mut world = leaving(false);
    reach(&mut world, "Soaking");
    assert_eq!(
        (world.users_of("aaa"), moves(&world), world.all_unannounced),
        (60, 0, 0)
    );
    assert_eq!(
        (held(&world), world.sets["bbb"]),
        (vec!["aaa"], 4),
        "the new revision is whole"
    );
    for _ in 0..10 {
        world.sessions.push(Session::dialling(world.now));
    }
    world.run(20_000);
    assert_eq!((world.users_of("aaa"), world.users_of("bbb")), (60, 10));
    assert_eq!(world.status.leaving[0].sessions, 60);
    let draining = |w: &World| {
        w.pods
            .iter()
            .filter(|p| p.role == "draining" && !p.serving)
            .count()
    };
    assert_eq!(draining(&world), 4);
    assert!(
        world
            .pods
            .iter()
            .filter(|p| p.revision == "aaa")
            .all(|p| p.order.is_some())
    );
    let first = world
        .pods
        .iter()
        .find(|p| p.revision == "aaa")
        .unwrap()
        .uid
        .clone();
    let left = 60 - world.users_on(&first);
    for session in world
        .sessions
        .iter_mut()
        .filter(|s| s.place == Place::On(first.clone()))
    {
        session.place = Place::Away;
    }
    world.run(20_000);
    assert_eq!(draining(&world), 3, "the empty pod is gone");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (left, 0));
    hang_up(&mut world, "aaa", 60);
    assert!(
        world.until(20_000, |w| w.status.leaving.is_empty()),
        "{}",
        world.trace.join("\n")
    );
    assert!(world.wrong.is_empty());
    assert_eq!((world.sets["aaa"], moves(&world)), (0, 0));
}

#[test]
fn releases_queue_while_every_place_holds_sessions_and_only_the_newest_waits() {
    let mut world = leaving(false);
    reach(&mut world, "Soaking");
    for _ in 0..10 {
        world.sessions.push(Session::dialling(world.now));
    }
    world.run(3_000);
    world.template = "ccc".to_owned();
    let second = |w: &World| w.phase() == "Soaking" && w.status.stable.as_deref() == Some("ccc");
    assert!(world.until(200_000, second), "{:?}", world.wrong);
    assert_eq!(held(&world), ["aaa", "bbb"], "three revisions hold sessions");
    world.template = "ddd".to_owned();
    world.run(60_000);
    assert_eq!(world.phase(), "Preflight");
    let ready = world.status.conditions.iter().find(|c| c.type_ == READY).unwrap();
    assert_eq!(ready.reason, "SlotsFull");
    assert_eq!(
        ready.message,
        "waiting for revision aaa, which still holds 60 sessions: 3 revisions may hold sessions at one time (traffic.slots)"
    );
    assert!(!is_true(&world.status.conditions, STALLED), "it is no failure");
    world.template = "eee".to_owned();
    world.run(5_000);
    assert_eq!(
        (
            world.status.releases,
            world.status.release.as_ref().unwrap().canary.as_str()
        ),
        (3, "eee")
    );
    hang_up(&mut world, "aaa", 60);
    let third = |w: &World| w.phase() == "Soaking" && w.status.stable.as_deref() == Some("eee");
    assert!(world.until(200_000, third), "{:?}", world.wrong);
    assert_eq!((moves(&world), world.all_unannounced), (0, 0));
}

#[test]
fn abort_in_the_window_goes_back_to_pods_that_are_still_there() {
    let mut world = leaving(false);
    reach(&mut world, "Soaking");
    world.run(8_000);
    ask(&mut world, Verb::Abort);
    reach(&mut world, "RolledBack");
    assert_eq!(
        (world.users_of("aaa"), moves(&world), world.all_unannounced),
        (60, 0, 0)
    );
    assert!(world.status.leaving.is_empty());
    world.run(5_000);
    assert!(
        world
            .pods
            .iter()
            .filter(|p| p.revision == "aaa")
            .all(|p| p.serving)
    );
}

#[test]
fn the_old_template_in_the_window_takes_over_at_once_and_moves_nobody() {
    let mut world = leaving(false);
    reach(&mut world, "Soaking");
    for _ in 0..10 {
        world.sessions.push(Session::dialling(world.now));
    }
    world.run(3_000);
    world.template = "aaa".to_owned();
    let back = |w: &World| w.phase() == "Healthy" && w.status.stable.as_deref() == Some("aaa");
    assert!(
        world.until(30_000, back),
        "{:?}\n{}",
        world.wrong,
        world.trace.join("\n")
    );
    assert_eq!(
        (world.users_of("aaa"), world.users_of("bbb"), moves(&world)),
        (60, 10, 0)
    );
    assert_eq!(held(&world), ["bbb"]);
}

#[test]
fn a_newer_template_in_mid_release_moves_nobody() {
    let mut world = releasing(Case {
        manner: Manner::Orders(DrainMode::Leave),
        steps: vec![(50, Some(20)), (100, Some(0))],
        ..case()
    });
    reach(&mut world, "Analysing");
    for _ in 0..20 {
        world.sessions.push(Session::dialling(world.now));
    }
    world.run(3_000);
    let early = world.users_of("bbb");
    assert!(early > 2, "{early}");
    world.template = "ccc".to_owned();
    let done = |w: &World| w.phase() == "Soaking" && w.status.stable.as_deref() == Some("ccc");
    assert!(
        world.until(200_000, done),
        "{:?}\n{}",
        world.wrong,
        world.trace.join("\n")
    );
    assert_eq!(
        (world.users_of("bbb"), moves(&world), world.all_unannounced),
        (early, 0, 0)
    );
    assert_eq!(held(&world), ["bbb", "aaa"]);
}

#[test]
fn past_the_deadline_what_is_left_is_closed_at_the_pace_of_the_budget() {
    let mut world = leaving(true);
    reach(&mut world, "Soaking");
    world.run(30_000);
    assert_eq!(moves(&world), 0, "not before the deadline");
    assert!(
        world.until(120_000, |w| w.status.leaving.is_empty()),
        "{:?}",
        world.wrong
    );
    assert_eq!(
        (world.users_of("bbb"), moves(&world), world.all_unannounced),
        (60, 60, 0)
    );
}

#[test]
fn a_rejected_version_keeps_its_sessions_until_the_rollbacks_deadline() {
    let mut world = leaving(false);
    reach(&mut world, "Soaking");
    for _ in 0..20 {
        world.sessions.push(Session::dialling(world.now));
    }
    world.run(3_000);
    ask(&mut world, Verb::Abort);
    world.run(20_000);
    assert_eq!((world.phase(), world.users_of("bbb")), ("RollingBack", 20));
    reach(&mut world, "RolledBack");
    assert_eq!(
        (world.users_of("aaa"), moves(&world), world.all_unannounced),
        (80, 20, 0)
    );
}
