//! The same service, the same change, the ordinary way: a Deployment's rolling update.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    figures::Side,
    load::Load,
    manifests::{PLAIN, Version},
    release::await_sessions,
    setup::{Stage, patience},
    table::{Row, Table},
};
use crate::{
    shell,
    wait::{self, Stopwatch},
};

/// Plays it.
pub fn play(stage: &Stage) -> Result<Side> {
    let (old, new) = (Version::good("v1"), Version::good("v2"));
    stage.apply(&stage.deployment_surroundings())?;
    stage.apply(&stage.deployment(&old))?;
    shell::step("pods of the Deployment", || stage.await_deployment(PLAIN))?;
    let mut load = Load::arrive(stage, PLAIN)?;
    // Its pods know no revision: the service gives the version's name instead.
    let names = [&old, &new].map(|version| (version.name.to_owned(), version.name.to_owned()));

    stage.apply(&stage.deployment(&new))?;
    let clock = Stopwatch::start();
    let mut update = stage
        .kubectl()
        .args(["rollout", "status", "deployment", PLAIN, "--watch"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to watch the Deployment")?;
    let mut table = Table::new(stage.voice);
    loop {
        let ended = update.try_wait().context("failed to watch the Deployment")?;
        let line = load.now();
        if line.is_err() || clock.elapsed() > patience(stage.size.pods) {
            // Not ours to leave behind, whatever happened.
            let _ = update.kill();
            let _ = update.wait();
        }
        let row = Row {
            phase: "Updating".to_owned(),
            ..Row::of_load(clock.elapsed(), &line?, &names)
        };
        if let Some(status) = ended {
            ensure!(status.success(), "the Deployment's update failed: {status}");
            break;
        }
        table.show(&row);
        wait::sleep(Duration::from_millis(500));
    }
    let there = await_sessions(stage, &mut load, new.name, Duration::from_secs(60))?;
    let took = clock.elapsed();
    table.end(&Row {
        phase: "Updated".to_owned(),
        ..Row::of_load(took, &load.now()?, &names)
    });
    let summary = load.leave()?;
    Ok(Side {
        release_s: took.as_secs_f64(),
        ..Side::of(&summary, there)
    })
}
