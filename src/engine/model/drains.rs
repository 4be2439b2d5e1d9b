//! How sessions leave: the pace that adapts, one scenario each.

use super::phases::{case, reach, releasing};
use super::world::{Case, World};
use crate::api::status::{Pace, Returned};

fn pace(world: &World) -> Option<Pace> {
    world.status.drain.as_ref().and_then(|d| d.pace.clone())
}

#[test]
fn a_server_that_bears_less_than_the_budget_sets_the_pace() {
    let mut world = releasing(Case {
        sessions: 400,
        budget: 40,
        bears: Some(15),
        steps: vec![(100, Some(0))],
        ..case()
    });
    reach(&mut world, "Moving");
    let mut lowest = 40.0_f64;
    while world.phase() == "Moving" && world.wrong.is_empty() {
        world.run(250);
        lowest = pace(&world).map_or(lowest, |p| lowest.min(p.limit));
    }
    assert!((2.0..=20.0).contains(&lowest), "{lowest}");
    let told = world.trace.iter().filter(|l| l.contains("PaceLowered")).count();
    assert!((1..12).contains(&told), "told {told} times");
    reach(&mut world, "Soaking");
    let most = world.sessions.iter().flat_map(|s| s.moved.values()).max();
    assert_eq!(
        (world.users_of("bbb"), world.all_unannounced, most),
        (400, 0, Some(&1))
    );
}

#[test]
fn a_budget_that_is_not_adaptive_is_the_pace() {
    let mut world = releasing(Case {
        sessions: 200,
        bears: Some(5),
        steps: vec![(100, Some(0))],
        ..case()
    });
    world.rollout.spec.drain.budget.adaptive = false;
    reach(&mut world, "Moving");
    world.run(6_000);
    assert_eq!(pace(&world), None);
    let busiest = world.arrivals.values().max().copied().unwrap_or_default();
    assert!(busiest > 25, "{busiest}");
}

#[test]
fn the_end_is_estimated_while_sessions_are_left_to_move() {
    let mut world = releasing(Case {
        sessions: 200,
        ..case()
    });
    let eta = |w: &World| w.status.drain.as_ref().and_then(|d| d.eta_seconds);
    reach(&mut world, "Analysing");
    let early = eta(&world).expect("an estimate in a pause as well");
    world.until(60_000, |w| w.users_of("bbb") > 120);
    let late = eta(&world).expect("an estimate");
    assert!(late < early && late >= 1, "{early} s, then {late} s");
    reach(&mut world, "Soaking");
    assert_eq!(eta(&world), None);
}

#[test]
fn too_many_strays_stop_the_moves_before_the_last_step() {
    let mut world = releasing(Case {
        steps: vec![(10, Some(1)), (50, Some(1)), (75, Some(1)), (100, Some(1))],
        ..case()
    });
    world.until(100_000, |w| {
        w.status.weight.as_ref().is_some_and(|w| w.desired == 50)
    });
    world.accounts = Some(Returned {
        moved: 30,
        back: 25,
        on_target: 19,
        strays: 6,
        ..Returned::default()
    });
    world.run(500);
    let before = world.users_of("bbb");
    assert_eq!(
        world
            .status
            .drain
            .as_ref()
            .unwrap()
            .returned
            .as_ref()
            .unwrap()
            .strays,
        6
    );
    let last = |w: &World| w.status.weight.as_ref().is_some_and(|w| w.desired == 100);
    while !last(&world) {
        assert_eq!(world.users_of("bbb"), before, "left for the last step");
        world.run(250);
    }
    assert!(
        world
            .trace
            .iter()
            .any(|l| l.contains("MoveSessions") && l.contains("6 of 25 moved sessions"))
    );
    reach(&mut world, "Soaking");
    assert_eq!(world.users_of("bbb"), 60);
}

/// A good version whose probes fail while our own wave is faster than it bears: the pace is eased, and nobody is sent back.
#[test]
fn a_wave_of_ours_that_is_too_fast_sends_no_good_version_back() {
    let mut world = releasing(Case {
        sessions: 400,
        budget: 40,
        bears: Some(12),
        refuses: true,
        steps: vec![(50, Some(1)), (100, Some(0))],
        ..case()
    });
    let mut aside = 0;
    while !matches!(world.phase(), "Soaking" | "RolledBack") && world.wrong.is_empty() {
        world.run(250);
        let trial = world.status.release.as_ref().and_then(|r| r.trial.as_ref());
        aside = aside.max(trial.map_or(0, |t| t.canary.aside));
        assert!(world.now < 600_000, "{}", world.trace.join("\n"));
    }
    assert!(world.wrong.is_empty(), "{:?}", world.wrong);
    assert_eq!(world.phase(), "Soaking", "{}", world.trace.join("\n"));
    assert!(aside > 0, "nothing was set aside");
    assert!(world.trace.iter().any(|l| l.contains("PaceLowered")));
}

/// The same signs, and a version that fails at any pace: it is found when there is nothing left to ease.
#[test]
fn a_version_that_fails_at_any_pace_is_not_excused_by_it() {
    let mut world = releasing(Case {
        sessions: 400,
        budget: 40,
        bears: Some(0),
        refuses: true,
        quality: super::Quality::BreaksAbove(20),
        steps: vec![(100, Some(0))],
        ..case()
    });
    reach(&mut world, "Moving");
    let begin = world.now;
    reach(&mut world, "RollingBack");
    assert!(world.now - begin < 60_000, "{} ms", world.now - begin);
    let moved = world.users_of("bbb");
    assert!(moved < 300, "{moved} had moved");
    reach(&mut world, "RolledBack");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (400, 0));
}
