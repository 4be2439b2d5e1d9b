//! What a test does to the cluster, and reads of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::api::{
    DeleteParams, DynamicObject, EvictParams, ListParams, LogParams, Patch, PatchParams, PropagationPolicy,
};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use wsroll::api::status::{RolloutStatus, State, Verb};
use wsroll::api::{ANNOTATION_REQUEST, WebSocketRollout};
use wsroll::workload::pods::is_ready;

use super::namespace::OPERATOR;
use super::{App, Case, NAME, objects};

/// How long pods may take to come, on two busy cores.
const PODS: Duration = Duration::from_secs(60);
/// How long a request may wait: a killed operator's Lease runs out after 15 s, and not before.
const ACKNOWLEDGED: Duration = Duration::from_secs(30);

impl Case {
    /// An API of this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The rollouts of this namespace.
    pub fn rollouts(&self) -> Api<WebSocketRollout> {
        self.api()
    }

    /// The same as they are written, readable or not.
    pub fn rollouts_raw(&self) -> Api<DynamicObject> {
        objects::api(
            &self.client,
            "wsroll.dev/v1alpha1",
            "WebSocketRollout",
            Some(&self.namespace),
        )
    }

    /// Applies an object as it is.
    pub async fn apply_raw(&self, object: &Value) -> Result<DynamicObject> {
        objects::apply(&self.client, object).await.with_context(|| {
            format!(
                "failed to apply {} {}",
                object["kind"], object["metadata"]["name"]
            )
        })
    }

    /// Applies a rollout.
    pub async fn apply(&self, app: &App) -> Result<()> {
        self.apply_raw(&app.manifest(self)).await?;
        Ok(())
    }

    /// Applies a rollout that the API server has to refuse; what it says.
    pub async fn refused(&self, app: &App) -> Result<String> {
        match objects::apply(&self.client, &app.manifest(self)).await {
            Ok(_) => bail!("the API server took it"),
            Err(kube::Error::Api(status)) => Ok(status.message.clone()),
            Err(error) => Err(error).context("the API server did not answer"),
        }
    }

    /// Applies the first version and waits until it serves.
    pub async fn serve(&self, app: &App) -> Result<()> {
        self.apply(app).await?;
        self.until_phase("Healthy", PODS).await?;
        // The gateway hears of Services and pods a little later than the operator.
        self.poll("visitors to be welcomed", Duration::from_secs(20), async || {
            self.serves(3).await.map(|()| true)
        })
        .await
    }

    /// Asks for something, as `kubectl wsroll` does it.
    pub async fn request(&self, verb: Verb) -> Result<()> {
        let nonce = format!("{:08x}", rand::random::<u32>());
        let request = json!({"verb": verb, "nonce": nonce});
        let patch = json!({"metadata": {"annotations": {ANNOTATION_REQUEST: request.to_string()}}});
        self.rollouts()
            .patch(NAME, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        let status = self
            .until("the request to be acknowledged", ACKNOWLEDGED, |s| {
                s.last_request.as_ref().is_some_and(|r| r.nonce == nonce)
            })
            .await?;
        let result = status.last_request.unwrap();
        if !result.accepted {
            bail!("{verb} was refused: {}", result.message);
        }
        Ok(())
    }

    /// Deletes the rollout.
    pub async fn delete_rollout(&self, propagation: PropagationPolicy) -> Result<()> {
        let params = DeleteParams {
            propagation_policy: Some(propagation),
            ..DeleteParams::default()
        };
        self.rollouts().delete(NAME, &params).await?;
        Ok(())
    }

    /// Waits until the rollout is gone.
    pub async fn until_gone(&self) -> Result<()> {
        self.poll("the rollout to be gone", Duration::from_secs(20), async || {
            Ok(self.rollouts().get_opt(NAME).await?.is_none())
        })
        .await
    }

    /// Waits until a Deployment has a ready pod.
    pub async fn until_serving(&self, deployment: &str) -> Result<()> {
        let api: Api<Deployment> = self.api();
        self.poll(&format!("{deployment} to be ready"), PODS, async || {
            let status = api.get(deployment).await?.status.unwrap_or_default();
            Ok(status.ready_replicas.unwrap_or_default() > 0)
        })
        .await
    }

    /// Runs so many operators.
    pub async fn scale_operator(&self, replicas: i32) -> Result<()> {
        let api: Api<Deployment> = self.api();
        let patch = json!({"spec": {"replicas": replicas}});
        api.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        if replicas > 0 {
            return self.until_serving(OPERATOR).await;
        }
        self.poll("the operator to be gone", Duration::from_secs(40), async || {
            Ok(self.operator_pods().await?.is_empty())
        })
        .await
    }

    /// Kills the operator without any warning. Its Deployment starts another one.
    pub async fn kill_operator(&self) -> Result<()> {
        let pods: Api<Pod> = self.api();
        for pod in self.operator_pods().await? {
            pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
                .await?;
        }
        Ok(())
    }

    /// Takes the operator away without any warning, for good.
    pub async fn lose_operator(&self) -> Result<()> {
        let api: Api<Deployment> = self.api();
        let patch = json!({"spec": {"replicas": 0}});
        api.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        self.kill_operator().await
    }

    /// Runs the operator with another value of a variable, and waits for the new one.
    pub async fn restart_operator_with(&self, variable: &str, value: &str) -> Result<()> {
        let api: Api<Deployment> = self.api();
        let container = json!({"name": "operator", "env": [{"name": variable, "value": value}]});
        let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        api.patch(OPERATOR, &PatchParams::default(), &Patch::Strategic(&patch))
            .await?;
        self.poll(
            "the operator to be another",
            Duration::from_secs(60),
            async || {
                let found = api.get(OPERATOR).await?;
                let status = found.status.unwrap_or_default();
                let current = status.observed_generation == found.metadata.generation;
                let updated = status.updated_replicas == Some(1) && status.replicas == Some(1);
                Ok(current && updated && status.ready_replicas == Some(1))
            },
        )
        .await
    }

    /// Evicts a pod, as `kubectl drain` does it.
    pub async fn evict(&self, pod: &str) -> Result<()> {
        let pods: Api<Pod> = self.api();
        pods.evict(pod, &EvictParams::default())
            .await
            .with_context(|| format!("failed to evict {pod}"))?;
        Ok(())
    }

    /// Ends all pods of the namespace at once.
    pub(super) async fn kill_pods(&self) -> Result<()> {
        let pods: Api<Pod> = self.api();
        let sets: Api<ReplicaSet> = self.api();
        sets.delete_collection(&DeleteParams::background(), &ListParams::default())
            .await?;
        pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default())
            .await?;
        Ok(())
    }

    async fn operator_pods(&self) -> Result<Vec<Pod>> {
        let list = ListParams::default().labels("app.kubernetes.io/component=operator");
        let api: Api<Pod> = self.api();
        Ok(api.list(&list).await?.items)
    }

    /// The application's pods.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let list = ListParams::default().labels(&format!("wsroll.dev/rollout={NAME}"));
        let api: Api<Pod> = self.api();
        Ok(api.list(&list).await?.items)
    }

    /// Weights of the slots in the route.
    pub async fn weights(&self) -> Result<BTreeMap<String, i64>> {
        let route = self.route_api().get(NAME).await?;
        let backends = route.data["spec"]["rules"][0]["backendRefs"].as_array().cloned();
        let weight = |b: &Value| {
            let slot = b["name"].as_str()?.strip_prefix("chat-")?.to_owned();
            Some((slot, b["weight"].as_i64().unwrap_or(1)))
        };
        Ok(backends.unwrap_or_default().iter().filter_map(weight).collect())
    }

    /// Writes the weights of the slots, as somebody's Git pipeline would.
    pub async fn write_weights(&self, weights: [i32; 3]) -> Result<()> {
        let mut route = super::route(self);
        for (i, weight) in weights.into_iter().enumerate() {
            route["spec"]["rules"][0]["backendRefs"][i]["weight"] = json!(weight);
        }
        self.apply_raw(&route).await?;
        Ok(())
    }

    /// The routes of this namespace.
    pub fn route_api(&self) -> Api<DynamicObject> {
        objects::api(
            &self.client,
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            Some(&self.namespace),
        )
    }

    /// Everything that the operator could have changed: names and what matters of each.
    pub async fn snapshot(&self) -> Result<BTreeMap<String, Value>> {
        let mut all = BTreeMap::new();
        let sets: Api<ReplicaSet> = self.api();
        for set in sets
            .list(&ListParams::default().labels("wsroll.dev/rollout"))
            .await?
        {
            let replicas = set.spec.as_ref().and_then(|s| s.replicas);
            all.insert(format!("replicaset/{}", set.name_any()), json!(replicas));
        }
        let services: Api<Service> = self.api();
        for service in services.list(&ListParams::default()).await? {
            let selector = service.spec.as_ref().and_then(|s| s.selector.clone());
            all.insert(format!("service/{}", service.name_any()), json!(selector));
        }
        for route in self.route_api().list(&ListParams::default()).await? {
            all.insert(
                format!("route/{}", route.name_any()),
                route.data["spec"]["rules"].clone(),
            );
        }
        for pod in self.pods().await? {
            all.insert(
                format!("pod/{}", pod.name_any()),
                json!([pod.uid(), pod.labels()]),
            );
        }
        Ok(all)
    }

    /// Reasons of the events about the rollout.
    pub async fn events(&self) -> Result<Vec<String>> {
        let events: Api<Event> = self.api();
        let listed = events.list(&ListParams::default()).await?;
        let ours = listed
            .items
            .into_iter()
            .filter(|e| e.involved_object.kind.as_deref() == Some("WebSocketRollout"));
        Ok(ours.filter_map(|e| e.reason).collect())
    }

    /// Waits until some sessions, and not all, have left in a wave at the step with this number, from 1.
    pub async fn until_in_wave(&self, step: u32, within: Duration) -> Result<RolloutStatus> {
        self.until_or(
            &format!("the middle of a wave at step {step}"),
            within,
            |s| {
                let at_step = matches!(&s.state, Some(State::Moving(at)) if at.step + 1 == step);
                let told = s
                    .wave
                    .iter()
                    .flat_map(|w| &w.pods)
                    .map(|p| p.notified)
                    .sum::<i64>();
                at_step && told >= 10
            },
            |s| matches!(s.phase.as_deref(), Some("RollingBack" | "RolledBack" | "Soaking")),
        )
        .await
    }

    /// What was seen, for somebody who has to find out why a test failed.
    pub(super) async fn tell(&self) {
        eprintln!("--- namespace {}\n{}", self.namespace, self.story());
        if let Ok(Some(rollout)) = self.rollouts().get_opt(NAME).await {
            let status = serde_json::to_string_pretty(&rollout.status).unwrap_or_default();
            eprintln!("--- status\n{status}");
        }
        for pod in self.pods().await.unwrap_or_default() {
            eprintln!(
                "pod {} ready={} {:?}",
                pod.name_any(),
                is_ready(&pod),
                pod.labels()
            );
        }
        eprintln!("weights {:?}", self.weights().await);
        let events: Api<Event> = self.api();
        if let Ok(events) = events.list(&ListParams::default()).await {
            for event in events
                .items
                .iter()
                .filter(|e| e.involved_object.kind.as_deref() == Some("WebSocketRollout"))
            {
                eprintln!(
                    "event {} {}",
                    event.reason.as_deref().unwrap_or_default(),
                    event.message.as_deref().unwrap_or_default()
                );
            }
        }
        let pods: Api<Pod> = self.api();
        for pod in self.operator_pods().await.unwrap_or_default() {
            let params = LogParams {
                tail_lines: Some(80),
                ..LogParams::default()
            };
            let log = pods.logs(&pod.name_any(), &params).await;
            eprintln!(
                "--- log of {}\n{}",
                pod.name_any(),
                log.unwrap_or_else(|e| e.to_string())
            );
        }
    }
}
