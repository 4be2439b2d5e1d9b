//! The rollout's status, every change of it: tests wait for what they expect, and can look back at what was there before.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use wsroll::api::WebSocketRollout;
use wsroll::api::status::RolloutStatus;

use super::{Case, NAME};

/// Every version of the rollout that was seen, oldest first.
pub struct History {
    seen: watch::Receiver<Vec<(Timestamp, WebSocketRollout)>>,
    task: tokio::task::JoinHandle<()>,
}

impl History {
    /// Begins to watch.
    pub fn watch(client: Client, namespace: &str) -> Self {
        let api: Api<WebSocketRollout> = Api::namespaced(client, namespace);
        let (send, seen) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
            let stream = watcher(api, config).default_backoff().applied_objects();
            let mut stream = std::pin::pin!(stream);
            loop {
                match stream.try_next().await {
                    Ok(Some(rollout)) => send.send_modify(|list| list.push((Timestamp::now(), rollout))),
                    // Before the definition is there, or while the API server is busy: the watcher tries again.
                    Err(_) => {}
                    Ok(None) => return,
                }
            }
        });
        Self { seen, task }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Case {
    /// Waits until the rollout, as applied last, is as expected; fails with what it was instead.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        expected: impl Fn(&RolloutStatus) -> bool,
    ) -> Result<RolloutStatus> {
        self.until_or(what, within, expected, |_| false).await
    }

    /// The same, and fails as soon as `hopeless` holds.
    pub async fn until_or(
        &self,
        what: &str,
        within: Duration,
        expected: impl Fn(&RolloutStatus) -> bool,
        hopeless: impl Fn(&RolloutStatus) -> bool,
    ) -> Result<RolloutStatus> {
        let mut seen = self.history.seen.clone();
        let end = tokio::time::Instant::now() + within;
        loop {
            let last = seen.borrow_and_update().last().cloned();
            let status = last.and_then(|(_, r)| {
                let current = r.status.as_ref()?.observed_generation == r.metadata.generation;
                current.then_some(r.status).flatten()
            });
            if let Some(status) = &status {
                if expected(status) {
                    return Ok(status.clone());
                }
                if hopeless(status) {
                    bail!("waited for {what}, came to {}", one_line(status));
                }
            }
            if !matches!(tokio::time::timeout_at(end, seen.changed()).await, Ok(Ok(()))) {
                let now = status.as_ref().map_or_else(|| "no status".to_owned(), one_line);
                bail!("waited {within:?} for {what}; it is {now}");
            }
        }
    }

    /// Waits for a phase; a rollback that was not waited for fails at once.
    pub async fn until_phase(&self, phase: &str, within: Duration) -> Result<RolloutStatus> {
        let back = ["RollingBack", "RolledBack"];
        let hopeless = !back.contains(&phase);
        self.until_or(
            phase,
            within,
            |s| s.phase.as_deref() == Some(phase),
            |s| hopeless && s.phase.as_deref().is_some_and(|p| back.contains(&p)),
        )
        .await
    }

    /// Waits for the end of the present release: its number is `number` and it is in its monitoring window or past it.
    pub async fn until_released(&self, number: u64, within: Duration) -> Result<RolloutStatus> {
        self.until_or(
            &format!("release {number} to be done"),
            within,
            |s| s.releases == number && matches!(s.phase.as_deref(), Some("Soaking" | "Healthy")),
            |s| matches!(s.phase.as_deref(), Some("RollingBack" | "RolledBack")),
        )
        .await
    }

    /// Waits for the rollback of the present release.
    pub async fn until_rolled_back(&self, within: Duration) -> Result<RolloutStatus> {
        self.until_or(
            "the rollback to be done",
            within,
            |s| s.phase.as_deref() == Some("RolledBack"),
            |s| matches!(s.phase.as_deref(), Some("Soaking" | "Finishing")),
        )
        .await
    }

    /// Every status that was seen, oldest first.
    pub fn statuses(&self) -> Vec<RolloutStatus> {
        let seen = self.history.seen.borrow();
        seen.iter().filter_map(|(_, r)| r.status.clone()).collect()
    }

    /// The greatest weight that the new revision was ever meant to get since release `number` began.
    pub fn greatest_weight(&self, number: u64) -> i32 {
        let of_release = |s: &&RolloutStatus| s.release.as_ref().is_some_and(|r| r.number == number);
        self.statuses()
            .iter()
            .filter(of_release)
            .map(weight_of)
            .max()
            .unwrap_or_default()
    }

    /// The phases that were seen, in their order, with their times.
    pub fn story(&self) -> String {
        let seen = self.history.seen.borrow();
        let mut told = String::new();
        let mut before = String::new();
        for (at, rollout) in seen.iter() {
            let status = rollout.status.clone().unwrap_or_default();
            let line = one_line(&status);
            let head: String = line.split(" · ").take(2).collect::<Vec<_>>().join(" · ");
            if head != before {
                let _ = writeln!(told, "  {at:.1} {line}");
                before = head;
            }
        }
        told
    }
}

/// The weight that the new revision is meant to get.
pub fn weight_of(status: &RolloutStatus) -> i32 {
    status.weight.as_ref().map_or(0, |w| w.desired)
}

/// Reason and message of a condition; empty where it is absent.
pub fn reason_of(status: &RolloutStatus, condition: &str) -> (bool, String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == condition);
    found.map_or_else(Default::default, |c| {
        (c.status == "True", c.reason.clone(), c.message.clone())
    })
}

fn one_line(status: &RolloutStatus) -> String {
    let phase = status.phase.as_deref().unwrap_or("-");
    let step = status.step.as_deref().unwrap_or("-");
    let weight = status
        .weight
        .as_ref()
        .map_or_else(|| "-".to_owned(), |w| format!("{}/{:?}", w.desired, w.programmed));
    let revisions: Vec<String> = status
        .revisions
        .iter()
        .map(|r| {
            format!(
                "{} {} {}/{} pods {} sessions",
                r.role, r.hash, r.ready, r.replicas, r.sessions
            )
        })
        .collect();
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .filter(|c| ["Ready", "Stalled"].contains(&c.type_.as_str()))
        .map(|c| format!("{}={} {} {:?}", c.type_, c.status, c.reason, c.message))
        .collect();
    format!(
        "{phase} {step} weight {weight} · wave {} · {} · {}",
        status.wave.as_ref().map_or("-", |w| w.id.as_str()),
        revisions.join(", "),
        conditions.join(", ")
    )
}
