//! Apply: carries a plan's actions out, in order. Every one is idempotent and asks for the lease first; the first failure ends
//! the round, and the next round starts from what is then seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde::{Deserialize, Serialize};

use super::context::{Context, Memory, lock};
use super::error::{Error, Result};
use super::observe::{ANNOTATION_PINS, Scene, key, parent};
use super::{probing, problems, revisions, trail};
use crate::api::ValidatedRollout;
use crate::api::spec::DrainMode;
use crate::drain::client::Error as DrainError;
use crate::drain::protocol::{DEFAULT_PORT, DrainOrder, Hint, Mode, OnDeadline, Reason, Reconnect, Select};
use crate::engine::Action;
use crate::engine::observed::{NOBODY, PinKind, PinRule};
use crate::engine::plan::{self, Order, Role};
use crate::traffic::gateway_api::HTTPRoute;
use crate::traffic::pins::{self, Carrier, Pin};
use crate::traffic::{http_route, slots};
use crate::workload::labels::{self, MANAGER_ROUTES, MANAGER_WORKLOAD};
use crate::workload::pods::PodFacts;
use crate::workload::scale;

/// The deletion cost of pods that are to go: far below what anybody sets by hand.
pub const RETIRED_COST: i32 = -100_000;

/// Carries out all actions. Orders that single pods refuse do not keep the others waiting; they are reported at the end.
pub async fn apply(ctx: &Context, scene: &Scene, actions: &[Action], memory: &Mutex<Memory>) -> Result<()> {
    let mut refused = None;
    for action in actions {
        match one(ctx, scene, action, memory).await {
            Ok(()) => {}
            Err(error @ Error::Order { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = refused {
        // The pod is asked again in the next round; until then its sessions stay where they are.
        tracing::warn!(error = &error as &dyn std::error::Error, "an order was not taken");
        ctx.metrics.reconcile.api_error("order", error.category());
    }
    Ok(())
}

async fn one(ctx: &Context, scene: &Scene, action: &Action, memory: &Mutex<Memory>) -> Result<()> {
    let rollout = &scene.observed.rollout;
    match action {
        Action::CreateRevision {
            revision,
            replicas,
            role,
        } => revisions::create(ctx, scene, revision, *replicas, wire_role(*role)).await,
        Action::Grow { revision, replicas } => grow(ctx, scene, revision, *replicas).await,
        Action::Retire {
            revision,
            pods,
            from,
            to,
        } => {
            if retire(ctx, scene, revision, pods, *from, *to).await? {
                trail::retired(ctx, scene, pods, memory);
            }
            Ok(())
        }
        Action::Dismiss {
            revision,
            pod,
            uid,
            from,
        } => dismiss(ctx, scene, revision, (pod, uid), *from, memory).await,
        Action::Crash { pod, uid } => crash(ctx, scene, pod, uid).await,
        Action::PointSlot { slot, revision } => point_slot(ctx, scene, slot, revision).await,
        Action::SetWeights { weights } => set_weights(ctx, scene, weights).await,
        Action::EnsurePins { pins } => ensure_pins(ctx, scene, pins).await,
        Action::DeletePins => delete_pins(ctx, scene).await,
        Action::LeaveRotation { uid, .. } => patch_pod(ctx, scene, uid, PodFacts::leave_rotation).await,
        Action::EnterRotation { uid, role, .. } => {
            let role = wire_role(*role);
            patch_pod(ctx, scene, uid, |pod| pod.set_deletion_cost(0)).await?;
            patch_pod(ctx, scene, uid, |pod| pod.return_to_rotation(role)).await
        }
        Action::SetRole { uid, role, .. } => {
            let role = wire_role(*role);
            patch_pod(ctx, scene, uid, |pod| pod.set_role(role)).await
        }
        Action::Order(order) => give_order(ctx, scene, order, memory).await,
        Action::CancelOrder { pod, uid, id } => {
            let Some((address, token)) = drain_port(scene, uid) else {
                return Ok(());
            };
            ctx.permit()?;
            let cancelled = ctx.drain.cancel(address, token, id).await;
            cancelled.map_err(|source| Error::Order {
                pod: pod.clone(),
                source,
            })?;
            trail::cancelled(ctx, scene, uid, id, memory);
            Ok(())
        }
        Action::Probe(plan) => {
            let job = match plan {
                Some(plan) => probing::job(ctx, rollout, plan, memory).await,
                None => None,
            };
            if let Err(error) = ctx.probes.ensure(&key(rollout), job) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the probes' settings cannot be used"
                );
            }
            Ok(())
        }
        Action::Look(order) => {
            let look = probing::look(ctx, rollout, order, memory).await;
            lock(memory).look = Some(look);
            Ok(())
        }
    }
}

/// What is created once and is there already was created by an earlier round.
pub fn existing_is_fine<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) | Err(Error::Raced { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn grow(ctx: &Context, scene: &Scene, revision: &str, replicas: u32) -> Result<()> {
    let Some(set) = scene.sets.get(revision) else {
        return Ok(());
    };
    if scale::replicas(set) >= replicas as i32 {
        return Ok(());
    }
    set_replicas(ctx, set, replicas as i32).await
}

async fn set_replicas(ctx: &Context, set: &ReplicaSet, replicas: i32) -> Result<()> {
    ctx.permit()?;
    scale::set_replicas(&ctx.client, set, replicas)
        .await
        .map_err(|error| match error {
            scale::Error::Raced => Error::Raced {
                call: "scale a ReplicaSet",
            },
            scale::Error::Timeout => Error::Timeout {
                call: "scale a ReplicaSet",
                limit: super::context::CALL_LIMIT,
            },
            scale::Error::Api(source) => Error::api("scale a ReplicaSet", source),
        })
}

/// Marks the pods first and shrinks the ReplicaSet in a later round: its controller has to have seen the marks. True when it was
/// asked to shrink.
async fn retire(
    ctx: &Context,
    scene: &Scene,
    revision: &str,
    pods: &[(String, String)],
    from: u32,
    to: u32,
) -> Result<bool> {
    let Some(set) = scene.sets.get(revision) else {
        return Ok(false);
    };
    if scale::replicas(set) != from as i32 {
        return Err(Error::Raced { call: "retire pods" });
    }
    let whole = to == 0;
    let unmarked: Vec<&String> = pods
        .iter()
        .filter(|(_, uid)| {
            scene
                .pods
                .get(uid)
                .is_some_and(|p| p.deletion_cost != RETIRED_COST)
        })
        .map(|(_, uid)| uid)
        .collect();
    if !whole && !unmarked.is_empty() {
        for uid in unmarked {
            patch_pod(ctx, scene, uid, |pod| pod.set_deletion_cost(RETIRED_COST)).await?;
        }
        return Ok(false);
    }
    set_replicas(ctx, set, to.min(from) as i32).await?;
    Ok(true)
}

/// Deletes one pod for good, so that its SIGTERM handler lets its sessions go: marked and counted out of its ReplicaSet first, as
/// in [`retire`], so that nothing replaces it and nobody else is deleted in its place.
async fn dismiss(
    ctx: &Context,
    scene: &Scene,
    revision: &str,
    (pod, uid): (&str, &str),
    from: u32,
    memory: &Mutex<Memory>,
) -> Result<()> {
    let Some(facts) = scene.pods.get(uid).filter(|facts| !facts.terminating) else {
        return Ok(());
    };
    let marked = facts.deletion_cost == RETIRED_COST;
    let gone = [(pod.to_owned(), uid.to_owned())];
    if !marked {
        return patch_pod(ctx, scene, uid, |pod| pod.set_deletion_cost(RETIRED_COST)).await;
    }
    retire(ctx, scene, revision, &gone, from, from.saturating_sub(1)).await?;
    if delete_pod(ctx, scene, "dismiss a pod", (pod, uid), None).await? {
        trail::dismissed(ctx, scene, uid, memory);
    }
    Ok(())
}

/// Kills a pod of a rehearsal. Its ReplicaSet makes another in its place.
async fn crash(ctx: &Context, scene: &Scene, pod: &str, uid: &str) -> Result<()> {
    delete_pod(ctx, scene, "kill a pod of a rehearsal", (pod, uid), Some(0)).await?;
    Ok(())
}

/// Deletes a pod by its UID, and tells whether it did; one that is gone, or another of its name, is none of ours.
async fn delete_pod(
    ctx: &Context,
    scene: &Scene,
    call: &'static str,
    (pod, uid): (&str, &str),
    grace_seconds: Option<u32>,
) -> Result<bool> {
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &scene.observed.rollout.namespace);
    let params = DeleteParams {
        grace_period_seconds: grace_seconds,
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match ctx.write(call, pods.delete(pod, &params)).await {
        Ok(_) => Ok(true),
        Err(Error::Raced { .. }) => Ok(false),
        Err(Error::Api { source, .. }) if is_gone(&source) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn point_slot(ctx: &Context, scene: &Scene, slot: &str, revision: &str) -> Result<()> {
    let rollout = &scene.observed.rollout;
    let services: Api<Service> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let target = revisions::traffic_port(scene, revision);
    match scene.slots.get(slot) {
        Some(service) if !problems::is_slot(service, &rollout.name) => Err(Error::SlotTaken {
            name: service.name_any(),
        }),
        Some(service) => {
            let Some(patch) = slots::repoint_patch(service, revision, rollout.spec.traffic.port, target)
            else {
                return Ok(());
            };
            let patch = Patch::Json::<()>(patch);
            ctx.write(
                "point a slot",
                services.patch(&service.name_any(), &managed(MANAGER_ROUTES), &patch),
            )
            .await?;
            Ok(())
        }
        None => {
            let port = rollout.spec.traffic.port;
            let service = slots::build(&parent(rollout), slot, revision, port, target);
            existing_is_fine(
                ctx.write("create a slot", services.create(&params(), &service))
                    .await,
            )
        }
    }
}

async fn set_weights(ctx: &Context, scene: &Scene, weights: &BTreeMap<String, i32>) -> Result<()> {
    let rollout = &scene.observed.rollout;
    let routes: Api<HTTPRoute> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let by_service = weights
        .iter()
        .map(|(slot, w)| (slots::service_name(&rollout.name, slot), *w))
        .collect();
    for route in &scene.routes {
        if let Some(patch) = http_route::weights_patch(route, &by_service) {
            let patch = Patch::Json::<()>(patch);
            ctx.write(
                "write weights",
                routes.patch(&route.name_any(), &managed(MANAGER_ROUTES), &patch),
            )
            .await?;
        }
    }
    Ok(())
}

/// A pin as our pins route's annotation tells it, so that the next round knows what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenPin {
    /// `probe`, `hint` (query), `hintPath` or `hintHeader`.
    kind: String,
    /// The value.
    value: String,
    /// The slot.
    slot: String,
}

impl WrittenPin {
    /// The annotation's form.
    pub fn of(pin: &PinRule) -> Self {
        let kind = match pin.kind {
            PinKind::ProbeHeader => "probe",
            PinKind::HintQuery => "hint",
            PinKind::HintPath => "hintPath",
            PinKind::HintHeader => "hintHeader",
        };
        Self {
            kind: kind.to_owned(),
            value: pin.value.clone(),
            slot: pin.slot.clone(),
        }
    }

    /// The engine's form; `None` for a kind that we do not know.
    pub fn read(&self) -> Option<PinRule> {
        let kind = match self.kind.as_str() {
            "probe" => PinKind::ProbeHeader,
            "hint" => PinKind::HintQuery,
            "hintPath" => PinKind::HintPath,
            "hintHeader" => PinKind::HintHeader,
            _ => return None,
        };
        Some(PinRule {
            kind,
            value: self.value.clone(),
            slot: self.slot.clone(),
        })
    }
}

/// The pins routes for these pins, each with the annotation that tells which pins they are.
pub fn pins_routes(
    rollout: &ValidatedRollout,
    routes: &[HTTPRoute],
    pins: &[WrittenPin],
) -> std::result::Result<Vec<HTTPRoute>, pins::Error> {
    let wanted: Vec<Pin> = pins
        .iter()
        .filter_map(WrittenPin::read)
        .map(|pin| Pin {
            carrier: match pin.kind {
                PinKind::ProbeHeader => Carrier::Probe,
                PinKind::HintQuery => Carrier::Hint,
                PinKind::HintPath => Carrier::HintPath,
                PinKind::HintHeader => Carrier::HintHeader,
            },
            value: pin.value,
            service: slots::service_name(&rollout.name, &pin.slot),
        })
        .collect();
    let text = serde_json::to_string(pins).unwrap_or_default();
    let services = slots::service_names(&rollout.name, rollout.slots());
    let mut built = pins::build(
        &parent(rollout),
        routes,
        &services,
        rollout.spec.traffic.port,
        &wanted,
    )?;
    for route in &mut built {
        route
            .annotations_mut()
            .insert(ANNOTATION_PINS.to_owned(), text.clone());
    }
    Ok(built)
}

async fn ensure_pins(ctx: &Context, scene: &Scene, wanted: &[PinRule]) -> Result<()> {
    let rollout = &scene.observed.rollout;
    let written: Vec<WrittenPin> = wanted.iter().map(WrittenPin::of).collect();
    let built = pins_routes(rollout, &scene.routes, &written).map_err(Error::Pins)?;
    let leads_to_nobody = wanted.iter().any(|pin| pin.slot == NOBODY);
    if leads_to_nobody {
        create_nobody(ctx, scene).await?;
    }
    let routes: Api<HTTPRoute> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    for route in &built {
        let params = PatchParams::apply(MANAGER_ROUTES).force();
        ctx.write(
            "write pins",
            routes.patch(&route.name_any(), &params, &Patch::Apply(route)),
        )
        .await?;
    }
    delete_routes(ctx, scene, |name| {
        !built.iter().any(|route| route.name_any() == name)
    })
    .await?;
    if leads_to_nobody {
        return Ok(());
    }
    delete_nobody(ctx, scene).await
}

/// The Service that no pod belongs to, for the pin that leads there.
async fn create_nobody(ctx: &Context, scene: &Scene) -> Result<()> {
    let rollout = &scene.observed.rollout;
    match &scene.nobody {
        Some(service) if slots::leads_to_nobody(service, &rollout.name) => Ok(()),
        Some(service) => Err(Error::SlotTaken {
            name: service.name_any(),
        }),
        None => {
            let services: Api<Service> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
            let service = slots::nobody(&parent(rollout), rollout.spec.traffic.port);
            existing_is_fine(
                ctx.write(
                    "create the service of nobody",
                    services.create(&params(), &service),
                )
                .await,
            )
        }
    }
}

async fn delete_nobody(ctx: &Context, scene: &Scene) -> Result<()> {
    let rollout = &scene.observed.rollout;
    let ours = |service: &&Service| slots::leads_to_nobody(service, &rollout.name);
    let Some(service) = scene.nobody.as_ref().filter(ours) else {
        return Ok(());
    };
    let services: Api<Service> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let name = service.name_any();
    let gone = ctx
        .write(
            "delete the service of nobody",
            services.delete(&name, &DeleteParams::default()),
        )
        .await;
    match gone {
        Ok(_) => Ok(()),
        Err(Error::Api { source, .. }) if is_gone(&source) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes all our pins routes, and what only they lead to.
pub async fn delete_pins(ctx: &Context, scene: &Scene) -> Result<()> {
    // First, since nobody would look for it once the routes are gone.
    delete_nobody(ctx, scene).await?;
    delete_routes(ctx, scene, |_| true).await
}

/// Deletes our pins routes whose name fits; gone already is as good.
async fn delete_routes(ctx: &Context, scene: &Scene, fits: impl Fn(&str) -> bool) -> Result<()> {
    let rollout = &scene.observed.rollout;
    let routes: Api<HTTPRoute> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    for route in scene.pins.iter().filter(|r| fits(&r.name_any())) {
        let gone = ctx
            .write(
                "delete pins",
                routes.delete(&route.name_any(), &DeleteParams::default()),
            )
            .await;
        match gone {
            Ok(_) => {}
            Err(Error::Api { source, .. }) if is_gone(&source) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Patches a pod as it was seen; one that is gone needs no patch.
pub async fn patch_pod(
    ctx: &Context,
    scene: &Scene,
    uid: &str,
    patch: impl Fn(&PodFacts) -> Option<json_patch::Patch>,
) -> Result<()> {
    let Some(facts) = scene.pods.get(uid) else {
        return Ok(());
    };
    let Some(patch) = patch(facts) else { return Ok(()) };
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &scene.observed.rollout.namespace);
    let patch = Patch::Json::<()>(patch);
    match ctx
        .write(
            "label a pod",
            pods.patch(&facts.name, &managed(MANAGER_WORKLOAD), &patch),
        )
        .await
    {
        Err(Error::Api { source, .. }) if is_gone(&source) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

fn drain_port<'a>(scene: &'a Scene, uid: &str) -> Option<(SocketAddr, &'a crate::drain::Token)> {
    let facts = scene.pods.get(uid)?;
    let token = scene.tokens.get(facts.revision.as_ref()?)?;
    Some((SocketAddr::new(facts.ip?, DEFAULT_PORT), token))
}

async fn give_order(ctx: &Context, scene: &Scene, order: &Order, memory: &Mutex<Memory>) -> Result<()> {
    let Some((address, token)) = drain_port(scene, &order.uid) else {
        return Ok(());
    };
    let wire = DrainOrder {
        id: order.id.clone(),
        reason: match order.reason {
            "rollback" => Reason::Rollback,
            "scaleDown" => Reason::ScaleDown,
            _ => Reason::Rollout,
        },
        select: order.count.map_or(Select::All {}, Select::Count),
        mode: wire_mode(order.mode),
        rate_per_second: order.rate_per_second,
        lease_seconds: u32::try_from(order.lease.as_secs()).unwrap_or(30),
        deadline_ms: Some(millis(order.deadline)),
        on_deadline: if order.close_at_deadline {
            OnDeadline::Close
        } else {
            OnDeadline::Wait
        },
        reconnect: Reconnect {
            min_ms: 0,
            max_ms: millis(order.reconnect_window),
            hint: order.hint.clone().map(wire_hint),
        },
        close_code: order.close_code,
    };
    ctx.permit()?;
    match ctx.drain.order(address, token, &wire).await {
        Ok(_) => {
            trail::ordered(ctx, scene, order, memory);
            Ok(())
        }
        Err(source @ (DrainError::Unreachable(_) | DrainError::NoProtocol)) => {
            tracing::debug!(
                pod = order.pod,
                category = source.category(),
                "pod cannot be asked yet"
            );
            Ok(())
        }
        Err(source) => {
            trail::refused(ctx, scene, order, source.category(), memory);
            Err(Error::Order {
                pod: order.pod.clone(),
                source,
            })
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wire_mode(mode: DrainMode) -> Mode {
    match mode {
        DrainMode::Ask => Mode::Ask,
        DrainMode::WhenIdle => Mode::WhenIdle,
        DrainMode::Leave => Mode::Leave,
    }
}

fn wire_hint(hint: plan::Hint) -> Hint {
    match hint {
        plan::Hint::Query(query) => Hint::Query(query),
        plan::Hint::Path(prefix) => Hint::Path(prefix),
        plan::Hint::Header(header) => Hint::Header(header),
    }
}

fn wire_role(role: Role) -> labels::Role {
    match role {
        Role::Rehearsal => labels::Role::Rehearsal,
        Role::Canary => labels::Role::Canary,
        Role::Stable => labels::Role::Stable,
        Role::Draining => labels::Role::Draining,
    }
}

pub fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER_WORKLOAD.to_owned()),
        ..PostParams::default()
    }
}

fn managed(manager: &str) -> PatchParams {
    PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_every_kind_are_read_as_they_were_written() {
        for kind in [
            PinKind::ProbeHeader,
            PinKind::HintQuery,
            PinKind::HintPath,
            PinKind::HintHeader,
        ] {
            let pin = PinRule {
                kind,
                value: "v".to_owned(),
                slot: "b".to_owned(),
            };
            assert_eq!(WrittenPin::of(&pin).read(), Some(pin));
        }
    }
}
