//! A test's namespace: the shipped operator with the shipped roles, a Redis, a route. And its end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::app::{SESSION_KEY, STATE_KEY, route};
use super::{Case, objects};

/// Name of the operator's objects in the shipped manifests.
pub const OPERATOR: &str = "wsroll-operator";

impl Case {
    /// Everything but the rollout.
    pub(super) async fn set_up(&self) -> Result<()> {
        self.definition().await?;
        for object in self.foundation()? {
            self.apply_raw(&object).await?;
        }
        self.until_serving("redis").await?;
        self.until_serving(OPERATOR).await
    }

    /// The definition of the resource, as the repository ships it.
    async fn definition(&self) -> Result<()> {
        for object in objects::from_file("crds/wsroll.dev_websocketrollouts.yaml")? {
            self.apply_raw(&object).await?;
        }
        let api = objects::api(
            &self.client,
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            None,
        );
        self.poll(
            "the definition to be established",
            Duration::from_secs(30),
            async || {
                let found = api.get("websocketrollouts.wsroll.dev").await?;
                let conditions = found
                    .data
                    .pointer("/status/conditions")
                    .and_then(Value::as_array)
                    .cloned();
                let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
                Ok(conditions.is_some_and(|list| list.iter().any(established)))
            },
        )
        .await
    }

    fn foundation(&self) -> Result<Vec<Value>> {
        let namespace = &self.namespace;
        let named = |mut object: Value| {
            object["metadata"]["namespace"] = json!(namespace);
            object
        };
        let mut all = vec![json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"wsroll.dev/e2e": "true"}},
        })];
        all.extend(objects::from_file("manifests/base/cluster-role.yaml")?);
        for file in ["service-account", "lease-role"] {
            all.extend(
                objects::from_file(&format!("manifests/base/{file}.yaml"))?
                    .into_iter()
                    .map(named),
            );
        }
        all.push(named(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": OPERATOR},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": OPERATOR},
            "subjects": [],
        })));
        for object in &mut all {
            if object["kind"] == "RoleBinding" {
                object["subjects"] =
                    json!([{"kind": "ServiceAccount", "name": OPERATOR, "namespace": namespace}]);
            }
        }
        all.push(named(secret("session-key", "key", SESSION_KEY)));
        all.push(named(secret("state-key", "keys", STATE_KEY)));
        all.push(named(secret("probe-token", "token", &token("probe", "gold"))));
        all.extend(redis(&self.settings.redis_image).map(named));
        all.push(route(self));
        all.extend(
            objects::from_file("manifests/base/deployment.yaml")?
                .into_iter()
                .map(|d| self.operator_here(named(d))),
        );
        Ok(all)
    }

    /// The shipped Deployment, for this namespace only.
    fn operator_here(&self, mut deployment: Value) -> Value {
        let pod = &mut deployment["spec"]["template"]["spec"];
        let container = &mut pod["containers"][0];
        container["image"] = json!(self.settings.operator_image);
        if let Some(args) = container["args"].as_array_mut() {
            args.push(json!(format!("--namespace={}", self.namespace)));
        }
        if let Some(env) = container["env"].as_array_mut() {
            env.push(json!({"name": "RUST_LOG", "value": "info,wsroll=debug,tungstenite=info"}));
            env.push(json!({"name": "WSROLL_SIDECAR_IMAGE", "value": self.settings.operator_image}));
        }
        container["readinessProbe"]["periodSeconds"] = json!(1);
        // Room for several tests at once on two cores.
        container["resources"]["requests"]["cpu"] = json!("50m");
        deployment
    }

    /// Takes everything away: first the rollout, while its operator can still give everything back.
    pub(super) async fn close(&self) -> Result<()> {
        let rollouts = self.rollouts_raw();
        let all = ListParams::default();
        rollouts.delete_collection(&DeleteParams::default(), &all).await?;
        let gone = self
            .poll("the rollouts to be gone", Duration::from_secs(10), async || {
                Ok(rollouts.list(&all).await?.items.is_empty())
            })
            .await;
        if gone.is_err() {
            for rollout in rollouts.list(&all).await? {
                let free = json!({"metadata": {"finalizers": null}});
                rollouts
                    .patch(&rollout.name_any(), &PatchParams::default(), &Patch::Merge(&free))
                    .await?;
            }
        }
        // Nobody is left to be waited for, and pods that wait hold their share of the node.
        self.kill_pods().await?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .context("failed to delete the namespace")?;
        Ok(())
    }

    /// Asks again and again until it holds. For what has no watch of its own.
    pub async fn poll(
        &self,
        what: &str,
        within: Duration,
        holds: impl AsyncFn() -> Result<bool>,
    ) -> Result<()> {
        let end = tokio::time::Instant::now() + within;
        let mut last = String::new();
        while tokio::time::Instant::now() < end {
            match holds().await {
                Ok(true) => return Ok(()),
                Ok(false) => last.clear(),
                Err(error) => last = format!("; {error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("waited {within:?} for {what}{last}")
    }
}

/// A session token of `examples/session-server`: `<user>.<tier>.<hmac>`.
pub fn token(user: &str, tier: &str) -> String {
    let body = format!("{user}.{tier}");
    let mut pads = ([0x36_u8; 64], [0x5c_u8; 64]);
    for (i, byte) in SESSION_KEY.bytes().enumerate() {
        pads.0[i] ^= byte;
        pads.1[i] ^= byte;
    }
    let inner = Sha256::new().chain_update(pads.0).chain_update(&body).finalize();
    let mac = Sha256::new().chain_update(pads.1).chain_update(inner).finalize();
    format!("{body}.{}", hex::encode(mac))
}

fn secret(name: &str, key: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}})
}

fn redis(image: &str) -> [Value; 2] {
    let labels = json!({"app": "redis"});
    [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "redis"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                        "name": "redis", "image": image,
                        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
                        "resources": {"requests": {"cpu": "25m"}},
                    }]},
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "redis"},
            "spec": {"selector": labels, "ports": [{"port": 6379}]},
        }),
    ]
}
