//! Session stores that end in the middle of a rollout, and come back with what they had written.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::harness::{self, App, Case, Keeper};

/// A whole release of fast settings, on two busy cores, with an outage in it.
const RELEASE: Duration = Duration::from_secs(180);
/// How long the first half may take until sessions are moved.
const MIDDLE: Duration = Duration::from_secs(90);
const SESSIONS: u64 = 60;

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn postgresql_crashes_in_the_middle_and_no_state_is_lost() {
    harness::run("store-pg", async |case| {
        case.postgres().await?;
        survives(case, Keeper::Postgres, |version| {
            App::version(version).postgres().sealed()
        })
        .await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn redis_ends_in_the_middle_and_no_state_is_lost() {
    harness::run("store-redis", async |case| {
        case.redis_with_a_disk().await?;
        survives(case, Keeper::Redis, |version| App::version(version).sealed()).await
    })
    .await;
}

/// Sessions are held over a release in whose middle their store is away for a moment: each is moved once, finds its state,
/// and every message is answered once.
async fn survives(case: &Case, keeper: Keeper, app: impl Fn(&str) -> App) -> Result<()> {
    // What an outage of the store says of a version is not what is looked at here: probes may warn, and not end it.
    let patient = json!({"spec": {
        "steps": [{"weight": 50, "pause": {"duration": "2s"}}, {"weight": 100, "pause": {"duration": "2s"}}],
        "thresholds": {
            "reconnectSuccess": {"action": "Warn"},
            "reconnectTime": {"action": "Warn"},
            "failuresInARow": {"max": 3, "action": "Warn"},
        },
    }});
    let app = |version: &str| app(version).slowly().patch(patient.clone());
    case.serve(&app("v1")).await?;
    let mut load = case.load(SESSIONS).await?;
    case.apply(&app("v2")).await?;
    case.until_in_wave(1, MIDDLE).await?;
    case.crash(keeper).await?;
    let done = case.until_released(1, RELEASE).await?;
    let canary = done
        .release
        .as_ref()
        .map(|r| r.canary.clone())
        .unwrap_or_default();
    load.until_all_on(&canary, Duration::from_secs(20)).await?;
    let counted = load.stop().await?;
    eprintln!("{}: {counted:?}", case.namespace);
    ensure!(counted.state_lost == 0, "state was lost: {counted:?}");
    counted.unharmed(1).with_context(|| case.story())
}
