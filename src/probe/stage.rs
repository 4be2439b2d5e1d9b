//! Where scenarios are played: who leads sessions somewhere, orders a drain, kills a pod. In a cluster the operator does it, on a
//! developer's machine commands do.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::board::Board;
use super::job::RehearsalJob;
use super::walk::Farewell;
use crate::engine::evidence::{RehearsalActs, RehearsalPods, RehearsalStage};
use crate::session::Pin;

/// How long an order's end is waited for; whoever comes back after that may be asked to leave once more.
const CALM: Duration = Duration::from_secs(10);

/// Where connects are led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the version that users are on.
    Old,
    /// To the version under test.
    New,
    /// To nobody: they are refused.
    Nobody,
}

/// An act that cannot be done here: one sentence that says why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined(pub String);

/// Who was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Victim {
    /// The pod of this name.
    Pod(String),
    /// The only process there is.
    All,
}

/// Does what probes cannot do themselves.
pub trait Stage: Sync {
    /// Leads what is dialled from now on, and what carries the pin that comes back, this way.
    fn lead(&self, way: Way) -> impl Future<Output = Result<Option<Pin>, Declined>> + Send;

    /// What [`drain`](Self::drain) must look like to a client.
    fn farewell(&self) -> Result<Farewell, Declined>;

    /// Has the service let go of its sessions; returns when that was ordered, not when they are gone.
    fn drain(&self) -> impl Future<Output = Result<(), Declined>> + Send;

    /// Takes back what was ordered, so that newcomers may stay.
    fn calm(&self) -> impl Future<Output = ()> + Send;

    /// Kills one process that carries none but these sessions, by pod.
    fn crash(&self, pods: RehearsalPods) -> impl Future<Output = Result<Victim, Declined>> + Send;

    /// Open sessions as the pods report them, by pod; who is not in it tells none.
    fn counted(&self) -> impl Future<Output = BTreeMap<String, u64>> + Send;
}

/// The operator as a stage: scenarios say in their report what they wait for, and the operator says what it did.
pub(super) struct Cluster {
    pub(super) job: RehearsalJob,
    pub(super) board: Board,
    pub(super) acts: watch::Receiver<RehearsalActs>,
}

// === impl Cluster ===

impl Cluster {
    /// Waits until the operator says that it acted.
    async fn acted<T>(
        &self,
        limit: Duration,
        done: impl Fn(&RehearsalActs) -> Option<Result<T, Declined>>,
    ) -> Result<T, Declined> {
        let mut acts = self.acts.clone();
        let wait = async {
            loop {
                if let Some(outcome) = done(&acts.borrow_and_update()) {
                    return outcome;
                }
                if acts.changed().await.is_err() {
                    return Err(Declined("the operator ended the rehearsal".to_owned()));
                }
            }
        };
        let outcome = timeout(limit, wait).await;
        outcome.unwrap_or_else(|_| {
            let why = self.acts.borrow().hindrance.clone();
            let why = why.unwrap_or_else(|| "the operator did not say why".to_owned());
            Err(Declined(format!(
                "it was waited for {} s: {why}",
                limit.as_secs()
            )))
        })
    }
}

impl Stage for Cluster {
    async fn lead(&self, way: Way) -> Result<Option<Pin>, Declined> {
        let pin = match way {
            Way::Old => self.job.stable_pin.clone(),
            Way::New => Some(self.job.canary_pin.clone()),
            Way::Nobody => self.job.nobody_pin.clone(),
        };
        match pin {
            Some(pin) => Ok(Some(pin)),
            None if way == Way::Old => Err(Declined("there is no version to come from".to_owned())),
            None => Err(Declined("there is no pin that leads to nobody".to_owned())),
        }
    }

    fn farewell(&self) -> Result<Farewell, Declined> {
        if !self.job.drains {
            let why = "its pods let go of sessions on SIGTERM only, and are not ended for a rehearsal: with drain.via Protocol or \
                       Sidecar it is played";
            return Err(Declined(why.to_owned()));
        }
        Ok(Farewell {
            code: Some(self.job.close_code),
            notices: self.job.notices,
        })
    }

    async fn drain(&self) -> Result<(), Declined> {
        self.board.enter(RehearsalStage::AwaitingDrain);
        let limit = self.job.timeouts.drain;
        self.acted(limit, |acts| acts.draining.then_some(Ok(()))).await
    }

    async fn calm(&self) {
        self.board.enter(RehearsalStage::Running);
        // Nobody is asked to leave twice for want of patience here.
        let _ = self.acted(CALM, |acts| (!acts.draining).then_some(Ok(()))).await;
    }

    async fn crash(&self, pods: RehearsalPods) -> Result<Victim, Declined> {
        if pods.pods.contains_key("") {
            let why =
                "the service does not name the pod that answers, so no pod is known to carry none but probes";
            return Err(Declined(why.to_owned()));
        }
        self.board.enter(RehearsalStage::AwaitingCrash(pods));
        let killed = |acts: &RehearsalActs| acts.crashed.clone().map(|pod| Ok(Victim::Pod(pod)));
        let killed = self.acted(self.job.timeouts.drain, killed).await;
        self.board.enter(RehearsalStage::Running);
        killed
    }

    async fn counted(&self) -> BTreeMap<String, u64> {
        self.acts.borrow().open.clone()
    }
}
