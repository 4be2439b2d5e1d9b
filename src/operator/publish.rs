//! Report: status first, then events and metrics. Status that names an act is written before the act; mere progress waits its turn.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::context::{Context, Memory, lock};
use super::error::Result;
use crate::api::conditions::{self, READY, STALLED};
use crate::api::status::RolloutStatus;
use crate::api::{ValidatedRollout, WebSocketRollout};
use crate::engine::{Note, Plan, progress_only};
use crate::report::events::Finding;
use crate::report::metrics::Fates;
use crate::workload::labels::MANAGER_STATUS;

/// Progress is written at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Writes the status that a plan names, if it differs. The version that was read is a precondition: of two operators that both
/// believe they lead, one is refused here before it acts.
pub async fn status(
    ctx: &Context,
    live: &WebSocketRollout,
    plan: &Plan,
    memory: &Mutex<Memory>,
) -> Result<()> {
    let old = live.status.clone().unwrap_or_default();
    if old == plan.status {
        return Ok(());
    }
    let recently = lock(memory)
        .written
        .is_some_and(|at| at.elapsed() < PROGRESS_EVERY);
    if recently && progress_only(&old, &plan.status) {
        return Ok(());
    }
    write(ctx, live, &plan.status).await?;
    let mut memory = lock(memory);
    memory.written = Some(Instant::now());
    memory.unannounced = 0;
    memory.cuts.clear();
    Ok(())
}

async fn write(ctx: &Context, live: &WebSocketRollout, status: &RolloutStatus) -> Result<()> {
    let namespace = live.namespace().unwrap_or_default();
    let mut object = live.clone();
    object.metadata.managed_fields = None;
    object.status = Some(status.clone());
    let params = PostParams {
        field_manager: Some(MANAGER_STATUS.to_owned()),
        ..PostParams::default()
    };
    ctx.write(
        "write status",
        ctx.rollouts(&namespace)
            .replace_status(&live.name_any(), &params, &object),
    )
    .await?;
    Ok(())
}

/// Says that a spec does not hold together, and changes nothing else.
pub async fn invalid(ctx: &Context, live: &WebSocketRollout, message: &str) -> Result<()> {
    let mut status = live.status.clone().unwrap_or_default();
    let generation = live.metadata.generation.unwrap_or_default();
    let now = (ctx.now)();
    conditions::set(
        &mut status.conditions,
        READY,
        false,
        "InvalidSpec",
        message,
        generation,
        now,
    );
    conditions::set(
        &mut status.conditions,
        STALLED,
        true,
        "InvalidSpec",
        message,
        generation,
        now,
    );
    status.observed_generation = Some(generation);
    if live.status.as_ref() != Some(&status) {
        write(ctx, live, &status).await?;
        tell(ctx, live, &[Note::warning("InvalidSpec", message)]);
    }
    Ok(())
}

/// Says that an object could not even be read; its status is patched without touching the rest.
pub async fn unreadable(ctx: &Context, namespace: &str, name: &str, message: &str) -> Result<()> {
    let api: kube::Api<kube::core::DynamicObject> = kube::Api::namespaced_with(
        ctx.client.clone(),
        namespace,
        &kube::core::ApiResource::erase::<WebSocketRollout>(&()),
    );
    let now = (ctx.now)();
    let condition = |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "InvalidSpec", "message": message, "lastTransitionTime": now});
    let patch = json!({"status": {"conditions": [condition(READY, "False"), condition(STALLED, "True")]}});
    let params = PatchParams {
        field_manager: Some(MANAGER_STATUS.to_owned()),
        ..PatchParams::default()
    };
    ctx.write(
        "write status",
        api.patch_status(name, &params, &Patch::Merge(&patch)),
    )
    .await?;
    Ok(())
}

/// Publishes events about a rollout.
pub fn tell(ctx: &Context, live: &WebSocketRollout, notes: &[Note]) {
    let about: ObjectReference = live.object_ref(&());
    for note in notes {
        tracing::info!(
            rollout = live.name_any(),
            reason = note.reason,
            "{}",
            note.message
        );
        ctx.events.publish(Finding {
            about: about.clone(),
            warning: note.warning,
            reason: note.reason,
            action: "Rollout",
            note: note.message.clone(),
        });
    }
}

/// Brings the metrics of a rollout up to date.
pub fn metrics(ctx: &Context, rollout: &ValidatedRollout, plan: &Plan, memory: &Mutex<Memory>) {
    let (namespace, name) = (rollout.namespace.as_str(), rollout.name.as_str());
    let metrics = &ctx.metrics.rollout;
    let status = &plan.status;
    for role in ["stable", "canary", "old"] {
        let sessions = status
            .revisions
            .iter()
            .filter(|r| r.role == role)
            .map(|r| r.sessions)
            .sum();
        metrics.set_sessions(namespace, name, role, sessions);
    }
    metrics.set_unknown_pods(
        namespace,
        name,
        status.revisions.iter().map(|r| i64::from(r.unknown)).sum(),
    );
    let drain = status.drain.clone().unwrap_or_default();
    let fates = Fates {
        notified: drain.notified,
        closed: drain.closed_clean,
        forced: drain.closed_forced,
        returned: drain.returned.as_ref().map(|r| r.back),
    };
    metrics.set_drain(namespace, name, fates);
    metrics.set_weight(
        namespace,
        name,
        status
            .weight
            .as_ref()
            .and_then(|w| w.programmed)
            .unwrap_or_default()
            .into(),
    );
    metrics.set_unannounced(namespace, name, status.unannounced.unwrap_or_default());
    let mut memory = lock(memory);
    if let Some(phase) = &status.phase
        && memory.phase.as_ref() != Some(phase)
    {
        metrics.set_phase(namespace, name, memory.phase.as_deref(), phase);
        memory.phase = Some(phase.clone());
    }
    for note in plan.notes.iter().filter(|n| n.reason == "RollingBack") {
        let reason = note.message.split(':').next().unwrap_or("Unknown");
        metrics.rolled_back(namespace, name, reason);
    }
}
