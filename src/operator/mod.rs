//! The reconcile pipeline: observe, plan, apply, report. Only this room knows that there is a Kubernetes.
//!
//! - `observe` (with `sessions`, `accounting` and `problems`): one moment of the cluster
//! - `crate::engine::plan`: what it means
//! - `publish`: the status that names what will be done, events, metrics
//! - `trail` and `stories`: what can be read back later
//! - `apply` (with `probing`): the acts
//! - `finalize`: gives everything back when a rollout is deleted

mod accounting;
mod apply;
mod context;
mod credentials;
mod error;
mod finalize;
pub mod lease;
mod observe;
mod probing;
mod problems;
mod publish;
mod reconcile;
mod revisions;
mod sessions;
pub mod shutdown;
pub mod stories;
mod trail;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use kube::runtime::controller::{Config, Controller};
use kube::runtime::watcher;
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::cli::operator::OperatorArgs;
use crate::drain::{DrainClient, GaugeClient};
use crate::outbound::Policy;
use crate::report::audit::Trail;
use crate::report::events;
use crate::report::metrics::Metrics;
use crate::web::{self, Readiness};
use context::{Context, Guarded};

/// Rollouts that are reconciled at the same time.
const CONCURRENCY: u16 = 16;
/// Triggers of one rollout within this time become one round.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How long a pod may take to answer.
const POD_LIMIT: Duration = Duration::from_millis(1_500);
/// How long tasks have to end at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the operator until it is told to stop, or loses its lease.
pub async fn run(args: OperatorArgs) -> anyhow::Result<()> {
    let client = client().await?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::default();
    let shutdown = shutdown::Shutdown::new(readiness.clone(), GRACE);
    let signals = shutdown::signals().context("failed to listen for signals")?;

    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("failed to listen on {}", args.listen))?;
    let pages = web::router(readiness.clone(), Arc::new(registry));
    shutdown
        .lease_tasks()
        .spawn(web::serve(listener, pages, shutdown.lease()));

    let identity = std::env::var("HOSTNAME").unwrap_or_else(|_| format!("pid-{}", std::process::id()));
    let settings = lease::Settings::new(client.default_namespace(), identity.clone());
    let (elector, guard) = lease::Elector::new(client.clone(), settings);
    let (publisher, worker) =
        events::publisher(client.clone(), Some(identity), metrics.events_dropped.clone());
    let sinks = args.sinks().open().await?;
    let (audit, writers) = Trail::new(sinks, &metrics.audit);
    for writer in writers {
        // Ends after the rounds, which tell it things, and writes what still waits.
        shutdown.lease_tasks().spawn(writer.run(shutdown.lease()));
    }
    let lost = shutdown.begin();
    let election = shutdown.lease();
    let election = shutdown.lease_tasks().spawn(async move {
        let outcome = elector.run(election).await;
        lost.cancel();
        outcome
    });
    shutdown.lease_tasks().spawn(worker.run());

    let triggers = watch::Triggers::new();
    let rollouts: Api<Guarded> = api(&client, args.namespace.as_deref());
    let controller = Controller::new(rollouts, watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .reconcile_on(triggers.stream());
    let (stores, synced) = watch::start(
        &client,
        args.namespace.as_deref(),
        controller.store(),
        &triggers,
        &shutdown,
    );
    let sidecar_image = match args.sidecar_image.filter(|image| !image.is_empty()) {
        Some(image) => Some(image),
        None => revisions::own_image(&client).await,
    };
    let drain = DrainClient::new(POD_LIMIT).context("failed to build the drain client")?;
    let gauges = GaugeClient::new(POD_LIMIT).context("failed to build the client of metrics")?;
    let ctx = Context::new(client, guard.clone(), stores, drain, gauges, publisher, metrics);
    let ctx = ctx
        .sidecars_of(sidecar_image)
        .told_to(audit, args.stories)
        .outbound_by(Policy::new(args.allow_outbound));
    let ctx = Arc::new(ctx);

    let stop = shutdown.stop();
    let rounds = ctx.clone();
    shutdown.tasks().spawn(async move {
        // Nothing is decided on half-filled caches.
        if stop.run_until_cancelled(synced).await.is_none() {
            return;
        }
        readiness.set(true);
        tracing::info!("caches are filled");
        let mut guard = guard;
        if stop.run_until_cancelled(guard.acquired()).await != Some(true) {
            return;
        }
        tracing::info!("leading");
        controller
            .graceful_shutdown_on(stop.cancelled_owned())
            .run(reconcile::reconcile, reconcile::error_policy, rounds)
            .for_each(|result| async move {
                if let Err(error) = result {
                    tracing::debug!(error = &error as &dyn std::error::Error, "controller queue");
                }
            })
            .await;
    });

    let outcome = shutdown.run(signals).await;
    ctx.probes.shutdown().await;
    tracing::info!(?outcome, "stopped");
    if election.is_finished() {
        election
            .await
            .context("the election task failed")?
            .context("the operator no longer leads")?;
    }
    Ok(())
}

async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer()
        .await
        .context("failed to find a cluster: no kubeconfig, and not in a pod")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).context("failed to build a client")
}

/// The kind's API in one namespace, or in all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
