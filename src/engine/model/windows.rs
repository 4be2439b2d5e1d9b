//! Moves in a window, one scenario each.

use super::phases::{case, reach, releasing};
use super::requests::ask;
use super::world::{Case, World};
use crate::api::spec::HintKind;
use crate::api::status::{Verb, Window};

fn windowed() -> World {
    releasing(Case {
        hint: HintKind::None,
        sessions: 200,
        steps: vec![(25, Some(1)), (50, Some(1)), (100, Some(1))],
        ..case()
    })
}

fn window(world: &World) -> Option<Window> {
    world.status.wave.as_ref().and_then(|w| w.window.clone())
}

fn opened(world: &World) -> bool {
    window(world).is_some_and(|w| w.open_since.is_some()) && world.arrivals.values().sum::<u32>() > 0
}

#[test]
fn without_a_hint_a_step_moves_its_share_in_windows_and_nobody_twice() {
    let mut world = windowed();
    let (mut open_for, mut longest, mut windows) = (0, 0, 0);
    reach(&mut world, "Moving");
    while world.phase() == "Moving" && world.wrong.is_empty() {
        let open = world.weights["b"] == 100;
        windows += u32::from(open && open_for == 0);
        open_for = if open { open_for + 250 } else { 0 };
        longest = longest.max(open_for);
        world.run(250);
    }
    assert!(
        windows >= 1 && longest <= 15_000,
        "{windows} windows, {longest} ms"
    );
    let moved = world.users_of("bbb");
    assert!((35..=65).contains(&moved), "{moved} of 200 at weight 25");
    assert_eq!(world.weights["b"], 25, "the step's weight is back");
    assert!(
        world
            .trace
            .iter()
            .any(|l| l.contains("MoveSessions step 1: Window, the gateway follows within"))
    );
    reach(&mut world, "Soaking");
    let most = world.sessions.iter().flat_map(|s| s.moved.values()).max();
    assert_eq!(
        (world.users_of("bbb"), world.all_unannounced, most),
        (200, 0, Some(&1))
    );
}

#[test]
fn a_rollback_closes_an_open_window_at_once() {
    let mut world = windowed();
    assert!(world.until(100_000, opened), "{}", world.trace.join("\n"));
    ask(&mut world, Verb::Abort);
    assert!(world.weights["b"] < 100);
    reach(&mut world, "RolledBack");
    assert_eq!((world.users_of("aaa"), world.all_unannounced), (200, 0));
}

#[test]
fn a_pause_closes_an_open_window_at_once() {
    let mut world = windowed();
    assert!(world.until(100_000, opened));
    ask(&mut world, Verb::Pause);
    world.run(1_000);
    assert_eq!((world.phase(), world.weights["b"]), ("Paused", 25));
    ask(&mut world, Verb::Resume);
    reach(&mut world, "Soaking");
    assert_eq!((world.users_of("bbb"), world.all_unannounced), (200, 0));
}

#[test]
fn closing_an_old_window_is_a_new_leaders_first_act() {
    let mut world = windowed();
    assert!(world.until(100_000, opened));
    world.dies = Some((0, 60_000));
    world.run(59_000);
    assert_eq!(world.weights["b"], 100, "nobody is there to close it");
    let acts = world.trace.len();
    world.until(10_000, |w| w.weights["b"] != 100);
    let wrote = |line: &&String| line.contains("SetWeights") || line.contains("Order(");
    let first = world.trace[acts..]
        .iter()
        .find(wrote)
        .cloned()
        .unwrap_or_default();
    assert!(
        first.contains("SetWeights") && first.contains("\"b\": 25"),
        "{first}"
    );
    reach(&mut world, "Soaking");
    assert_eq!((world.users_of("bbb"), world.all_unannounced), (200, 0));
}
