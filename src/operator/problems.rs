//! What stands in the way of a release, found before anything moves. Each problem names the field or object, and the remedy.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use super::apply::{WrittenPin, pins_routes};
use super::context::{Context, Memory, lock};
use super::credentials;
use super::error::Result;
use super::revisions;
use crate::api::spec::HintKind;
use crate::api::{ANNOTATION_ACKNOWLEDGE, ValidatedRollout, WebSocketRollout};
use crate::drain::Token;
use crate::engine::evidence::{ProbeEvidence, ProbeTarget};
use crate::engine::observed::{NOBODY, PinKind, PinRule, Problem};
use crate::traffic::conflicts::{self, Claim, Contested};
use crate::traffic::gateway_api::HTTPRoute;
use crate::traffic::{http_route, slots};
use crate::workload::labels::Role;

/// How long a refusal of the template is believed.
const RETRY: Duration = Duration::from_secs(15);

/// Finds them all.
pub async fn find(
    ctx: &Context,
    live: &WebSocketRollout,
    rollout: &ValidatedRollout,
    revision: &str,
    services: &[Service],
    routes: &[HTTPRoute],
    memory: &Mutex<Memory>,
) -> Result<Vec<Problem>> {
    let contested = contested(ctx, live, rollout);
    // Of a route that belongs to another rollout there is nothing more to say.
    let free: Vec<HTTPRoute> = routes
        .iter()
        .filter(|r| !contested.iter().any(|c| c.route == r.name_any()))
        .cloned()
        .collect();
    let mut found = routes_problems(rollout, routes, &free);
    if found.is_empty() {
        found.extend(pins_problem(rollout, &free));
    }
    found.extend(contested.iter().map(contested_problem));
    found.extend(foreign_services(live, rollout, services));
    found.extend(taken_slots(rollout, services));
    found.extend(credentials::problems(ctx, rollout, memory).await);
    match revisions::missing_image(ctx, rollout) {
        Some(problem) => found.push(problem),
        None => found.extend(dry_run(ctx, rollout, revision, memory).await?),
    }
    found.sort();
    Ok(found)
}

/// Routes of the spec that are not there, and `free` ones (those that are no other rollout's) that cannot be used.
fn routes_problems(rollout: &ValidatedRollout, routes: &[HTTPRoute], free: &[HTTPRoute]) -> Vec<Problem> {
    let ours = slots::service_names(&rollout.name, rollout.slots());
    let wanted = &rollout.spec.traffic.routes;
    let missing = wanted.iter().filter(|w| !routes.iter().any(|r| r.name_any() == w.name)).map(|w| Problem {
        reason: "RouteNotFound",
        message: format!(
            "spec.traffic.routes names HTTPRoute {:?}, which does not exist in namespace {}; create it with the backends {}",
            w.name,
            rollout.namespace,
            ours.join(", ")
        ),
    });
    let wrong = free.iter().filter_map(|route| {
        let error = http_route::validate(route, &ours, rollout.spec.traffic.port).err()?;
        Some(Problem {
            reason: "ForeignBackend",
            message: format!(
                "HTTPRoute {:?} cannot be used: {error}; let its backendRefs be {} with port {}",
                route.name_any(),
                ours.join(", "),
                rollout.spec.traffic.port
            ),
        })
    });
    missing.chain(wrong).collect()
}

/// Pins that a release will need and that cannot be made of these routes: a path that no hint can be put before, a match without room.
fn pins_problem(rollout: &ValidatedRollout, routes: &[HTTPRoute]) -> Option<Problem> {
    let hint = match rollout.spec.drain.notice.hint {
        HintKind::Query => Some(PinKind::HintQuery),
        HintKind::Path => Some(PinKind::HintPath),
        HintKind::Header => Some(PinKind::HintHeader),
        HintKind::None => None,
    };
    let pin = |kind, slot: &&str| {
        WrittenPin::of(&PinRule {
            kind,
            value: "0".repeat(24),
            slot: (*slot).to_owned(),
        })
    };
    let probes = rollout.slots()[..2]
        .iter()
        .map(|slot| pin(PinKind::ProbeHeader, slot));
    let hints = hint.into_iter().map(|kind| pin(kind, &rollout.slots()[0]));
    let wanted: Vec<WrittenPin> = probes.chain(hints).collect();
    let error = pins_routes(rollout, routes, &wanted).err()?;
    Some(Problem {
        reason: "PinsImpossible",
        message: format!("the route that leads probes and moved sessions cannot be made: {error}"),
    })
}

/// A route belongs to the rollout that was there first.
fn contested(ctx: &Context, live: &WebSocketRollout, rollout: &ValidatedRollout) -> Vec<Contested> {
    let claim = |r: &WebSocketRollout| Claim {
        rollout: r.name_any(),
        created: r.creation_timestamp().map(|t| t.0),
        routes: r
            .spec
            .traffic
            .routes
            .iter()
            .map(|route| route.name.clone())
            .collect(),
    };
    let others: Vec<Claim> = ctx
        .stores
        .rollouts
        .state()
        .iter()
        .filter_map(|guarded| guarded.0.as_ref().ok())
        .filter(|r| r.namespace().as_deref() == Some(&rollout.namespace) && r.name_any() != rollout.name)
        .map(claim)
        .collect();
    conflicts::contested_routes(&claim(live), &others)
}

fn contested_problem(contested: &Contested) -> Problem {
    Problem {
        reason: "RouteContested",
        message: format!(
            "HTTPRoute {:?} belongs to the rollout {:?} already; give each rollout a route of its own",
            contested.route, contested.holder
        ),
    }
}

fn foreign_services(
    live: &WebSocketRollout,
    rollout: &ValidatedRollout,
    services: &[Service],
) -> Vec<Problem> {
    let acknowledged: Vec<&str> = live
        .annotations()
        .get(ANNOTATION_ACKNOWLEDGE)
        .map(|list| list.split(',').map(str::trim).collect())
        .unwrap_or_default();
    let labels = rollout
        .template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    conflicts::selecting_services(services, &rollout.name, &labels, &slots::service_names(&rollout.name, rollout.slots()))
        .into_iter()
        .filter(|service| !acknowledged.contains(&service.acknowledgement().as_str()))
        .map(|service| Problem {
            reason: "ServiceSelectsRehearsal",
            message: format!(
                "Service {:?} selects the pods of rehearsals and canaries too, so its users would meet untried revisions; \
                 add wsroll.dev/role: stable to its selector, or accept it with the annotation {ANNOTATION_ACKNOWLEDGE}: {}",
                service.name,
                service.acknowledgement()
            ),
        })
        .collect()
}

fn taken_slots(rollout: &ValidatedRollout, services: &[Service]) -> Vec<Problem> {
    let ours = slots::service_names(&rollout.name, rollout.slots());
    let nobody = slots::service_name(&rollout.name, NOBODY);
    services
        .iter()
        .filter(|s| {
            let slot = ours.contains(&s.name_any()) && !is_slot(s, &rollout.name);
            slot || (s.name_any() == nobody && !slots::leads_to_nobody(s, &rollout.name))
        })
        .map(|s| Problem {
            reason: "SlotTaken",
            message: format!(
                "Service {:?} exists and is not a slot of this rollout; rename it, or the rollout",
                s.name_any()
            ),
        })
        .collect()
}

/// Probes that cannot reach the revision that users are on would judge no other: a wrong URL, an expired token.
pub fn probes_fail(rollout: &ValidatedRollout, evidence: &[ProbeEvidence]) -> Option<Problem> {
    let stable = evidence.iter().find(|e| e.target == ProbeTarget::Stable)?;
    let failing = stable.open == 0 && stable.failures_in_a_row > 0;
    failing.then(|| Problem {
        reason: "ProbesFailing",
        message: format!(
            "probes cannot hold a session at spec.probes.url {:?}{}: {}; correct spec.probes (url, connectTo, headers, tokenFrom), \
             or mend the service",
            rollout.spec.probes.url,
            rollout.spec.probes.connect_to.as_ref().map(|to| format!(" by way of {to}")).unwrap_or_default(),
            stable.last_failure.as_deref().unwrap_or("no detail")
        ),
    })
}

/// Whether a Service is a slot of a rollout of this name. The UID is not asked: a rollout that is applied again finds its own.
pub fn is_slot(service: &Service, rollout: &str) -> bool {
    service
        .labels()
        .get(crate::workload::labels::ROLLOUT)
        .is_some_and(|name| name == rollout)
        && slots::slot_of(service).is_some()
}

/// Asks the API server whether it would take the ReplicaSet: the template is kept unpruned in our resource, so that its errors
/// are the API server's own, by field.
async fn dry_run(
    ctx: &Context,
    rollout: &ValidatedRollout,
    revision: &str,
    memory: &Mutex<Memory>,
) -> Result<Option<Problem>> {
    // What is taken stays taken; what is refused may be so by a quota that somebody mends.
    let known = lock(memory).dry_run.clone();
    let known =
        known.filter(|(hash, refused, at)| hash == revision && (refused.is_none() || at.elapsed() < RETRY));
    let outcome = if let Some((_, outcome, _)) = known {
        outcome
    } else {
        let outcome = refused(ctx, rollout, revision).await?;
        lock(memory).dry_run = Some((revision.to_owned(), outcome.clone(), Instant::now()));
        outcome
    };
    Ok(outcome.map(|message| Problem {
        reason: "TemplateInvalid",
        message: format!("spec.template is refused by the API server: {message}"),
    }))
}

async fn refused(ctx: &Context, rollout: &ValidatedRollout, revision: &str) -> Result<Option<String>> {
    // The real one is not known yet, and nobody starts from this.
    let keys = revisions::Keys {
        token: Token::new("dry-run"),
        tls: true,
    };
    let set = match revisions::build(ctx, rollout, revision, 0, Role::Rehearsal, &keys) {
        Ok(set) => set,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let set: ReplicaSet = match serde_json::from_value(set) {
        Ok(set) => set,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let sets: Api<ReplicaSet> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match ctx.read("try the template", sets.create(&params, &set)).await {
        Err(super::error::Error::Api { source, .. }) => match *source {
            kube::Error::Api(status) if status.code == 422 || status.code == 400 || status.code == 403 => {
                Ok(Some(status.message.clone()))
            }
            source => Err(super::error::Error::api("try the template", source)),
        },
        // Already there, so it was taken before.
        Err(super::error::Error::Raced { .. }) | Ok(_) => Ok(None),
        Err(error) => Err(error),
    }
}
