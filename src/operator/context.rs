//! What every round shares: the client, caches of what is watched, and the little that is remembered between rounds.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Api, Client};
use tokio::time::{Instant, timeout};

use super::error::{Error, Result};
use super::lease::LeaseGuard;
use crate::analysis::Gatherer;
use crate::api::WebSocketRollout;
use crate::drain::accounting::Happened;
use crate::drain::protocol::DrainProgress;
use crate::drain::{DrainClient, GaugeClient, Token};
use crate::engine::evidence::ProbeFigures;
use crate::engine::observed::{Cut, Look};
use crate::outbound::Policy;
use crate::probe::ProbeSupervisor;
use crate::report::audit::{self, Ledger, Trail};
use crate::report::events::Publisher;
use crate::report::metrics::Metrics;
use crate::session::Met;
use crate::traffic::gateway_api::HTTPRoute;

/// How long an API call may take.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A rollout as it is watched: one that cannot be read does not stop the watch.
pub type Guarded = DeserializeGuard<WebSocketRollout>;

/// What every round shares.
pub struct Context {
    /// The API.
    pub client: Client,
    /// Permission to write.
    pub lease: LeaseGuard,
    /// Caches.
    pub stores: Stores,
    /// The operator's side of the drain protocol.
    pub drain: DrainClient,
    /// Reads the sessions of pods without the protocol from their metrics.
    pub gauges: GaugeClient,
    /// Asks other systems of new revisions.
    pub analysis: Gatherer,
    /// The embedded probes.
    pub probes: ProbeSupervisor,
    /// Events.
    pub events: Publisher,
    /// Metrics.
    pub metrics: Metrics,
    /// The audit trail.
    pub audit: Trail,
    /// Whether the stories of releases are kept in ConfigMaps.
    pub keeps_stories: bool,
    /// Image of sidecars where a rollout names none.
    pub sidecar_image: Option<String>,
    /// Which hosts the URLs of rollouts may name.
    pub outbound: Arc<Policy>,
    /// Keys of hashes that leave no trace of what was hashed.
    hasher: std::hash::RandomState,
    /// The wall clock.
    pub now: fn() -> Timestamp,
    /// Per rollout, by `namespace/name`.
    memory: Mutex<HashMap<String, Arc<Mutex<Memory>>>>,
}

/// Caches of what is watched.
#[derive(Clone)]
pub struct Stores {
    /// All rollouts.
    pub rollouts: Store<Guarded>,
    /// ReplicaSets that carry our label.
    pub replica_sets: Store<ReplicaSet>,
    /// Pods that carry our label.
    pub pods: Store<Pod>,
    /// All Services: others may select our pods.
    pub services: Store<Service>,
    /// All HTTPRoutes.
    pub routes: Store<HTTPRoute>,
}

/// What is remembered of a rollout between rounds. Nothing of it decides: a restarted operator goes on without.
#[derive(Default)]
pub struct Memory {
    /// Drain tokens by revision.
    pub tokens: HashMap<String, Token>,
    /// What the probes show of themselves.
    pub credentials: super::credentials::Credentials,
    /// The last look through the gateway.
    pub look: Option<Look>,
    /// Pods as they were last seen, by UID.
    pub pods: HashMap<String, LastSeen>,
    /// Cuts that no status has told yet.
    pub cuts: Vec<Cut>,
    /// Unannounced ends that no status has told yet.
    pub unannounced: u64,
    /// What probes had seen when they were last counted: by target, with the run's beginning.
    pub counted_probes: HashMap<String, (Timestamp, ProbeFigures)>,
    /// The outcome of the template's dry run, by revision, and when it was tried.
    pub dry_run: Option<(String, Option<String>, Instant)>,
    /// The account of moved sessions.
    pub account: super::accounting::Account,
    /// Sessions of probes that the account does not know yet.
    pub met: Met,
    /// What the audit trail was told.
    pub ledger: Ledger,
    /// What it has not been told yet: sessions that ended with their process,
    pub audited_cuts: Vec<audit::Cut>,
    /// … sessions that came and went,
    pub happened: Vec<Happened>,
    /// … and what pods said in this round of the orders they follow, by UID.
    pub drains: Vec<(String, DrainProgress)>,
    /// The stories of the last releases.
    pub stories: super::stories::Kept,
    /// When status was last written.
    pub written: Option<Instant>,
    /// Failed rounds in a row.
    pub failures: u32,
    /// The phase that metrics show.
    pub phase: Option<String>,
}

/// A pod as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// Its name.
    pub name: String,
    /// Its process.
    pub instance: String,
    /// Its revision.
    pub revision: Option<String>,
    /// Open sessions.
    pub open: u64,
    /// Whether it was chosen to be deleted, by its cost.
    pub retired: bool,
    /// Whether it was on its way out by our own order to its SIGTERM handler: how its sessions end is the application's affair.
    pub dismissed: bool,
}

// === impl Context ===

impl Context {
    /// Puts a context together.
    pub fn new(
        client: Client,
        lease: LeaseGuard,
        stores: Stores,
        drain: DrainClient,
        gauges: GaugeClient,
        events: Publisher,
        metrics: Metrics,
    ) -> Self {
        Self {
            client,
            lease,
            stores,
            drain,
            gauges,
            analysis: Gatherer::new(Arc::default()),
            probes: ProbeSupervisor::new(),
            events,
            metrics,
            audit: Trail::default(),
            keeps_stories: false,
            sidecar_image: None,
            outbound: Arc::default(),
            hasher: std::hash::RandomState::new(),
            now: Timestamp::now,
            memory: Mutex::default(),
        }
    }

    /// The same with an image for sidecars.
    #[must_use]
    pub fn sidecars_of(self, image: Option<String>) -> Self {
        Self {
            sidecar_image: image,
            ..self
        }
    }

    /// The same with an audit trail, and with stories where they are wanted.
    #[must_use]
    pub fn told_to(self, audit: Trail, keeps_stories: bool) -> Self {
        Self {
            audit,
            keeps_stories,
            ..self
        }
    }

    /// The same with another policy for the URLs of rollouts.
    #[must_use]
    pub fn outbound_by(self, policy: Policy) -> Self {
        let outbound = Arc::new(policy);
        Self {
            analysis: Gatherer::new(Arc::clone(&outbound)),
            outbound,
            ..self
        }
    }

    /// The memory of a rollout.
    pub fn memory(&self, key: &str) -> Arc<Mutex<Memory>> {
        let mut all = self
            .memory
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        all.entry(key.to_owned()).or_default().clone()
    }

    /// Forgets a rollout.
    pub fn forget(&self, key: &str) {
        self.memory
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(key);
    }

    /// Rollouts of a namespace.
    pub fn rollouts(&self, namespace: &str) -> Api<WebSocketRollout> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Reads, with a limit.
    pub async fn read<T>(
        &self,
        call: &'static str,
        future: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        match timeout(CALL_LIMIT, future).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => {
                let error = Error::api(call, source);
                self.metrics.reconcile.api_error(call, error.category());
                Err(error)
            }
            Err(_) => {
                self.metrics.reconcile.api_error(call, "Timeout");
                Err(Error::Timeout {
                    call,
                    limit: CALL_LIMIT,
                })
            }
        }
    }

    /// Writes, with a limit, and only with a valid lease.
    pub async fn write<T>(
        &self,
        call: &'static str,
        future: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        self.permit()?;
        self.read(call, future).await
    }

    /// A hash that means something in this process only.
    pub fn hash(&self, value: &impl std::hash::Hash) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, value)
    }

    /// Stops a rollout's probes.
    pub fn stop_probes(&self, key: &str) {
        // Only a job can be refused; there is none.
        drop(self.probes.ensure(key, None));
        drop(self.analysis.observe(key, None));
    }

    /// Whether this process may write now.
    pub fn permit(&self) -> Result<()> {
        if self.lease.valid(Instant::now()) {
            Ok(())
        } else {
            Err(Error::NotLeading)
        }
    }
}

/// Locks a rollout's memory; a poisoned one is as good as any, since nothing of it decides.
pub fn lock(memory: &Mutex<Memory>) -> std::sync::MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
