//! Broken versions: stopped before users reach them where a rehearsal can see it, moved back from where it cannot.

use std::time::Duration;

use anyhow::{Result, ensure};
use wsroll::api::status::Verb;

use crate::harness::{self, App, Case, Load, reason_of};

/// From the apply to the end of the rollback.
const ROLLBACK: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_mute_version_is_rejected_once_and_tried_again_only_on_request() {
    harness::run("mute", async |case| {
        let load = serve_with_sessions(case, &App::version("v1")).await?;
        case.apply(&App::version("v2").fault("mute")).await?;
        rejected_unseen(case, 1).await?;

        case.kill_operator().await?;
        case.until_serving("wsroll-operator").await?;
        // A new operator has decided something once it has acknowledged something.
        let refused = case.request(Verb::Promote).await.unwrap_err().to_string();
        ensure!(refused.contains("nothing to promote"), "{refused}");
        let status = case.until_phase("RolledBack", Duration::from_secs(5)).await?;
        ensure!(status.releases == 1, "it was tried again: {status:?}");

        case.request(Verb::Retry).await?;
        case.until("a second release", Duration::from_secs(20), |s| s.releases == 2)
            .await?;
        rejected_unseen(case, 2).await?;
        nobody_was_there(load).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_version_that_refuses_everybody_is_rejected_unseen() {
    rejected("refuse", "refuse=100%").await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_version_that_refuses_a_third_is_rejected_unseen() {
    rejected("refuse-some", "refuse=30%").await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_version_that_crashes_is_rejected_unseen() {
    rejected("crash", "crash=5").await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_version_that_forgets_is_rejected_unseen() {
    rejected("forget", "forget").await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn sessions_in_memory_are_found_to_be_lost_before_a_user_loses_one() {
    harness::run("memory", async |case| {
        let load = serve_with_sessions(case, &App::version("v1").in_memory()).await?;
        case.apply(&App::version("v2").in_memory()).await?;
        let message = rejected_unseen(case, 1).await?;
        ensure!(
            message.contains("state") || message.contains("not found"),
            "the reason is not the lost state: {message}"
        );
        nobody_was_there(load).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_version_that_breaks_under_load_is_rolled_back_and_its_sessions_recover() {
    harness::run("underload", async |case| {
        case.serve(&App::version("v1")).await?;
        let mut load = case.load(200).await?;
        // Enough for the rehearsal and for the first step's 20 sessions, not for the second step's 100 on two or three pods.
        case.apply(&App::version("v2").fault("mute-above=30")).await?;
        let back = case.until_rolled_back(ROLLBACK).await?;
        ensure!(
            case.greatest_weight(1) >= 10,
            "it was found before anybody reached it"
        );
        let past = &back.history[0];
        // How fast is the demo's to say: machines are noisy.
        ensure!(
            past.verdict_to_weights_ms.is_some(),
            "the weights' way back was not measured: {past:?}"
        );
        let stable = back.stable.clone().unwrap_or_default();
        load.until_all_on(&stable, Duration::from_secs(30)).await?;
        let counted = load.stop().await?;
        ensure!(
            counted.state_lost == 0 && counted.messages_lost == 0 && counted.sessions_unanswered_at_end == 0,
            "{counted:?}"
        );
        Ok(())
    })
    .await;
}

/// A fault that a rehearsal sees: the version is rejected at weight 0.
async fn rejected(name: &str, fault: &str) {
    harness::run(name, async |case| {
        let load = serve_with_sessions(case, &App::version("v1")).await?;
        case.apply(&App::version("v2").fault(fault)).await?;
        rejected_unseen(case, 1).await?;
        nobody_was_there(load).await
    })
    .await;
}

async fn serve_with_sessions(case: &Case, app: &App) -> Result<Load> {
    case.serve(app).await?;
    case.load(100).await
}

/// The release with this number ends rolled back, and its weight never left 0. The reason that people are told.
async fn rejected_unseen(case: &Case, number: u64) -> Result<String> {
    let back = case
        .until_or(
            "the release to be rejected",
            ROLLBACK,
            |s| s.phase.as_deref() == Some("RolledBack") && s.releases == number,
            |s| {
                matches!(
                    s.phase.as_deref(),
                    Some("Shifting" | "Moving" | "Finishing" | "Soaking")
                )
            },
        )
        .await?;
    ensure!(
        case.greatest_weight(number) == 0,
        "the version got a weight: {}",
        case.story()
    );
    let rejected = back.rejected.clone().map(|r| r.message);
    ensure!(rejected.is_some(), "the template is not remembered");
    let (stalled, reason, message) = reason_of(&back, "Stalled");
    ensure!(
        stalled && reason == "RolledBack",
        "Stalled={stalled} {reason}: {message}"
    );
    let (ready, ..) = reason_of(&back, "Ready");
    ensure!(!ready, "a rejected release is not ready");
    Ok(message)
}

/// No session was moved, and none ever reached another revision.
async fn nobody_was_there(load: Load) -> Result<()> {
    let counted = load.stop().await?;
    counted.untouched()?;
    ensure!(
        counted.reached.len() == 1,
        "sessions reached the broken version: {counted:?}"
    );
    Ok(())
}
