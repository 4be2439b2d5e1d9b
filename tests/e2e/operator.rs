//! The operator dies.

use std::time::Duration;

use crate::harness::{self, App};

/// A whole release with a stop in the middle, on two busy cores.
const RELEASE: Duration = Duration::from_secs(200);

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn killed_in_the_middle_of_a_wave_the_next_one_goes_on() {
    harness::run("killed", async |case| {
        case.serve(&App::version("v1").slowly()).await?;
        let mut load = case.load(200).await?;
        case.apply(&App::version("v2").slowly()).await?;
        let moving = case.until_in_wave(2, RELEASE).await?;
        case.kill_operator().await?;
        case.until_released(1, RELEASE).await?;
        let canary = moving.release.map(|r| r.canary).unwrap_or_default();
        load.until_all_on(&canary, Duration::from_secs(5)).await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn killed_while_it_rolls_back_the_next_one_goes_on() {
    harness::run("killed-back", async |case| {
        case.serve(&App::version("v1").slowly()).await?;
        let mut load = case.load(200).await?;
        case.apply(&App::version("v2").slowly()).await?;
        let moving = case.until_in_wave(2, RELEASE).await?;
        case.request(wsroll::api::status::Verb::Abort).await?;
        case.until_phase("RollingBack", Duration::from_secs(5)).await?;
        case.kill_operator().await?;
        case.until_rolled_back(RELEASE).await?;
        load.until_all_on(&moving.stable.unwrap_or_default(), Duration::from_secs(10))
            .await?;
        load.stop().await?.unharmed(2)
    })
    .await;
}
