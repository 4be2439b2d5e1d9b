//! What people ask for in the middle of a release: abort, pause, resume, promote, another template.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use wsroll::api::status::Verb;

use crate::harness::{self, App, reason_of};

/// A whole release, on two busy cores.
const RELEASE: Duration = Duration::from_secs(150);

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn abort_in_the_middle_of_a_wave_moves_sessions_back() {
    harness::run("abort", async |case| {
        case.serve(&App::version("v1").slowly()).await?;
        let mut load = case.load(200).await?;
        case.apply(&App::version("v2").slowly()).await?;
        let moving = case.until_in_wave(2, RELEASE).await?;
        case.request(Verb::Abort).await?;
        let back = case.until_rolled_back(RELEASE).await?;
        ensure!(back.history[0].result == "RolledBack", "{:?}", back.history);
        let stable = moving.stable.unwrap_or_default();
        load.until_all_on(&stable, Duration::from_secs(10)).await?;
        load.stop().await?.unharmed(2)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_pause_in_the_middle_of_a_wave_stands_still_until_it_is_resumed() {
    harness::run("pause", async |case| {
        case.serve(&App::version("v1").slowly()).await?;
        let mut load = case.load(200).await?;
        case.apply(&App::version("v2").slowly()).await?;
        case.until_in_wave(2, RELEASE).await?;
        case.request(Verb::Pause).await?;
        let paused = case.until_phase("Paused", Duration::from_secs(5)).await?;
        let (ready, reason, _) = reason_of(&paused, "Ready");
        ensure!(ready && reason == "Paused", "Ready={ready} {reason}");
        let canary = paused.release.map(|r| r.canary).unwrap_or_default();
        // Who was told before the order was cancelled still comes; afterwards nobody does.
        load.until_quiet(Duration::from_secs(3), Duration::from_secs(15))
            .await?;
        let there = load
            .now()
            .unwrap()
            .revisions
            .get(&canary)
            .copied()
            .unwrap_or_default();
        ensure!(there < 200, "all sessions were moved in spite of the pause");
        case.request(Verb::Resume).await?;
        case.until_released(1, RELEASE).await?;
        load.until_all_on(&canary, Duration::from_secs(5)).await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_step_without_a_duration_waits_for_promote() {
    harness::run("promote", async |case| {
        let app = |version| {
            App::version(version).steps(&json!([
                {"weight": 20, "pause": {}},
                {"weight": 100, "pause": {"duration": "1s"}},
            ]))
        };
        case.serve(&app("v1")).await?;
        let load = case.load(100).await?;
        case.apply(&app("v2")).await?;
        let paused = case.until_phase("Paused", RELEASE).await?;
        let (ready, reason, message) = reason_of(&paused, "Ready");
        ensure!(ready && reason == "Paused", "Ready={ready} {reason}: {message}");
        ensure!(message.contains("promote"), "{message}");
        case.request(Verb::Promote).await?;
        case.until_released(1, RELEASE).await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_newer_template_takes_the_place_of_the_one_under_way() {
    harness::run("supersede", async |case| {
        let waiting = App::version("v2").steps(&json!([{"weight": 20, "pause": {}}, {"weight": 100}]));
        case.serve(&App::version("v1")).await?;
        let mut load = case.load(100).await?;
        case.apply(&waiting).await?;
        case.until_phase("Paused", RELEASE).await?;
        case.apply(&App::version("v3")).await?;
        let done = case
            .until("release 2 to be done", RELEASE, |s| {
                s.releases == 2 && matches!(s.phase.as_deref(), Some("Soaking" | "Healthy"))
            })
            .await?;
        let old = done.history.iter().find(|r| r.number == 1);
        ensure!(
            old.is_some_and(|r| r.result == "Superseded"),
            "{:?}",
            done.history
        );
        ensure!(done.rejected.is_none(), "a superseded template is not a bad one");
        let newest = done.release.map(|r| r.canary).or(done.stable).unwrap_or_default();
        load.until_all_on(&newest, Duration::from_secs(5)).await?;
        load.stop().await?.unharmed(3)
    })
    .await;
}
