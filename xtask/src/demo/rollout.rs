//! The rollout as the cluster tells it: a watch in the background, the last status at hand.

use std::{
    io::Read,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{manifests::ROLLOUT, setup::Stage};

/// What the demo reads of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Rollout {
    metadata: Metadata,
    /// Its status.
    #[serde(default)]
    pub status: Status,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct Metadata {
    generation: i64,
}

/// What the demo reads of its status; `api::status` of wsroll says what each means.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    observed_generation: i64,
    /// The phase in one word.
    pub phase: String,
    /// The step as people count.
    pub step: Option<String>,
    /// The revision that users are on.
    pub stable: Option<String>,
    /// The release under way.
    pub release: Option<Release>,
    /// Releases so far.
    pub releases: u64,
    /// Weight of the new revision.
    pub weight: Option<Weight>,
    /// The moves of this release.
    pub drain: Option<Drain>,
    /// The last verdict.
    pub verdict: Option<Verdict>,
    /// A template that failed.
    pub rejected: Option<Rejected>,
    /// Releases that ended, newest first.
    pub history: Vec<PastRelease>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// The release under way.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The revision users go to.
    pub canary: String,
    /// How long the gateway took to program the pins route, in milliseconds.
    pub programming_ms: Option<u64>,
}

/// Percentage of new connections for the new revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Weight {
    /// What the routes shall say.
    pub desired: i32,
    /// What the gateway was seen to do.
    pub programmed: Option<i32>,
}

/// Sessions moved in this release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drain {
    /// Seconds until the wave ends.
    pub eta_seconds: Option<i64>,
    /// Milliseconds in which waves were under way.
    pub active_ms: i64,
}

/// What was decided, and on what grounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// The threshold.
    pub reason: String,
    /// One sentence with its numbers.
    pub message: String,
}

/// A template that is not tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Rejected {
    /// Hash of the template.
    pub hash: String,
    /// Why.
    pub message: String,
}

/// A release that ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastRelease {
    /// The revision it shipped.
    pub revision: String,
    /// `Completed`, `RolledBack` or `Superseded`.
    pub result: String,
    /// Time from the verdict to the weights' being back, in milliseconds.
    pub verdict_to_weights_ms: Option<i64>,
}

/// A condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
}

/// The rollout, watched.
#[derive(Debug)]
pub struct Watch<'a> {
    stage: &'a Stage,
    child: Child,
    seen: Arc<Mutex<Option<Rollout>>>,
    ended: Arc<AtomicBool>,
}

// === impl Rollout ===

impl Rollout {
    /// Whether the status speaks of the spec as it is.
    pub fn is_observed(&self) -> bool {
        self.status.observed_generation >= self.metadata.generation
    }

    /// Whether it has come to rest, apart from a monitoring window.
    pub fn has_ended(&self) -> bool {
        self.is_observed() && matches!(&*self.status.phase, "Healthy" | "Soaking" | "RolledBack")
    }
}

// === impl Status ===

impl Status {
    /// What does not go well, in the operator's words.
    pub fn complaints(&self) -> Vec<String> {
        let complains = |condition: &&Condition| match &*condition.kind {
            "Stalled" => condition.status == "True",
            "Ready" | "ProbesReady" => condition.status == "False",
            _ => false,
        };
        self.conditions
            .iter()
            .filter(complains)
            .map(|condition| format!("{}={}: {}", condition.kind, condition.status, condition.message))
            .collect()
    }
}

// === impl Watch ===

impl<'a> Watch<'a> {
    /// Begins to watch. The rollout must be there.
    pub fn start(stage: &'a Stage) -> Result<Self> {
        let seen = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let child = follow(stage, &seen, &ended)?;
        Ok(Self {
            stage,
            child,
            seen,
            ended,
        })
    }

    /// The rollout as last seen.
    pub fn now(&mut self) -> Result<Rollout> {
        if self.ended.swap(false, Ordering::Relaxed) {
            // Watches end by themselves now and then.
            let _ = self.child.wait();
            self.child = follow(self.stage, &self.seen, &self.ended)?;
        }
        lock(&self.seen)
            .clone()
            .context("the rollout has not been seen yet")
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stage: &Stage, seen: &Arc<Mutex<Option<Rollout>>>, ended: &Arc<AtomicBool>) -> Result<Child> {
    let mut child = stage
        .kubectl()
        .args(["get", "websocketrollout", ROLLOUT, "--output=json", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to watch the rollout")?;
    let output = child.stdout.take().context("kubectl has no output")?;
    let (seen, ended) = (seen.clone(), ended.clone());
    std::thread::spawn(move || {
        read(output, |rollout| *lock(&seen) = Some(rollout));
        ended.store(true, Ordering::Relaxed);
    });
    Ok(child)
}

/// Gives each of the objects that follow one another, until they end.
fn read(objects: impl Read, mut each: impl FnMut(Rollout)) {
    let objects = serde_json::Deserializer::from_reader(objects).into_iter::<Rollout>();
    for rollout in objects.map_while(Result::ok) {
        each(rollout);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A whole value is written at once, so it is whole even after a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        {"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "phase": "Healthy"}}
        {"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "phase": "RolledBack", "releases": 1,
         "rejected": {"hash": "bcd", "images": ["x"], "message": "mute"},
         "history": [{"revision": "bcd", "result": "RolledBack", "verdictToWeightsMs": 140, "drainMs": 0}],
         "conditions": [{"type": "Ready", "status": "True", "message": ""},
                        {"type": "Stalled", "status": "True", "message": "no pods"}]}}"#;

    #[test]
    fn objects_of_a_watch_are_read_one_by_one() {
        let mut seen = Vec::new();
        read(TWO.as_bytes(), |rollout| seen.push(rollout));
        assert_eq!(seen.len(), 2);
        assert!(!seen[0].has_ended(), "the status is of an older spec");
        assert!(seen[1].has_ended());
        let status = &seen[1].status;
        assert_eq!(status.history[0].verdict_to_weights_ms, Some(140));
        assert_eq!(status.complaints(), ["Stalled=True: no pods"]);
    }
}
