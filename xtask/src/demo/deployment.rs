//! The same service, the same change, the ordinary way: a Deployment's rolling update.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    figures::Side,
    load::Load,
    manifests::{PLAIN, Version},
    setup::{Stage, patience},
    table::{Row, Table},
};
use crate::{
    shell,
    wait::{self, Stopwatch},
};

/// How long sessions may take to come back after the update.
const STRAGGLERS: Duration = Duration::from_secs(60);

/// `kubectl rollout status`, in the background. Dropping it ends it.
struct Update(Child);

/// Plays it.
pub fn play(stage: &Stage) -> Result<Side> {
    let (old, new) = (Version::good("v1"), Version::good("v2"));
    stage.apply(&stage.deployment_surroundings())?;
    stage.apply(&stage.deployment(&old))?;
    shell::step("pods of the Deployment", || stage.await_deployment(PLAIN))?;
    let mut load = Load::arrive(stage, PLAIN)?;
    // Its pods know no revision: the service gives the version's name instead.
    let names = [&old, &new].map(|version| (version.name.to_owned(), version.name.to_owned()));

    let clock = Stopwatch::start();
    stage.apply(&stage.deployment(&new))?;
    let mut update = Update::watch(stage)?;
    let mut table = Table::new(stage.voice);
    let mut updated: Option<Stopwatch> = None;
    let (row, there) = loop {
        let line = load.now()?;
        if updated.is_none() && update.is_done()? {
            updated = Some(Stopwatch::start());
        }
        ensure!(
            updated.is_some() || clock.elapsed() < patience(stage.size.pods),
            "the Deployment's update does not end"
        );
        let row = Row {
            phase: if updated.is_some() { "Updated" } else { "Updating" }.to_owned(),
            ..Row::of_load(clock.elapsed(), &line, &names)
        };
        let there = line.revisions.get(new.name).copied().unwrap_or_default();
        if updated.is_some_and(|since| there >= stage.size.sessions || since.elapsed() > STRAGGLERS) {
            break (row, there);
        }
        table.show(&row);
        wait::sleep(Duration::from_millis(500));
    };
    table.end(&row);
    let summary = load.leave()?;
    Ok(Side {
        release_s: row.elapsed.as_secs_f64(),
        ..Side::of(&summary, there)
    })
}

// === impl Update ===

impl Update {
    fn watch(stage: &Stage) -> Result<Self> {
        stage
            .kubectl()
            .args(["rollout", "status", "deployment", PLAIN, "--watch"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .context("failed to watch the Deployment")
    }

    /// Whether all pods are new and ready.
    fn is_done(&mut self) -> Result<bool> {
        let Some(status) = self.0.try_wait().context("failed to watch the Deployment")? else {
            return Ok(false);
        };
        ensure!(status.success(), "the Deployment's update failed: {status}");
        Ok(true)
    }
}

impl Drop for Update {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
