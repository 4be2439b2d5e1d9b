//! Probes in the background: started, kept and stopped by the name of their run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fleet::Company;
use super::job::{FleetJob, ProbeJob, ProbeKind};
use super::record::Recorder;
use super::rehearsal::{Play, Rehearsal};
use crate::engine::evidence::{ProbeEvidence, ProbeTarget, RehearsalReport};
use crate::session::ConfigError;

/// Runs probes for any number of rollouts, one run at a time for each.
#[derive(Debug, Default)]
pub struct ProbeSupervisor {
    running: Mutex<HashMap<String, Running>>,
    tasks: TaskTracker,
}

/// What a run has seen until now.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeObservation {
    /// The run.
    pub run: String,
    /// What it saw.
    pub seen: Seen,
}

/// What a run saw, by its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A rehearsal.
    Rehearsal(Box<RehearsalReport>),
    /// A fleet, one entry per target.
    Fleet(Vec<ProbeEvidence>),
}

#[derive(Debug)]
struct Running {
    run: String,
    cancel: CancellationToken,
    view: View,
}

#[derive(Debug)]
enum View {
    Rehearsal(Rehearsal),
    Fleet {
        recorders: Vec<(ProbeTarget, Recorder)>,
        window: Duration,
    },
}

// === impl ProbeSupervisor ===

impl ProbeSupervisor {
    /// A supervisor without runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the run under this key the one that the job names: starts it, keeps it, replaces another, or stops it
    /// when there is no job. A rehearsal that is kept hears what the operator has done. Must be called within a tokio runtime. An error leaves what runs as it is.
    pub fn ensure(&self, key: &str, job: Option<ProbeJob>) -> Result<(), ConfigError> {
        let mut running = self.lock();
        let Some(job) = job else {
            if let Some(stopped) = running.remove(key) {
                stopped.cancel.cancel();
            }
            return Ok(());
        };
        if let Some(now) = running.get(key).filter(|now| now.run == job.run) {
            if let (View::Rehearsal(rehearsal), ProbeKind::Rehearsal(job)) = (&now.view, &job.kind) {
                rehearsal.tell(&job.acts);
            }
            return Ok(());
        }
        let started = self.start(&job)?;
        if let Some(replaced) = running.insert(key.to_owned(), started) {
            replaced.cancel.cancel();
        }
        Ok(())
    }

    /// What the run under this key has seen.
    pub fn observe(&self, key: &str) -> Option<ProbeObservation> {
        let running = self.lock();
        let Running { run, view, .. } = running.get(key)?;
        Some(ProbeObservation {
            run: run.clone(),
            seen: view.seen(Instant::now()),
        })
    }

    /// Stops all runs and waits until their sockets are closed.
    pub async fn shutdown(&self) {
        for (_, stopped) in self.lock().drain() {
            stopped.cancel.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(&self, job: &ProbeJob) -> Result<Running, ConfigError> {
        let cancel = CancellationToken::new();
        let view = match &job.kind {
            ProbeKind::Rehearsal(rehearsal) => {
                let play = Play::new(job, rehearsal)?;
                let view = play.view();
                self.tasks.spawn(play.run(cancel.clone()));
                View::Rehearsal(view)
            }
            ProbeKind::Fleet(fleet) => self.start_fleet(job, fleet, &cancel)?,
        };
        tracing::debug!(run = job.run, sessions = job.sessions, "probes started");
        Ok(Running {
            run: job.run.clone(),
            cancel,
            view,
        })
    }

    fn start_fleet(
        &self,
        job: &ProbeJob,
        fleet: &FleetJob,
        cancel: &CancellationToken,
    ) -> Result<View, ConfigError> {
        let mut config = job.dial.config("fleet")?;
        config.welcome_timeout = fleet.health_timeout;
        config.answer_timeout = Some(fleet.health_timeout);
        config.profiles = fleet.profiles;
        let config = Arc::new(config);
        let mut recorders = Vec::with_capacity(fleet.targets.len());
        for (target, pin) in &fleet.targets {
            let company = Company {
                config: config.clone(),
                token: job.dial.token.clone(),
                pin: pin.clone(),
                recorder: Recorder::new(job.since),
                recycle: fleet.recycle,
                sessions: job.sessions,
            };
            recorders.push((*target, company.recorder.clone()));
            for place in 0..job.sessions {
                self.tasks.spawn(company.clone().run(place, cancel.child_token()));
            }
        }
        Ok(View::Fleet {
            recorders,
            window: fleet.window,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl View ===

impl View {
    fn seen(&self, now: Instant) -> Seen {
        match self {
            Self::Rehearsal(rehearsal) => Seen::Rehearsal(Box::new(rehearsal.report())),
            Self::Fleet { recorders, window } => Seen::Fleet(
                recorders
                    .iter()
                    .map(|(target, recorder)| recorder.evidence(*target, *window, now))
                    .collect(),
            ),
        }
    }
}
