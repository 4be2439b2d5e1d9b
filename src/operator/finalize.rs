//! Finalize: a rollout that is deleted leaves traffic and pods serving. Nothing is cut, whatever the propagation policy: our
//! children carry no ownerReference. What would move sessions is cancelled, who left rotation comes back, the pins go.

use std::sync::Mutex;

use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::apply::{delete_pins, patch_pod};
use super::context::{Context, Memory};
use super::error::{Error, Result};
use super::observe::{Scene, key, observe};
use crate::api::{FINALIZER, ValidatedRollout, WebSocketRollout};
use crate::drain::protocol::DEFAULT_PORT;
use crate::workload::labels::{MANAGER_WORKLOAD, Role};

/// Sees to it that a rollout carries our finalizer. True when it was written just now.
pub async fn ensure(ctx: &Context, live: &WebSocketRollout) -> Result<bool> {
    if live.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(false);
    }
    let mut list = live.finalizers().to_vec();
    list.push(FINALIZER.to_owned());
    write(ctx, live, &list).await?;
    Ok(true)
}

/// Gives everything back, and lets the object go.
pub async fn release(ctx: &Context, live: &WebSocketRollout, memory: &Mutex<Memory>) -> Result<()> {
    if !live.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(());
    }
    // The spec may have been broken in mid-release: names are all that is needed to give back what was moved.
    let rollout = ValidatedRollout::unchecked(live);
    ctx.stop_probes(&key(&rollout));
    let scene = Box::pin(observe(ctx, live, rollout, memory)).await?;
    give_back(ctx, &scene).await?;
    let list: Vec<String> = live
        .finalizers()
        .iter()
        .filter(|f| *f != FINALIZER)
        .cloned()
        .collect();
    match write(ctx, live, &list).await {
        Err(Error::Api { source, .. }) if matches!(&*source, kube::Error::Api(s) if s.code == 404) => Ok(()),
        other => other,
    }
}

async fn give_back(ctx: &Context, scene: &Scene) -> Result<()> {
    for view in scene.observed.revisions.values() {
        for pod in view.live() {
            let order = pod.sessions.as_ref().and_then(|s| s.drain.as_ref());
            if let Some(order) = order.filter(|o| matches!(o.state.as_str(), "active" | "paused")) {
                cancel(ctx, scene, &pod.uid, &order.id).await?;
            }
            if !pod.serving || pod.role.as_deref() == Some("draining") {
                patch_pod(ctx, scene, &pod.uid, |facts| facts.set_deletion_cost(0)).await?;
                patch_pod(ctx, scene, &pod.uid, |facts| {
                    facts.return_to_rotation(Role::Stable)
                })
                .await?;
            }
        }
    }
    delete_pins(ctx, scene).await
}

/// Cancels an order. A pod that cannot be reached stops by itself when the lease of its order runs out.
async fn cancel(ctx: &Context, scene: &Scene, uid: &str, id: &str) -> Result<()> {
    let Some(facts) = scene.pods.get(uid) else {
        return Ok(());
    };
    let (Some(ip), Some(token)) = (
        facts.ip,
        facts.revision.as_ref().and_then(|r| scene.tokens.get(r)),
    ) else {
        return Ok(());
    };
    ctx.permit()?;
    if let Err(error) = ctx
        .drain
        .cancel(std::net::SocketAddr::new(ip, DEFAULT_PORT), token, id)
        .await
    {
        tracing::warn!(
            pod = facts.name,
            category = error.category(),
            "order was not cancelled; its lease will end it"
        );
    }
    Ok(())
}

async fn write(ctx: &Context, live: &WebSocketRollout, list: &[String]) -> Result<()> {
    let namespace = live.namespace().unwrap_or_default();
    let patch = json!({"metadata": {"finalizers": list, "resourceVersion": live.resource_version()}});
    let params = PatchParams {
        field_manager: Some(MANAGER_WORKLOAD.to_owned()),
        ..PatchParams::default()
    };
    ctx.write(
        "write finalizers",
        ctx.rollouts(&namespace)
            .patch(&live.name_any(), &params, &Patch::Merge(&patch)),
    )
    .await?;
    Ok(())
}
