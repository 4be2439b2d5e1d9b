//! What holds in every run.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::faults::{Happening, happenings};
use super::{Case, Manner, Quality, World};
use crate::api::spec::{DrainMode, HintKind};
use crate::api::status::WaveReason;
use crate::engine::plan::Action;

fn steps() -> impl Strategy<Value = Vec<(u8, Option<u32>)>> {
    prop_oneof![
        Just(vec![(10, Some(1)), (50, Some(1)), (100, Some(1))]),
        Just(vec![(50, Some(1)), (100, Some(1))]),
        Just(vec![(100, Some(0))]),
        Just(vec![(25, Some(0)), (50, Some(0)), (75, Some(2)), (100, Some(1))]),
    ]
}

fn hints() -> impl Strategy<Value = HintKind> {
    prop_oneof![
        2 => Just(HintKind::Query),
        1 => Just(HintKind::Path),
        1 => Just(HintKind::Header),
        3 => Just(HintKind::None),
    ]
}

/// How sessions are let go, where a release has an end.
fn manners() -> impl Strategy<Value = Manner> {
    prop_oneof![
        6 => Just(Manner::Orders(DrainMode::Ask)),
        1 => Just(Manner::Orders(DrainMode::WhenIdle)),
        1 => Just(Manner::Signal { counted: true }),
        1 => Just(Manner::Signal { counted: false }),
    ]
}

/// Any way of letting go.
fn any_manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        4 => manners(),
        2 => Just(Manner::Orders(DrainMode::Leave)),
    ]
}

fn quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        4 => Just(Quality::Good),
        1 => Just(Quality::FailsRehearsal),
        1 => Just(Quality::NeverReady),
        2 => (0u64..40).prop_map(Quality::BreaksAbove),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (
        any::<u64>(),
        1u32..9,
        0usize..120,
        10u32..60,
        (hints(), manners()),
        steps(),
    );
    let habits = (
        prop_oneof![3 => Just(true), 1 => Just(false)],
        0i64..800,
        any::<bool>(),
        prop_oneof![Just(100u8), Just(75)],
        quality(),
        0usize..3,
        prop_oneof![2 => Just(None), 1 => (1u32..40).prop_map(Some)],
    );
    (shape, habits).prop_map(
        |(
            (seed, replicas, sessions, budget, (hint, manner), steps),
            (follows, lag, closes, min_ready, quality, churn, bears),
        )| Case {
            seed,
            replicas,
            sessions,
            budget,
            hint,
            manner,
            auto: None,
            follows,
            steps,
            lag,
            closes,
            min_ready,
            quality,
            bears,
            refuses: seed % 3 == 0,
            churn,
        },
    )
}

fn story(world: &World) -> String {
    let from = world.trace.len().saturating_sub(70);
    format!(
        "{:?}\n{}\n{:?}\n{:?}",
        world.case,
        world.trace[from..].join("\n"),
        world.status,
        world.wrong
    )
}

fn at_rest(world: &World) -> bool {
    matches!(world.phase(), "Healthy" | "RolledBack" | "Soaking" | "Paused")
}

/// Whether a release has come to an end, and everybody is where they belong.
fn settled(world: &World) -> bool {
    if world.case.mode() == DrainMode::Leave {
        // A release may wait for sessions that nobody may cut, and so may a scale-down.
        let waits = world.phase() == "Preflight" && !world.status.leaving.is_empty();
        let scales = world
            .status
            .wave
            .as_ref()
            .is_some_and(|w| w.reason == WaveReason::ScaleDown);
        return waits || (at_rest(world) && (scales || world.status.wave.is_none()));
    }
    let healthy = world.phase() == "Healthy" && world.template == world.stable();
    (healthy || world.phase() == "RolledBack" || world.phase() == "Paused" || world.phase() == "Soaking")
        && world.status.wave.is_none()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: RngSeed::Fixed(1_122), max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_healthy_release_moves_everybody_once_and_cuts_nobody(case in cases()) {
        let mut world = World::new(Case { quality: Quality::Good, ..case });
        world.template = "bbb".to_owned();
        let done = world.until(900_000, |w| w.phase() == "Soaking");
        prop_assert!(done && world.wrong.is_empty(), "{}", story(&world));
        prop_assert_eq!(world.all_unannounced, 0, "{}", story(&world));
        prop_assert_eq!(world.users_of("aaa"), 0, "{}", story(&world));
        let follows = world.case.follows || world.case.hint == HintKind::None;
        let most = world.sessions.iter().flat_map(|s| s.moved.values()).max().copied().unwrap_or_default();
        prop_assert!(most <= 1 || !follows, "moved {} times: {}", most, story(&world));
        // The window ends, and then nothing more is done.
        prop_assert!(world.until(30_000, |w| w.phase() == "Healthy"), "{}", story(&world));
        idle(&mut world)?;
    }

    #[test]
    fn a_broken_version_goes_back_and_is_not_tried_again(
        case in cases(),
        quality in prop_oneof![Just(Quality::FailsRehearsal), Just(Quality::NeverReady), (0u64..5).prop_map(Quality::BreaksAbove)],
    ) {
        let sessions = case.sessions.max(20);
        let mut world = World::new(Case { sessions, quality, ..case });
        world.template = "bbb".to_owned();
        let done = world.until(900_000, |w| w.phase() == "RolledBack");
        prop_assert!(done && world.wrong.is_empty(), "{}", story(&world));
        prop_assert_eq!(world.all_unannounced, 0, "{}", story(&world));
        prop_assert_eq!(world.users_of("bbb"), 0);
        let most = world.sessions.iter().flat_map(|s| s.moved.values()).max().copied().unwrap_or_default();
        let follows = world.case.follows || world.case.hint == HintKind::None;
        prop_assert!(most <= 2 || !follows, "moved {} times: {}", most, story(&world));
        idle(&mut world)?;
        prop_assert_eq!(world.status.releases, 1);
        prop_assert_eq!(world.status.rejected.as_ref().map(|r| r.hash.as_str()), Some("bbb"));
    }

    #[test]
    fn whatever_happens_the_invariants_hold_and_it_comes_to_rest(
        case in cases(), manner in any_manner(), faults in happenings(8),
    ) {
        let mut world = World::new(Case { manner, ..case });
        world.template = "bbb".to_owned();
        world.run_with(100_000, &faults);
        prop_assert!(world.wrong.is_empty(), "{:?}\n{}", faults, story(&world));
        let rested = world.until(1_500_000, |w| w.now > w.last_trouble + 30_000 && settled(w));
        prop_assert!(world.wrong.is_empty(), "{:?}\n{}", faults, story(&world));
        prop_assert!(rested, "no rest: {:?}\n{}", faults, story(&world));
    }

    #[test]
    fn the_operator_may_die_between_any_two_acts(
        case in cases(),
        deaths in proptest::collection::vec((0i64..60_000, 0usize..15, 0i64..5_000), 1..12),
    ) {
        let mut world = World::new(Case { quality: Quality::Good, ..case });
        world.template = "bbb".to_owned();
        let mut faults: Vec<Happening> = deaths
            .into_iter()
            .map(|(at, after, away)| Happening { at, fault: super::Fault::Dies { after, away } })
            .collect();
        faults.sort_by_key(|f| f.at);
        world.run_with(60_000, &faults);
        let done = world.until(900_000, |w| w.status.stable.as_deref() == Some("bbb") && at_rest(w));
        prop_assert!(done && world.wrong.is_empty(), "{:?}\n{}", faults, story(&world));
        prop_assert_eq!(world.all_unannounced, 0, "{}", story(&world));
        let follows = world.case.follows || world.case.hint == HintKind::None;
        let most = world.sessions.iter().flat_map(|s| s.moved.values()).max().copied().unwrap_or_default();
        prop_assert!(most <= 1 || !follows, "moved {} times: {}", most, story(&world));
    }
}

/// Nothing acts and nothing is written while nothing changes.
fn idle(world: &mut World) -> Result<(), TestCaseError> {
    world.case.churn = 0;
    world.run(10_000);
    let before = world.status.clone();
    world.run(25_000);
    prop_assert!(at_rest(world) && world.wrong.is_empty(), "{}", story(world));
    prop_assert_eq!(&world.status, &before);
    let acts: Vec<&Action> = world
        .last_plan
        .iter()
        .flat_map(|p| &p.actions)
        .filter(|a| !matches!(a, Action::Probe(_)))
        .collect();
    prop_assert!(acts.is_empty(), "{:?}", acts);
    Ok(())
}
