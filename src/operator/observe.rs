//! Observe: one moment of the cluster, from the caches, from the pods themselves, and from the probes.

use std::collections::BTreeMap;
use std::sync::Mutex;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;

use super::context::{Context, Memory, lock};
use super::error::Result;
use super::sessions::Polled;
use super::{accounting, probing, problems, sessions};
use crate::analysis::Subject;
use crate::api::status::{Request, State};
use crate::api::{ALL_SLOTS, ANNOTATION_REQUEST, RolloutStatus, ValidatedRollout, WebSocketRollout};
use crate::drain::Token;
use crate::drain::protocol::{DrainState, SessionsReport};
use crate::engine::Observed;
use crate::engine::evidence::{ProbeEvidence, RehearsalReport};
use crate::engine::observed::{
    DrainView, MetricView, NOBODY, PinsView, PodView, RevisionView, RouteView, SessionsView,
};
use crate::probe::Seen;
use crate::traffic::gateway_api::HTTPRoute;
use crate::traffic::{http_route, pins, slots};
use crate::workload::labels::{self, Parent};
use crate::workload::pods::PodFacts;
use crate::workload::revision::Revision;
use crate::workload::{address, replica_set, scale};

/// The objects that a round decides on and acts on.
pub struct Scene {
    /// What the engine is shown.
    pub observed: Observed,
    /// ReplicaSets by revision.
    pub sets: BTreeMap<String, ReplicaSet>,
    /// Pods by UID.
    pub pods: BTreeMap<String, PodFacts>,
    /// The user's routes.
    pub routes: Vec<HTTPRoute>,
    /// The pins routes that exist.
    pub pins: Vec<HTTPRoute>,
    /// The slots' Services, by slot.
    pub slots: BTreeMap<String, Service>,
    /// The Service of the name that leads to nobody, whoever made it.
    pub nobody: Option<Service>,
    /// Drain tokens by revision.
    pub tokens: BTreeMap<String, Token>,
}

/// Looks at everything that belongs to a rollout.
pub async fn observe(
    ctx: &Context,
    live: &WebSocketRollout,
    rollout: ValidatedRollout,
    memory: &Mutex<Memory>,
) -> Result<Scene> {
    let revision = Revision::of(&rollout.spec.template);
    let namespace = rollout.namespace.as_str();
    let sets = replica_sets(ctx, namespace, &rollout.name);
    let pods = address::vouched(&sets, pods(ctx, namespace, &rollout.name));
    let tokens = sessions::tokens(ctx, &rollout, &sets, memory).await?;
    let polled = sessions::poll(ctx, &rollout, &sets, &pods, &tokens).await;
    let facts: BTreeMap<String, PodFacts> = pods
        .iter()
        .filter_map(|p| PodFacts::of(p))
        .map(|f| (f.uid.clone(), f))
        .collect();
    let status = live.status.clone().unwrap_or_default();
    sessions::count_unannounced(memory, &status, &facts, &polled, (ctx.now)());
    // After the sessions: whoever is no longer among them has been released, and is read here before its pod can go.
    let accounts = accounting::account(ctx, &rollout, &status, &pods, &tokens, &polled.reports, memory).await;

    let services = in_namespace(&ctx.stores.services.state(), namespace);
    let routes = in_namespace(&ctx.stores.routes.state(), namespace);
    let slots = slots_there(&services, &rollout);
    let nobody = slots::service_name(&rollout.name, NOBODY);
    let nobody = services.iter().find(|s| s.name_any() == nobody).cloned();
    let (mine, pins_there) = our_routes(&rollout, &routes);

    let waiting = matches!(
        status.state,
        None | Some(State::Initializing(_) | State::Preflight(_))
    );
    let deleted = live.metadata.deletion_timestamp.is_some();
    let mut problems = if !deleted && (waiting || status.stable.as_deref() != Some(&revision.hash)) {
        problems::find(ctx, live, &rollout, &revision.hash, &services, &mine, memory).await?
    } else {
        Vec::new()
    };
    let (rehearsal, evidence) = probed(ctx, &rollout);
    sessions::count_probes(
        ctx,
        &rollout,
        memory,
        &evidence,
        status.stable.as_deref().unwrap_or_default(),
    );
    if waiting {
        problems
            .extend(probing::refused(ctx, &rollout).or_else(|| problems::probes_fail(&rollout, &evidence)));
    }
    let metrics = metrics(ctx, &rollout, &status);
    let (look, unannounced, cuts) = {
        let memory = lock(memory);
        (memory.look.clone(), memory.unannounced, memory.cuts.clone())
    };
    let observed = Observed {
        template_hash: revision.hash,
        template_images: revision.images,
        status,
        request: request(live),
        revisions: views(&sets, &facts, &pods, &polled),
        slots: slots
            .iter()
            .filter_map(|(slot, service)| Some((slot.clone(), slots::selected_revision(service)?.to_owned())))
            .collect(),
        routes: mine.iter().map(|route| route_view(route, &rollout)).collect(),
        pins: pins_view(&pins_there, &mine, &rollout),
        look,
        rehearsal,
        evidence,
        metrics,
        problems,
        unannounced,
        cuts,
        accounts,
        entropy: entropy(),
        rollout,
    };
    Ok(Scene {
        observed,
        sets,
        pods: facts,
        routes: mine,
        pins: pins_there,
        slots,
        nobody,
        tokens,
    })
}

/// The longest request, bytes: its nonce goes into status, and an annotation may have 256 KiB.
const MAX_REQUEST: usize = 1024;

/// Marks our pins routes, and tells which pins they carry.
pub const ANNOTATION_PINS: &str = "wsroll.dev/pins";

/// Identifies a rollout among all.
pub fn key(rollout: &ValidatedRollout) -> String {
    format!("{}/{}", rollout.namespace, rollout.name)
}

/// What every child of a rollout carries.
pub fn parent(rollout: &ValidatedRollout) -> Parent<'_> {
    Parent {
        name: &rollout.name,
        namespace: &rollout.namespace,
        uid: &rollout.uid,
    }
}

/// The routes of the user's that the rollout names, and our pins routes.
fn our_routes(rollout: &ValidatedRollout, routes: &[HTTPRoute]) -> (Vec<HTTPRoute>, Vec<HTTPRoute>) {
    let wanted = rollout.spec.traffic.routes.iter();
    let mine = wanted.filter_map(|wanted| routes.iter().find(|r| r.name_any() == wanted.name).cloned());
    let pins = routes
        .iter()
        .filter(|r| r.annotations().contains_key(ANNOTATION_PINS) && is_ours(r.labels(), &rollout.name));
    (mine.collect(), pins.cloned().collect())
}

/// The slots' Services that exist.
fn slots_there(services: &[Service], rollout: &ValidatedRollout) -> BTreeMap<String, Service> {
    // A slot that an edit took away may still hold a revision.
    ALL_SLOTS
        .into_iter()
        .filter_map(|slot| {
            let name = slots::service_name(&rollout.name, slot);
            let wanted = rollout.slots().contains(&slot);
            services
                .iter()
                .find(|s| s.name_any() == name && (wanted || problems::is_slot(s, &rollout.name)))
                .map(|s| (slot.to_owned(), s.clone()))
        })
        .collect()
}

/// What the probes have seen: of a rehearsal, or of a fleet.
fn probed(ctx: &Context, rollout: &ValidatedRollout) -> (Option<RehearsalReport>, Vec<ProbeEvidence>) {
    match ctx.probes.observe(&key(rollout)).map(|p| p.seen) {
        Some(Seen::Rehearsal(report)) => (Some(*report), Vec::new()),
        Some(Seen::Fleet(evidence)) => (None, evidence),
        None => (None, Vec::new()),
    }
}

/// Asks what is due of `spec.analysis` while a release is judged; each part of it begins from nothing.
fn metrics(ctx: &Context, rollout: &ValidatedRollout, status: &RolloutStatus) -> Vec<MetricView> {
    let judged = matches!(
        status.state,
        Some(
            State::Surging(_)
                | State::Shifting(_)
                | State::Moving(_)
                | State::Analysing(_)
                | State::Paused(_)
                | State::Soaking(_)
        )
    );
    let release = status.release.as_ref().filter(|_| judged);
    let asked = release.and_then(|release| {
        let trial = release.trial.as_ref()?;
        let subject = Subject {
            namespace: rollout.namespace.clone(),
            name: rollout.name.clone(),
            release: release.number,
            revision: release.canary.clone(),
            stable: release.stable.clone(),
            step: trial.step,
        };
        Some((
            format!("{}-{}-{}", release.id, trial.step, trial.settled),
            subject,
        ))
    });
    let asked = asked
        .as_ref()
        .map(|(run, subject)| (run.as_str(), rollout.spec.analysis.as_slice(), subject));
    ctx.analysis.observe(&key(rollout), asked)
}

fn entropy() -> String {
    (0..2)
        .map(|_| crate::traffic::pins::random_value())
        .collect::<String>()
        .to_lowercase()
        + &crate::traffic::pins::random_value().to_lowercase()
}

fn is_ours(labels: &BTreeMap<String, String>, rollout: &str) -> bool {
    labels.get(labels::ROLLOUT).is_some_and(|name| name == rollout)
}

fn in_namespace<K: kube::Resource + Clone>(all: &[std::sync::Arc<K>], namespace: &str) -> Vec<K> {
    all.iter()
        .filter(|o| o.meta().namespace.as_deref() == Some(namespace))
        .map(|o| (**o).clone())
        .collect()
}

fn replica_sets(ctx: &Context, namespace: &str, rollout: &str) -> BTreeMap<String, ReplicaSet> {
    ctx.stores
        .replica_sets
        .state()
        .into_iter()
        .filter(|set| set.namespace().as_deref() == Some(namespace) && is_ours(set.labels(), rollout))
        .filter_map(|set| Some((replica_set::revision_of(&set)?.to_owned(), (*set).clone())))
        .collect()
}

fn pods(ctx: &Context, namespace: &str, rollout: &str) -> Vec<std::sync::Arc<Pod>> {
    let all = ctx.stores.pods.state().into_iter();
    all.filter(|pod| pod.namespace().as_deref() == Some(namespace) && is_ours(pod.labels(), rollout))
        .collect()
}

fn views(
    sets: &BTreeMap<String, ReplicaSet>,
    facts: &BTreeMap<String, PodFacts>,
    pods: &[std::sync::Arc<Pod>],
    polled: &Polled,
) -> BTreeMap<String, RevisionView> {
    sets.iter()
        .map(|(revision, set)| {
            let pods = pods
                .iter()
                .filter_map(|pod| facts.get(&pod.uid()?))
                .filter(|f| f.revision.as_ref() == Some(revision) && !f.finished)
                .map(|f| pod_view(f, polled.reports.get(&f.uid)))
                .collect();
            (
                revision.clone(),
                RevisionView {
                    replicas: scale::replicas(set).max(0).unsigned_abs(),
                    via: replica_set::via_of(set),
                    speaks: polled.speaks.get(revision).copied(),
                    trouble: replica_set::failure(set),
                    pods,
                },
            )
        })
        .collect()
}

fn pod_view(facts: &PodFacts, report: Option<&SessionsReport>) -> PodView {
    PodView {
        name: facts.name.clone(),
        uid: facts.uid.clone(),
        ready: facts.ready && !facts.terminating,
        terminating: facts.terminating,
        serving: facts.serving,
        role: facts.role.map(|r| r.as_str().to_owned()),
        deletion_cost: Some(facts.deletion_cost).filter(|cost| *cost != 0),
        trouble: facts.trouble.clone(),
        sessions: report.map(sessions_view),
    }
}

fn sessions_view(report: &SessionsReport) -> SessionsView {
    let totals = report.totals.clone().unwrap_or_default();
    SessionsView {
        open: report.open,
        dormant: report.dormant,
        oldest_ms: report.oldest_ms,
        instance: report.instance.clone().unwrap_or_default(),
        refused: totals.refused,
        resumed: totals.resumed,
        resume_failed: totals.resume_failed,
        state_lost: totals.state_lost,
        drain: report.drain.as_ref().map(|d| DrainView {
            id: d.id.clone(),
            state: match d.state {
                DrainState::Active => "active",
                DrainState::Paused => "paused",
                DrainState::Done => "done",
                DrainState::Cancelled => "cancelled",
                DrainState::Unknown => "unknown",
            }
            .to_owned(),
            notified: d.notified.unwrap_or_default(),
            closed_clean: d.closed_clean.unwrap_or_default(),
            closed_forced: d.closed_forced.unwrap_or_default(),
            lease_expires_ms: d.lease_expires_ms,
            rate_per_second: d.rate_per_second,
        }),
    }
}

fn route_view(route: &HTTPRoute, rollout: &ValidatedRollout) -> RouteView {
    let services = slots::service_names(&rollout.name, rollout.slots());
    let rules = http_route::weights(route, &services)
        .into_iter()
        .map(|rule| {
            let by_slot = rule.weights.iter().filter_map(|(service, weight)| {
                let slot = ALL_SLOTS
                    .into_iter()
                    .find(|slot| slots::service_name(&rollout.name, slot) == *service)?;
                Some((slot.to_owned(), *weight))
            });
            by_slot.collect()
        })
        .collect();
    RouteView {
        name: route.name_any(),
        rules,
        accepted: acceptance(route),
    }
}

/// Whether the gateway took a route, and if not, what it says.
fn acceptance(route: &HTTPRoute) -> Result<(), String> {
    match http_route::accepted(route) {
        http_route::Acceptance::Accepted => Ok(()),
        http_route::Acceptance::Pending(why) => Err(format!(
            "route {} is not programmed yet: {}",
            route.name_any(),
            why.join(", ")
        )),
        http_route::Acceptance::Refused(why) => Err(format!(
            "route {} is refused: {}",
            route.name_any(),
            why.join(", ")
        )),
    }
}

fn pins_view(there: &[HTTPRoute], routes: &[HTTPRoute], rollout: &ValidatedRollout) -> Option<PinsView> {
    let carried: Vec<super::apply::WrittenPin> = there
        .first()?
        .annotations()
        .get(ANNOTATION_PINS)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let wanted = super::apply::pins_routes(rollout, routes, &carried).unwrap_or_default();
    let current = wanted.len() == there.len()
        && wanted.iter().all(|w| {
            there
                .iter()
                .any(|t| t.name_any() == w.name_any() && pins::is_current(t, w))
        });
    let accepted = there
        .iter()
        .map(acceptance)
        .find(std::result::Result::is_err)
        .unwrap_or(Ok(()));
    let mut pins: Vec<_> = carried
        .iter()
        .filter_map(super::apply::WrittenPin::read)
        .collect();
    pins.sort();
    Some(PinsView {
        pins,
        current,
        accepted,
    })
}

fn request(live: &WebSocketRollout) -> Option<Request> {
    let text = live.annotations().get(ANNOTATION_REQUEST)?;
    if text.len() > MAX_REQUEST {
        tracing::warn!(bytes = text.len(), "a request is too long to be one");
        return None;
    }
    match serde_json::from_str::<Request>(text) {
        Ok(request) => {
            let seen = live.status.as_ref().and_then(|s| s.last_request.as_ref());
            (seen.map(|r| &r.nonce) != Some(&request.nonce)).then_some(request)
        }
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a request cannot be read"
            );
            None
        }
    }
}
