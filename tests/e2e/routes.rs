//! Somebody else writes the route: a Git pipeline that knows nothing of releases.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use wsroll::api::status::Verb;

use crate::harness::{self, App};

/// A whole release, on two busy cores.
const RELEASE: Duration = Duration::from_secs(150);

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn weights_written_outside_a_release_do_no_harm_and_stay() {
    harness::run("git-outside", async |case| {
        case.serve(&App::version("v1")).await?;
        let load = case.load(100).await?;
        for weights in [[0, 100, 0], [1, 1, 98], [30, 30, 40]] {
            case.write_weights(weights).await?;
            case.serves(10).await?;
        }
        let written = case.weights().await?;
        ensure!(
            written.values().copied().collect::<Vec<_>>() == [30, 30, 40],
            "the operator wrote weights outside of a release: {written:?}"
        );
        // A release begins from whatever is there.
        case.apply(&App::version("v2")).await?;
        case.until_released(1, RELEASE).await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn weights_written_inside_a_release_are_repaired_and_named() {
    harness::run("git-inside", async |case| {
        let app = |version| {
            App::version(version).steps(&json!([
                {"weight": 20, "pause": {}},
                {"weight": 100, "pause": {"duration": "1s"}},
            ]))
        };
        case.serve(&app("v1")).await?;
        let load = case.load(100).await?;
        case.apply(&app("v2")).await?;
        case.until_phase("Paused", RELEASE).await?;
        let ours = case.weights().await?;
        ensure!(ours.values().any(|w| *w == 20), "{ours:?}");
        for weights in [[100, 0, 0], [0, 0, 100]] {
            case.write_weights(weights).await?;
            case.poll(
                "the weights to be repaired",
                Duration::from_secs(10),
                async || Ok(case.weights().await? == ours),
            )
            .await?;
        }
        case.poll("the repair to be told", Duration::from_secs(15), async || {
            Ok(case
                .events()
                .await?
                .iter()
                .any(|reason| reason == "WeightsRepaired"))
        })
        .await?;
        case.request(Verb::Promote).await?;
        case.until_released(1, RELEASE).await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}
