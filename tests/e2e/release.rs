//! Healthy releases.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::{self, App, weight_of};

/// A whole release of fast settings, on two busy cores.
const RELEASE: Duration = Duration::from_secs(150);
/// The budget that `App` sets, in first connects per second.
const BUDGET: u64 = 50;

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn three_hundred_sessions_move_once_and_lose_nothing() {
    harness::run("happy", async |case| {
        case.serve(&App::version("v1")).await?;
        let mut load = case.load(300).await?;
        case.apply(&App::version("v2")).await?;
        let done = case.until_released(1, RELEASE).await?;

        let (canary, stable) = revisions(&done);
        ensure!(
            done.revisions.iter().all(|r| r.hash == canary || r.sessions == 0),
            "done with sessions left on {stable}: {:?}",
            done.revisions
        );
        load.until_all_on(&canary, Duration::from_secs(5)).await?;
        let weights: Vec<i32> = steps(&case.statuses());
        ensure!(weights == [0, 10, 50, 100], "the weights were {weights:?}");
        early_steps_moved_their_share(&case.statuses())?;

        // The last of them are matched a moment after they came.
        let done = case
            .until("all moved sessions to be back", Duration::from_secs(10), |s| {
                let returned = s.drain.as_ref().and_then(|d| d.returned.as_ref());
                returned.is_some_and(|r| r.back >= 300)
            })
            .await
            .unwrap_or(done);
        accounted_for(&done)?;
        let done = case.until_phase("Healthy", Duration::from_secs(30)).await?;
        ensure!(done.history[0].result == "Completed", "{:?}", done.history);
        let counted = load.stop().await?;
        counted.unharmed(1)?;
        ensure!(
            counted.peak_connects_per_s <= BUDGET,
            "{} first connects in one second: {counted:?}",
            counted.peak_connects_per_s
        );
        ensure!(
            done.unannounced.unwrap_or_default() == 0,
            "{:?}",
            done.unannounced
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn two_releases_in_a_row_go_there_and_back() {
    harness::run("pingpong", async |case| {
        case.serve(&App::version("v1")).await?;
        let mut load = case.load(200).await?;
        case.apply(&App::version("v2")).await?;
        let first = case.until_released(1, RELEASE).await?;
        let (v2, v1) = revisions(&first);
        load.until_all_on(&v2, Duration::from_secs(5)).await?;

        // In the monitoring window of the first: the very template that was left.
        case.apply(&App::version("v1")).await?;
        let second = case.until_released(2, RELEASE).await?;
        ensure!(revisions(&second) == (v1.clone(), v2), "{:?}", second.release);
        load.until_all_on(&v1, Duration::from_secs(5)).await?;
        load.stop().await?.unharmed(2)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn without_a_hint_sessions_move_once_at_the_last_step() {
    harness::run("nohint", async |case| {
        let app = |version| {
            App::version(version)
                .patch(serde_json::json!({
                    "spec": {"drain": {"notice": {"hint": "None"}}}
                }))
                .steps(&serde_json::json!([
                    {"weight": 50, "pause": {"duration": "2s"}, "moveSessions": "None"},
                    {"weight": 100, "pause": {"duration": "2s"}},
                ]))
        };
        case.serve(&app("v1")).await?;
        let mut load = case.load(200).await?;
        case.apply(&app("v2")).await?;
        let done = case.until_released(1, RELEASE).await?;
        let early = case
            .statuses()
            .iter()
            .filter(|s| weight_of(s) < 100)
            .filter_map(|s| s.drain.as_ref().map(|d| d.notified))
            .max();
        ensure!(
            early.unwrap_or_default() == 0,
            "{early:?} sessions were told before the last step"
        );
        load.until_all_on(&revisions(&done).0, Duration::from_secs(5))
            .await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

/// The new and the old revision of a release that is done.
fn revisions(status: &wsroll::api::RolloutStatus) -> (String, String) {
    match &status.release {
        Some(release) => (release.canary.clone(), release.stable.clone()),
        None => (status.stable.clone().unwrap_or_default(), String::new()),
    }
}

/// The weights of the release in their order.
fn steps(statuses: &[wsroll::api::RolloutStatus]) -> Vec<i32> {
    let mut weights: Vec<i32> = statuses
        .iter()
        .filter(|s| s.release.is_some() && s.weight.is_some())
        .map(weight_of)
        .collect();
    weights.dedup();
    weights
}

/// By the pods' own account: whoever was moved is back, where it was led to, with its state.
fn accounted_for(status: &wsroll::api::RolloutStatus) -> Result<()> {
    let returned = status.drain.as_ref().and_then(|d| d.returned.clone());
    let Some(told) = returned else {
        anyhow::bail!("nothing is told of those who were moved: {:?}", status.drain);
    };
    ensure!(
        told.moved == 300 && told.back == told.moved && told.on_target == told.moved && told.strays == 0,
        "{told:?}"
    );
    ensure!(
        told.resumed == told.moved && told.not_resumed == 0 && told.missing == 0 && told.lost_events == 0,
        "{told:?}"
    );
    Ok(())
}

/// A weight moves nobody: at the end of each early step the sessions have been moved by drain, within a fifth of the share.
fn early_steps_moved_their_share(statuses: &[wsroll::api::RolloutStatus]) -> Result<()> {
    for (step, share) in [("1/3", 10), ("2/3", 50)] {
        let watched = statuses
            .iter()
            .rfind(|s| s.phase.as_deref() == Some("Analysing") && s.step.as_deref() == Some(step));
        let Some(status) = watched else {
            anyhow::bail!("step {step} was never watched");
        };
        let sessions = |role: &str| -> i64 {
            let of_role = status.revisions.iter().filter(|r| r.role == role);
            of_role.map(|r| r.sessions).sum()
        };
        let total = sessions("canary") + sessions("stable");
        ensure!(
            sessions("canary") * 100 >= total * share * 8 / 10,
            "step {step} moved {} of {total} sessions",
            sessions("canary")
        );
    }
    Ok(())
}
