//! Where the sessions of a test are kept: the Redis of every namespace, or a PostgreSQL; and their sudden ends.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::process::Command;

use super::Case;
use super::app::POSTGRES_PASSWORD;

/// How long a container may take to be back: the kubelet starts it again at once the first time.
const BACK: Duration = Duration::from_secs(30);
/// How long the word may take that ends it.
const TOLD: Duration = Duration::from_secs(10);

/// A server that keeps sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// The Redis of the namespace, after [`Case::redis_with_a_disk`].
    Redis,
    /// The one of [`Case::postgres`].
    Postgres,
}

impl Keeper {
    /// Name of its Deployment, its Service, its container, and its pods' label.
    fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// What ends it in its container. PostgreSQL finishes nothing and writes nothing back, as in a crash; Redis has written
    /// every command before it answered.
    fn end(self) -> &'static [&'static str] {
        match self {
            Self::Redis => &["redis-cli", "shutdown", "nosave"],
            Self::Postgres => &[
                "/bin/sh",
                "-c",
                "exec \"$PGBIN/pg_ctl\" stop -D \"$PGDATA\" -m immediate -W",
            ],
        }
    }
}

impl Case {
    /// Runs a PostgreSQL in the namespace. What it writes outlives its container, not its pod.
    pub async fn postgres(&self) -> Result<()> {
        let image = self.stranger("postgres").await?.image;
        let container = json!({
            "name": "postgres", "image": image,
            "env": [{"name": "PGPASSWORD", "value": POSTGRES_PASSWORD}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "readinessProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "25m", "memory": "48Mi"}},
        });
        let labels = json!({"app": "postgres"});
        let metadata = json!({"name": "postgres", "namespace": self.namespace});
        self.apply_raw(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": with_a_disk(&container)},
            },
        }))
        .await?;
        self.apply_raw(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": 5432}]},
        }))
        .await?;
        self.until_serving("postgres").await
    }

    /// Gives the namespace's Redis a disk, to which it writes every command before it answers.
    pub async fn redis_with_a_disk(&self) -> Result<()> {
        let container = json!({
            "name": "redis", "image": self.settings.redis_image,
            // Behind those of the image; the last word on a setting counts.
            "args": ["--appendonly", "yes", "--appendfsync", "always", "--dir", "/data"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "25m"}},
        });
        let labels = json!({"app": "redis"});
        self.apply_raw(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "redis", "namespace": self.namespace},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": with_a_disk(&container)},
            },
        }))
        .await?;
        self.poll("Redis to have its disk", BACK, async || {
            let pods = self.pods_of(Keeper::Redis).await?;
            let has_disk = |pod: &Pod| {
                pod.spec
                    .as_ref()
                    .is_some_and(|s| s.termination_grace_period_seconds == Some(2))
            };
            Ok(pods.len() == 1
                && pods
                    .iter()
                    .all(|pod| has_disk(pod) && restarts(pod).is_some_and(|r| r.1)))
        })
        .await
    }

    /// Ends the container of a keeper, and waits until it is back. Its pod and what it wrote stay.
    pub async fn crash(&self, keeper: Keeper) -> Result<()> {
        let pods = self.pods_of(keeper).await?;
        ensure!(
            pods.len() == 1,
            "there are {} pods of {}",
            pods.len(),
            keeper.name()
        );
        let pod = pods[0].metadata.name.clone().context("a pod without a name")?;
        let (before, _) = restarts(&pods[0]).context("no container runs")?;
        let mut exec = Command::new(&self.settings.kubectl);
        exec.args([
            "--namespace",
            &self.namespace,
            "exec",
            &pod,
            "--container",
            keeper.name(),
            "--",
        ])
        .args(keeper.end())
        .stdin(Stdio::null())
        .kill_on_drop(true);
        // The container may end under the command: only its end counts.
        let said = tokio::time::timeout(TOLD, exec.output()).await;
        self.poll(&format!("{} to be back", keeper.name()), BACK, async || {
            let pods = self.pods_of(keeper).await?;
            Ok(pods
                .iter()
                .any(|pod| restarts(pod).is_some_and(|(count, ready)| count > before && ready)))
        })
        .await
        .with_context(|| format!("kubectl said {said:?}"))
    }

    async fn pods_of(&self, keeper: Keeper) -> Result<Vec<Pod>> {
        let api: Api<Pod> = self.api();
        let list = ListParams::default().labels(&format!("app={}", keeper.name()));
        Ok(api.list(&list).await?.items)
    }
}

/// A pod with an empty directory that lives as long as it does.
fn with_a_disk(container: &Value) -> Value {
    json!({
        "terminationGracePeriodSeconds": 2,
        // The user of the image may write to it.
        "securityContext": {"fsGroup": 65532},
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [container],
    })
}

/// How often the container of a pod was started again, and whether it is ready.
fn restarts(pod: &Pod) -> Option<(i32, bool)> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses
        .first()
        .map(|status| (status.restart_count, status.ready))
}
