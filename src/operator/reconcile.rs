//! One round: observe → plan → report → apply. Nothing is carried from one round to the next but what the cluster says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::ResourceExt as _;
use kube::runtime::controller::Action;

use super::context::{Context, Guarded, Memory, lock};
use super::error::{Error, Result};
use super::observe::{Scene, observe};
use super::{apply, finalize, publish, stories, trail};
use crate::api::conditions::{self, STALLED};
use crate::api::{ValidatedRollout, WebSocketRollout};
use crate::engine;

/// A follower looks this often whether it leads.
const FOLLOW: Duration = Duration::from_secs(2);

/// Brings one rollout a round further.
pub async fn reconcile(object: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action> {
    let _timer = ctx.metrics.reconcile.measure();
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    let key = format!("{namespace}/{name}");
    if ctx.permit().is_err() {
        // Followers keep their caches warm and decide nothing.
        ctx.stop_probes(&key);
        return Ok(Action::requeue(FOLLOW));
    }
    if let Err(invalid) = &object.0 {
        let message = format!(
            "the object cannot be read: {}; correct it as `kubectl explain wsr.spec` says",
            invalid.error
        );
        publish::unreadable(&ctx, &namespace, &name, &message).await?;
        return Ok(Action::await_change());
    }
    // Status is read live: a decision on an old one would only be refused when it is written.
    let Some(live) = ctx
        .read("read the rollout", ctx.rollouts(&namespace).get_opt(&name))
        .await?
    else {
        forget(&ctx, &key, &namespace, &name);
        return Ok(Action::await_change());
    };
    let memory = ctx.memory(&key);
    let result = Box::pin(round(&ctx, &live, &memory)).await;
    match &result {
        Ok(_) => {
            lock(&memory).failures = 0;
            ctx.metrics.reconcile.result("ok");
        }
        Err(error) => {
            lock(&memory).failures += 1;
            ctx.metrics.reconcile.result(error.category());
        }
    }
    result
}

async fn round(ctx: &Context, live: &WebSocketRollout, memory: &Mutex<Memory>) -> Result<Action> {
    if live.metadata.deletion_timestamp.is_some() {
        Box::pin(finalize::release(ctx, live, memory)).await?;
        return Ok(Action::await_change());
    }
    let rollout = match ValidatedRollout::new(live) {
        Ok(rollout) => rollout,
        Err(findings) => {
            let Some(release) = live.status.as_ref().and_then(|s| s.release.as_ref()) else {
                publish::invalid(ctx, live, &findings.to_string()).await?;
                return Ok(Action::await_change());
            };
            // A release goes on, or back, by what it began with; the edit is told and has no effect on it.
            let rollout = ValidatedRollout::unchecked(live);
            let mut scene = Box::pin(observe(ctx, live, rollout, memory)).await?;
            scene.observed.template_hash.clone_from(&release.canary);
            scene.observed.problems.clear();
            return Box::pin(carry_on(ctx, live, &scene, memory, Some(&findings.to_string()))).await;
        }
    };
    if finalize::ensure(ctx, live).await? {
        return Ok(Action::requeue(Duration::ZERO));
    }
    let scene = Box::pin(observe(ctx, live, rollout, memory)).await?;
    carry_on(ctx, live, &scene, memory, None).await
}

/// Plans on what was observed, reports, and acts. `invalid` says what is wrong with an edit that a release goes on without.
async fn carry_on(
    ctx: &Context,
    live: &WebSocketRollout,
    scene: &Scene,
    memory: &Mutex<Memory>,
    invalid: Option<&str>,
) -> Result<Action> {
    let now = (ctx.now)();
    let mut plan = engine::plan(&scene.observed, now);
    if let Some(message) = invalid {
        let generation = live.metadata.generation.unwrap_or_default();
        conditions::set(
            &mut plan.status.conditions,
            STALLED,
            true,
            "InvalidSpec",
            message,
            generation,
            now,
        );
    }
    publish::status(ctx, live, &plan, memory).await?;
    publish::tell(ctx, live, &plan.notes);
    publish::metrics(ctx, &scene.observed.rollout, &plan, memory);
    trail::round(ctx, live, scene, &plan.status, memory);
    let applied = apply::apply(ctx, scene, &plan.actions, memory).await;
    // After the acts, which must not wait for it; and whatever became of them.
    stories::keep(ctx, live, scene, &plan.status, memory).await;
    applied?;
    Ok(Action::requeue(plan.requeue))
}

fn forget(ctx: &Context, key: &str, namespace: &str, name: &str) {
    ctx.stop_probes(key);
    let phase = lock(&ctx.memory(key)).phase.clone();
    ctx.metrics.rollout.forget(namespace, name, phase.as_deref());
    ctx.forget(key);
}

/// When a failed round is tried again.
pub fn error_policy(object: Arc<Guarded>, error: &Error, ctx: Arc<Context>) -> Action {
    let key = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let failures = lock(&ctx.memory(&key)).failures;
    let wait = error
        .retry_after(failures)
        .mul_f64(rand::random_range(0.75..1.25));
    match error {
        Error::Raced { .. } | Error::NotLeading => {
            tracing::debug!(rollout = key, category = error.category(), "round ends");
        }
        _ => tracing::warn!(
            rollout = key,
            category = error.category(),
            error = error as &dyn std::error::Error,
            "round failed"
        ),
    }
    Action::requeue(wait)
}
