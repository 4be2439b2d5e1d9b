//! The rollout is deleted in the middle of a release, in each of the three ways, with an operator and without: whoever is
//! connected stays, whoever comes is served.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::ResourceExt;
use kube::api::PropagationPolicy;
use serde_json::json;

use crate::harness::{self, App, Case};

/// To the pause at half way, on two busy cores.
const HALF_WAY: Duration = Duration::from_secs(100);

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_the_background() {
    deleted("del-bg", PropagationPolicy::Background, true).await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_the_foreground() {
    deleted("del-fg", PropagationPolicy::Foreground, true).await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn with_orphans() {
    deleted("del-or", PropagationPolicy::Orphan, true).await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_the_background_without_an_operator() {
    deleted("del-bg-no", PropagationPolicy::Background, false).await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_the_foreground_without_an_operator() {
    deleted("del-fg-no", PropagationPolicy::Foreground, false).await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn with_orphans_without_an_operator() {
    deleted("del-or-no", PropagationPolicy::Orphan, false).await;
}

async fn deleted(name: &str, propagation: PropagationPolicy, operator: bool) {
    harness::run(name, async |case| {
        let app =
            |version| App::version(version).steps(&json!([{"weight": 50, "pause": {}}, {"weight": 100}]));
        case.serve(&app("v1")).await?;
        let mut load = case.load(100).await?;
        case.apply(&app("v2")).await?;
        case.until_phase("Paused", HALF_WAY).await?;
        // The phase is told by the operator, the sessions by the load, a second later: those on their way arrive first.
        load.until_quiet(Duration::from_secs(3), Duration::from_secs(30))
            .await?;
        let before = load.now().unwrap().revisions;
        ensure!(
            before.len() == 2 && before.values().sum::<u64>() == 100,
            "sessions are not on two revisions: {before:?}"
        );
        let pods = names(case).await?;

        if !operator {
            case.scale_operator(0).await?;
        }
        case.delete_rollout(propagation.clone()).await?;
        if !operator {
            // Nobody is there to clean up: the object waits, and everybody is served.
            case.serves(10).await?;
            ensure!(
                case.rollouts().get_opt("chat").await?.is_some(),
                "the finalizer did not hold"
            );
            case.scale_operator(1).await?;
        }
        case.until_gone().await?;
        case.serves(10).await?;
        ensure!(names(case).await? == pods, "pods went with the rollout");

        load.until_quiet(Duration::from_secs(2), Duration::from_secs(30))
            .await?;
        let after = load.now().unwrap().revisions;
        ensure!(after == before, "sessions moved from {before:?} to {after:?}");

        // Applied again, it finds what serves and begins a release of its own: one more move is in order, a cut is not.
        case.apply(&app("v1")).await?;
        case.until("the rollout to be taken up again", HALF_WAY, |s| {
            s.stable.is_some()
        })
        .await?;
        case.serves(5).await?;
        load.stop().await?.unharmed(2)
    })
    .await;
}

async fn names(case: &Case) -> Result<Vec<String>> {
    let mut names: Vec<String> = case.pods().await?.iter().map(ResourceExt::name_any).collect();
    names.sort();
    Ok(names)
}
