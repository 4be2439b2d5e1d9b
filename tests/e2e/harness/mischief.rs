//! What a test does to make trouble, and how it learns that the trouble has begun.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use super::{Case, objects};

impl Case {
    /// The pod whose operator leads.
    pub async fn leader(&self) -> Result<String> {
        let leases: Api<Lease> = self.api();
        let lease = leases.get("wsroll-operator").await?;
        lease
            .spec
            .and_then(|s| s.holder_identity)
            .context("nobody holds the lease")
    }

    /// Kills a pod without any warning.
    pub async fn kill_pod(&self, name: &str) -> Result<()> {
        let pods: Api<Pod> = self.api();
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await
            .with_context(|| format!("failed to kill {name}"))?;
        Ok(())
    }

    /// Deletes an object without a namespace.
    pub async fn delete_raw(&self, object: &Value) -> Result<()> {
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        objects::api(&self.client, text("apiVersion"), text("kind"), None)
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Waits until the API server refuses pods with these labels: a policy needs a moment to be known.
    pub async fn until_policy_holds(&self, labels: &Value) -> Result<()> {
        let pods: Api<Pod> = self.api();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "tried", "labels": labels},
            "spec": {"containers": [{"name": "none", "image": "none"}]},
        }))?;
        let tried = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        self.poll("the policy to hold", Duration::from_secs(30), async || {
            Ok(pods.create(&tried, &pod).await.is_err())
        })
        .await
    }
}
