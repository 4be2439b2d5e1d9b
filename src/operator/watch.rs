//! Watches: caches of everything a round reads, and triggers for the rollouts that a change is about.

use std::future::Future;
use std::hash::Hash;

use futures_util::{Stream, StreamExt as _, future::join_all, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::api;
use super::context::{Guarded, Stores};
use super::shutdown::Shutdown;
use crate::traffic::gateway_api::HTTPRoute;
use crate::workload::labels;

/// Triggers that may wait; a full queue makes the watches wait, which loses nothing.
const QUEUE: usize = 1_024;

/// Rollouts that should be looked at.
pub struct Triggers {
    send: mpsc::Sender<ObjectRef<Guarded>>,
    receive: std::sync::Mutex<Option<mpsc::Receiver<ObjectRef<Guarded>>>>,
}

impl Triggers {
    /// An empty queue.
    pub fn new() -> Self {
        let (send, receive) = mpsc::channel(QUEUE);
        Self {
            send,
            receive: std::sync::Mutex::new(Some(receive)),
        }
    }

    /// The queue's end; empty when it was taken before.
    pub fn stream(&self) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static + use<> {
        let receive = self.receive.lock().ok().and_then(|mut r| r.take());
        stream::unfold(receive, |receive| async move {
            let mut receive = receive?;
            receive.recv().await.map(|object| (object, Some(receive)))
        })
    }
}

/// Starts all watches. The future ends when every cache is filled.
pub fn start(
    client: &Client,
    namespace: Option<&str>,
    rollouts: Store<Guarded>,
    triggers: &Triggers,
    shutdown: &Shutdown,
) -> (Stores, impl Future<Output = ()> + Send + 'static + use<>) {
    let ours = watcher::Config::default().labels(labels::ROLLOUT);
    let all = watcher::Config::default();
    let stores = Stores {
        replica_sets: reflect(api(client, namespace), ours.clone(), by_label, triggers, shutdown),
        pods: reflect(api(client, namespace), ours, by_label, triggers, shutdown),
        services: reflect(api(client, namespace), all.clone(), by_label, triggers, shutdown),
        routes: reflect(
            api::<HTTPRoute>(client, namespace),
            all,
            by_route(&rollouts),
            triggers,
            shutdown,
        ),
        rollouts,
    };
    let waiting = stores.clone();
    let synced = async move {
        let Stores {
            rollouts: _,
            replica_sets,
            pods,
            services,
            routes,
        } = &waiting;
        let ready = [
            Box::pin(async { drop(replica_sets.wait_until_ready().await) })
                as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
            Box::pin(async { drop(pods.wait_until_ready().await) }),
            Box::pin(async { drop(services.wait_until_ready().await) }),
            Box::pin(async { drop(routes.wait_until_ready().await) }),
        ];
        join_all(ready).await;
    };
    (stores, synced)
}

/// The rollout that an object of ours belongs to.
fn by_label<K: Resource>(object: &K) -> Vec<ObjectRef<Guarded>> {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let owner = object.meta().labels.as_ref().and_then(|l| l.get(labels::ROLLOUT));
    owner
        .map(|name| ObjectRef::new(name).within(&namespace))
        .into_iter()
        .collect()
}

/// The rollouts that name a route, and the one whose pins it carries.
fn by_route(
    rollouts: &Store<Guarded>,
) -> impl Fn(&HTTPRoute) -> Vec<ObjectRef<Guarded>> + Send + Sync + 'static + use<> {
    let rollouts = rollouts.clone();
    move |route| {
        let namespace = route.namespace().unwrap_or_default();
        let name = route.name_any();
        let named = rollouts.state().into_iter().filter(|rollout| {
            rollout.namespace().as_deref() == Some(&namespace)
                && rollout
                    .0
                    .as_ref()
                    .is_ok_and(|r| r.spec.traffic.routes.iter().any(|wanted| wanted.name == name))
        });
        let named = named.map(|rollout| ObjectRef::new(&rollout.name_any()).within(&namespace));
        named.chain(by_label(route)).collect()
    }
}

fn reflect<K, F>(
    api: kube::Api<K>,
    config: watcher::Config,
    about: F,
    triggers: &Triggers,
    shutdown: &Shutdown,
) -> Store<K>
where
    K: Resource<Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
    F: Fn(&K) -> Vec<ObjectRef<Guarded>> + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let events = reflector::reflector(writer, watcher(api, config))
        .default_backoff()
        .touched_objects();
    let send = triggers.send.clone();
    let stop = shutdown.stop();
    shutdown.tasks().spawn(async move {
        let mut events = std::pin::pin!(events);
        let follow = async {
            while let Some(event) = events.next().await {
                match event {
                    Ok(object) => {
                        for rollout in about(&object) {
                            if send.send(rollout).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(error) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "watch failed, tried again"
                    ),
                }
            }
        };
        stop.run_until_cancelled(follow).await;
    });
    reader
}
