//! The rehearsal of a revision in a cluster: the scenarios in turn, and the operator as their stage.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::job::{ProbeJob, RehearsalJob};
use super::scenario::{self, Setting};
use super::stage::Cluster;
use crate::engine::evidence::{RehearsalActs, RehearsalReport, RehearsalStage};
use crate::session::ConfigError;

/// A rehearsal that runs, as its supervisor sees it.
#[derive(Debug, Clone)]
pub(super) struct Rehearsal {
    run: String,
    sessions: u32,
    board: Board,
    acts: watch::Sender<RehearsalActs>,
}

/// All that one run needs.
pub(super) struct Play {
    set: Setting,
    stage: Cluster,
    view: Rehearsal,
}

// === impl Rehearsal ===

impl Rehearsal {
    pub(super) fn report(&self) -> RehearsalReport {
        let (figures, stable) = self.board.figures();
        RehearsalReport {
            run: self.run.clone(),
            stage: self.board.stage(),
            sessions: self.sessions,
            figures,
            scenarios: self.board.scenarios(),
            stable,
        }
    }

    /// What the operator has done meanwhile.
    pub(super) fn tell(&self, acts: &RehearsalActs) {
        self.acts.send_if_modified(|told| {
            let news = told != acts;
            told.clone_from(acts);
            news
        });
    }
}

// === impl Play ===

impl Play {
    pub(super) fn new(job: &ProbeJob, rehearsal: &RehearsalJob) -> Result<Self, ConfigError> {
        let mut set = Setting::new(&job.dial, rehearsal.timeouts)?;
        Arc::make_mut(&mut set.config).ordered_code = rehearsal.close_code;
        let (acts, told) = watch::channel(rehearsal.acts.clone());
        let board = Board::new(job.since);
        Ok(Self {
            set: Setting {
                sessions: job.sessions,
                close_code: rehearsal.close_code,
                success_floor_percent: rehearsal.success_floor_percent,
                canary_revision: rehearsal.canary_revision.clone(),
                two_revisions: true,
                connects_per_second: rehearsal.connects_per_second,
                // A version that failed one has failed: users, and the pods it holds, wait for the verdict.
                stop_at_failure: true,
                ..set
            },
            stage: Cluster {
                job: rehearsal.clone(),
                board: board.clone(),
                acts: told,
            },
            view: Rehearsal {
                run: job.run.clone(),
                sessions: job.sessions,
                board,
                acts,
            },
        })
    }

    pub(super) fn view(&self) -> Rehearsal {
        self.view.clone()
    }

    /// Plays all scenarios; the view has the outcome, unless the run is cancelled before.
    pub(super) async fn run(self, cancelled: CancellationToken) {
        let Self { set, stage, view } = self;
        let mut walks = Vec::new();
        let scenarios = stage.job.scenarios.clone();
        let play = scenario::play(&set, &scenarios, &stage, &view.board, &mut walks);
        match cancelled.run_until_cancelled(play).await {
            Some(None) => view.board.enter(RehearsalStage::Passed),
            Some(Some(failure)) => {
                tracing::info!(run = view.run, check = failure.check, "rehearsal failed");
                view.board.enter(RehearsalStage::Failed(failure));
            }
            None => {}
        }
        scenario::dismiss(&mut walks).await;
    }
}
