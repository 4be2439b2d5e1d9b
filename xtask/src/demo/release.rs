//! Shipping a version with wsroll, watched to its end.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{
    figures::Verdict,
    load::Load,
    manifests::{PAUSE_S, STEPS, Version},
    rollout::{Rollout, Status, Watch},
    setup::{Stage, patience},
    table::{Row, Table},
};
use crate::{
    interrupt,
    wait::{self, Stopwatch},
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// How a release ended.
#[derive(Debug)]
pub struct Ending {
    /// The last status.
    pub status: Status,
    /// The new version's revision.
    pub revision: String,
    /// From apply to the end.
    pub took: Duration,
    /// Since a rollback was first seen.
    pub rolling_back: Option<Stopwatch>,
}

// === impl Ending ===

impl Ending {
    /// `Completed` or `RolledBack`, and why.
    pub fn verdict(&self) -> Verdict {
        let rolled_back = self.status.phase == "RolledBack";
        let why = match (&self.status.rejected, &self.status.verdict) {
            (Some(rejected), _) if rolled_back && rejected.hash == self.revision => rejected.message.clone(),
            (_, Some(verdict)) => verdict.message.clone(),
            _ => String::new(),
        };
        Verdict {
            result: if rolled_back { "RolledBack" } else { "Completed" }.to_owned(),
            why,
        }
    }

    /// From the verdict to the weights' being back, as the operator measured it, in milliseconds.
    pub fn verdict_to_weights_ms(&self) -> Option<i64> {
        let past = self.status.history.first()?;
        (past.revision == self.revision)
            .then_some(past.verdict_to_weights_ms)
            .flatten()
    }
}

/// Ships `new` over `old`, shows it live, and gives how it ended.
pub fn ship(
    stage: &Stage,
    watch: &mut Watch<'_>,
    load: &mut Load,
    old: &Version,
    new: &Version,
) -> Result<Ending> {
    let before = watch.now()?.status;
    let stable = before.stable.clone().unwrap_or_default();
    let clock = Stopwatch::start();
    stage.apply(&stage.rollout(new))?;
    let mut table = Table::new(stage.voice);
    let mut names = vec![(stable, old.name.to_owned())];
    let mut rolling_back = None;
    loop {
        let (rollout, line) = (watch.now()?, load.now()?);
        let status = &rollout.status;
        let begun = status.releases > before.releases;
        let canary = status.release.as_ref().filter(|_| begun);
        if let (Some(release), 1) = (canary, names.len()) {
            names.push((release.canary.clone(), new.name.to_owned()));
        }
        if status.phase == "RollingBack" && rolling_back.is_none() {
            rolling_back = Some(Stopwatch::start());
        }
        let row = Row::of_rollout(clock.elapsed(), status, &line, &names);
        if begun && rollout.has_ended() {
            table.end(&row);
            return Ok(Ending {
                revision: names.get(1).map(|(hash, _)| hash.clone()).unwrap_or_default(),
                status: rollout.status,
                took: clock.elapsed(),
                rolling_back,
            });
        }
        table.show(&row);
        if clock.elapsed() > limit(stage) {
            table.end(&row);
            bail!("{} is still {}: {}", new.name, row.phase, reasons(&rollout));
        }
        wait::sleep(LOOK);
    }
}

/// Waits until the rollout is `Healthy`.
pub fn await_healthy(stage: &Stage, watch: &mut Watch<'_>) -> Result<Rollout> {
    let clock = Stopwatch::start();
    loop {
        interrupt::check()?;
        let seen = watch.now();
        match &seen {
            Ok(rollout) if rollout.is_observed() && rollout.status.phase == "Healthy" => return seen,
            _ => {}
        }
        ensure!(
            clock.elapsed() < patience(stage.size.pods),
            "the rollout does not become Healthy: {}",
            match &seen {
                Ok(rollout) => format!("{}; {}", rollout.status.phase, reasons(rollout)),
                Err(error) => format!("{error:#}"),
            }
        );
        wait::sleep(LOOK);
    }
}

/// Waits until all sessions are on a revision; gives how many are.
pub fn await_sessions(stage: &Stage, load: &mut Load, revision: &str, limit: Duration) -> Result<u32> {
    let clock = Stopwatch::start();
    loop {
        let there = load.now()?.revisions.get(revision).copied().unwrap_or_default();
        if there >= stage.size.sessions || clock.elapsed() > limit {
            return Ok(there);
        }
        wait::sleep(LOOK);
    }
}

/// How long a release may take: pauses, pods, and several times its drain.
fn limit(stage: &Stage) -> Duration {
    let drain = 6 * u64::from(stage.size.sessions / stage.size.budget.max(1));
    let pauses = 3 * PAUSE_S * STEPS.len() as u64;
    Duration::from_secs(drain + pauses) + 2 * patience(stage.size.pods)
}

fn reasons(rollout: &Rollout) -> String {
    let complaints = rollout.status.complaints();
    if complaints.is_empty() {
        "the operator's log may say why".to_owned()
    } else {
        complaints.join("; ")
    }
}
