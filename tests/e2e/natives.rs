//! The examples that speak the drain protocol by themselves, in four languages: each in a real release, with clients that read
//! its notices.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::harness::{self, Case};

/// A whole release of fast settings, on two busy cores.
const RELEASE: Duration = Duration::from_secs(150);
const SESSIONS: u64 = 60;

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_node() {
    harness::run("native-node", async |case| {
        released(case, "native-node", &["/app/server.js"]).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_python() {
    harness::run("native-python", async |case| {
        released(case, "native-python", &["/app/server.py"]).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_go() {
    harness::run("native-go", async |case| released(case, "native-go", &[]).await).await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_rust() {
    harness::run("native-rust", async |case| {
        released(case, "native-rust", &[]).await
    })
    .await;
}

/// Two steps: at the first half of the sessions follow the hint of their notice, at the second the rest. Each is moved once.
async fn released(case: &Case, name: &str, args: &[&str]) -> Result<()> {
    let example = case.stranger(name).await?;
    let server = example.server(args, "/ws").patch(json!({"spec": {
        "replicas": 2,
        "drain": {"via": "Protocol", "notice": {"hint": "Query", "reconnectWindow": "2s"}},
        "steps": [{"weight": 50, "pause": {"duration": "1s"}}, {"weight": 100, "pause": {"duration": "1s"}}],
        // The examples keep what was said in memory: a session that moves has to say so.
        "thresholds": {"stateLoss": {"max": 10_000}},
    }}));
    case.serve_stranger(&server, &server.version("v1").without_health())
        .await?;
    let mut load = case.hold_resumable(SESSIONS).await?;
    case.apply_stranger(&server, &server.version("v2").without_health())
        .await?;
    let done = case.until_released(1, RELEASE).await?;
    let canary = done
        .release
        .as_ref()
        .map(|r| r.canary.clone())
        .unwrap_or_default();
    load.until_all_on(&canary, Duration::from_secs(15)).await?;
    let counted = load.stop().await?;
    eprintln!("{}: {counted:?}", case.namespace);
    counted.unharmed(1).with_context(|| case.story())?;
    ensure!(
        counted.announced_disconnects == SESSIONS,
        "not all were moved: {counted:?}"
    );
    ensure!(
        done.unannounced.unwrap_or_default() == 0,
        "{:?}",
        done.unannounced
    );
    Ok(())
}
