//! Rehearsals in a cluster: five scenarios through a real gateway, one pod that dies for them, and nobody who notices.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use wsroll::api::spec::Scenario;
use wsroll::api::status::{RolloutStatus, ScenarioResult, State};

use crate::harness::{self, App, reason_of};

/// A rehearsal of all five scenarios and a whole release, on two busy cores.
const RELEASE: Duration = Duration::from_secs(240);

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn all_five_scenarios_are_played_and_no_user_notices() {
    harness::run("five", async |case| {
        case.serve(&App::version("v1").rehearsed_by(&Scenario::ALL))
            .await?;
        let load = case.load(100).await?;
        case.apply(&App::version("v2").rehearsed_by(&Scenario::ALL))
            .await?;
        let done = case.until_released(1, RELEASE).await?;

        let rehearsal = done.rehearsal.clone().context("no rehearsal in status")?;
        let seen: Vec<_> = rehearsal.scenarios.iter().map(|s| (s.name, s.outcome)).collect();
        let passed: Vec<_> = Scenario::ALL.map(|name| (name, ScenarioResult::Passed)).into();
        ensure!(seen == passed, "{rehearsal:?}");
        for scenario in &rehearsal.scenarios {
            ensure!(
                scenario.restored > 0 && scenario.mean_ms.is_some(),
                "{scenario:?}"
            );
        }
        let (rehearsed, reason, message) = reason_of(&done, "Rehearsed");
        ensure!(
            rehearsed && reason == "Passed" && message.contains("Crash passed"),
            "{message}"
        );

        // The pod was named before it died, at weight 0, and it was one.
        let killed = killed(&case.statuses());
        ensure!(killed.len() == 1, "{killed:?}");
        let services: Api<Service> = Api::namespaced(case.client.clone(), &case.namespace);
        ensure!(
            services.get_opt("chat-nobody").await?.is_none(),
            "nobody is still there"
        );
        ensure!(
            done.unannounced.unwrap_or_default() == 0,
            "{:?}",
            done.unannounced
        );
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_version_that_forgets_when_a_pod_dies_is_rejected_unseen() {
    harness::run("forgets", async |case| {
        let version = |version| App::version(version).in_memory().rehearsed_by(&[Scenario::Crash]);
        case.serve(&version("v1")).await?;
        let load = case.load(50).await?;
        case.apply(&version("v2")).await?;
        let back = case.until_rolled_back(RELEASE).await?;
        let (_, _, message) = reason_of(&back, "Stalled");
        ensure!(
            message.contains("RehearsalFailed") && message.contains("Crash"),
            "{message}"
        );
        ensure!(case.greatest_weight(1) == 0, "the version got a weight");
        let rehearsal = back.rehearsal.clone().context("no rehearsal in status")?;
        ensure!(
            rehearsal.scenarios[0].outcome == ScenarioResult::Failed,
            "{rehearsal:?}"
        );
        load.stop().await?.untouched()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_version_that_lies_about_its_sessions_is_rejected_unseen() {
    harness::run("lies", async |case| {
        case.serve(&App::version("v1")).await?;
        let load = case.load(50).await?;
        case.apply(&App::version("v2").fault("lie")).await?;
        let back = case.until_rolled_back(RELEASE).await?;
        let (_, _, message) = reason_of(&back, "Stalled");
        ensure!(message.contains("openCount"), "{message}");
        ensure!(case.greatest_weight(1) == 0, "the version got a weight");
        load.stop().await?.untouched()
    })
    .await;
}

/// UIDs of the pods that statuses named to be killed.
fn killed(statuses: &[RolloutStatus]) -> Vec<String> {
    let mut uids: Vec<String> = statuses
        .iter()
        .filter_map(|status| match &status.state {
            Some(State::Rehearsing(at)) => at.crash.as_ref().map(|crash| crash.uid.clone()),
            _ => None,
        })
        .collect();
    uids.sort();
    uids.dedup();
    uids
}
