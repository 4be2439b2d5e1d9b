//! Who sends connections: routes and their timeouts, affinity, Services and policies around the pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use super::objects::{Object, duration, selects, short};
use super::{Finding, Scene};
use crate::api::ANNOTATION_ACKNOWLEDGE;
use crate::api::spec::{HintKind, Via};
use crate::drain::protocol::DEFAULT_PORT;
use crate::traffic::{HTTPRoute, conflicts, http_route, slots};
use crate::workload::sidecar::TRAFFIC_PORT;

/// Sessions without pings are believed to be silent for so long at most.
const SILENT: Duration = Duration::from_secs(300);

/// Where policies of gateways write timeouts that end a WebSocket: kind, path, and whether silence is what it counts.
const TIMEOUTS: [(&str, &[&str], bool); 7] = [
    (
        "BackendTrafficPolicy",
        &["spec", "timeout", "http", "requestTimeout"],
        false,
    ),
    (
        "BackendTrafficPolicy",
        &["spec", "timeout", "http", "maxConnectionDuration"],
        false,
    ),
    (
        "BackendTrafficPolicy",
        &["spec", "timeout", "http", "connectionIdleTimeout"],
        true,
    ),
    (
        "ClientTrafficPolicy",
        &["spec", "timeout", "http", "idleTimeout"],
        true,
    ),
    (
        "ClientTrafficPolicy",
        &["spec", "timeout", "http", "streamIdleTimeout"],
        true,
    ),
    (
        "ClientTrafficPolicy",
        &["spec", "connection", "maxConnectionDuration"],
        false,
    ),
    ("GCPBackendPolicy", &["spec", "default", "timeoutSec"], false),
];

pub(super) fn rules(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let names: Vec<&str> = scene
        .rollout
        .spec
        .traffic
        .routes
        .iter()
        .map(|r| r.name.as_str())
        .collect();
    for object in scene.beside("HTTPRoute").filter(|o| names.contains(&o.name())) {
        route(scene, object, found);
    }
    policies(scene, found);
    services(scene, found);
    network(scene, found);
}

fn our_slots(scene: &Scene<'_>) -> Vec<String> {
    slots::service_names(&scene.rollout.name, scene.rollout.slots())
}

fn route(scene: &Scene<'_>, object: &Object, found: &mut Vec<Finding>) {
    let ours = our_slots(scene);
    let route: HTTPRoute = match serde_json::from_value(object.value.clone()) {
        Ok(route) => route,
        Err(error) => {
            let remedy = "write it as the Gateway API says";
            found.push(object.error("Unreadable", "spec", error.to_string(), remedy));
            return;
        }
    };
    if let Err(error) = http_route::validate(&route, &ours, scene.rollout.spec.traffic.port) {
        let remedy = format!(
            "let its backendRefs be {} with weights 100 and 0",
            ours.join(", ")
        );
        found.push(object.error(
            "ForeignBackend",
            "spec.rules[].backendRefs",
            error.to_string(),
            &remedy,
        ));
    }
    for rule in http_route::weights(&route, &ours) {
        let at = format!("spec.rules[{}]", rule.rule);
        let value = &object.value["spec"]["rules"][rule.rule];
        for name in ["request", "backendRequest"] {
            let limit = duration(&value["timeouts"][name]).filter(|limit| !limit.is_zero());
            if let Some(limit) = limit {
                timeout(
                    scene,
                    object,
                    &format!("{at}.timeouts.{name}"),
                    limit,
                    false,
                    found,
                );
            }
        }
        if value["sessionPersistence"].is_object() {
            affinity(
                object,
                &format!("{at}.sessionPersistence"),
                &value["sessionPersistence"],
                found,
            );
        }
        hint_by_path(scene, object, &at, value, found);
    }
}

/// A limit that ends sockets: after so long whatever happens on them, or after so long a silence.
fn timeout(
    scene: &Scene<'_>,
    object: &Object,
    field: &str,
    limit: Duration,
    idle: bool,
    found: &mut Vec<Finding>,
) {
    let ping = scene
        .rollout
        .spec
        .drain
        .sidecar
        .as_ref()
        .and_then(|s| s.ping_interval)
        .map(|p| p.0);
    let remedy = if idle {
        "make it at least three ping intervals, and let the application or the sidecar (drain.sidecar.pingInterval) send pings"
    } else {
        "set it to 0s for this rule: a WebSocket is one request that lasts as long as its session"
    };
    match (idle, ping) {
        (true, Some(ping)) if limit > ping => {}
        (true, None) if limit >= SILENT => {}
        (true, Some(ping)) => found.push(object.error(
            "IdleBelowPing",
            field,
            format!("{} is not longer than drain.sidecar.pingInterval {}: silent sessions are cut", short(limit), short(ping)),
            remedy,
        )),
        (true, None) => found.push(object.warning(
            "IdleBelowPing",
            field,
            format!("{}: sessions that are silent for so long are cut, unless the application sends pings more often", short(limit)),
            remedy,
        )),
        (false, _) => found.push(object.warning(
            "SessionTimeout",
            field,
            format!("{}: gateways that apply it to upgraded connections cut every session at that age", short(limit)),
            remedy,
        )),
    }
}

/// Something that leads a client back to where it was.
fn affinity(object: &Object, field: &str, value: &Value, found: &mut Vec<Finding>) {
    let lasts = duration(&value["absoluteTimeout"]).map(|t| format!(" for {}", short(t)));
    found.push(object.warning(
        "AffinityOutlivesDrain",
        field,
        format!(
            "clients are led back to the backend they were on{}: who is asked to move comes back to the old revision",
            lasts.unwrap_or_default()
        ),
        "remove it: sessions find their state by their identity, not by their pod",
    ));
}

fn hint_by_path(scene: &Scene<'_>, object: &Object, at: &str, rule: &Value, found: &mut Vec<Finding>) {
    if scene.rollout.spec.drain.notice.hint != HintKind::Path {
        return;
    }
    let url = url::Url::parse(&scene.rollout.spec.probes.url).ok();
    let users = url.as_ref().map_or("/", url::Url::path);
    for (index, one) in rule["matches"].as_array().into_iter().flatten().enumerate() {
        let field = format!("{at}.matches[{index}].path");
        let (kind, path) = (
            one["path"]["type"].as_str(),
            one["path"]["value"].as_str().unwrap_or("/"),
        );
        if kind == Some("RegularExpression") {
            found.push(object.error(
                "HintPath",
                &field,
                format!("{path:?} is a regular expression, which a hint by path cannot be put before"),
                "use drain.notice.hint Query or Header, or match a prefix",
            ));
        } else if !users.starts_with(path.trim_end_matches('/')) {
            found.push(object.warning(
                "HintPath",
                &field,
                format!("{path:?} is not the path of spec.probes.url ({users}): its clients are told that path, and come back to it"),
                "use drain.notice.hint Query or Header, or give each path a rollout of its own",
            ));
        }
    }
}

fn policies(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    for (kind, path, idle) in TIMEOUTS {
        for object in scene.all.of(kind).filter(|o| concerns(scene, o)) {
            let limit = duration(object.at(path)).filter(|limit| !limit.is_zero());
            if let Some(limit) = limit {
                timeout(scene, object, &path.join("."), limit, idle, found);
            }
        }
    }
    for kind in ["BackendLBPolicy", "XBackendTrafficPolicy"] {
        for object in scene.all.of(kind).filter(|o| concerns(scene, o)) {
            let value = object.at(&["spec", "sessionPersistence"]);
            if value.is_object() {
                affinity(object, "spec.sessionPersistence", value, found);
            }
        }
    }
}

/// Whether a policy is attached to a route of the rollout, to a slot, or to a Gateway that its routes name.
fn concerns(scene: &Scene<'_>, policy: &Object) -> bool {
    let single = std::iter::once(policy.at(&["spec", "targetRef"]));
    let several = policy
        .at(&["spec", "targetRefs"])
        .as_array()
        .into_iter()
        .flatten();
    let routes: Vec<&str> = scene
        .rollout
        .spec
        .traffic
        .routes
        .iter()
        .map(|r| r.name.as_str())
        .collect();
    let ours = our_slots(scene);
    let gateways: Vec<&str> = scene
        .beside("HTTPRoute")
        .filter(|o| routes.contains(&o.name()))
        .filter_map(|o| o.at(&["spec", "parentRefs"]).as_array())
        .flatten()
        .filter_map(|parent| parent["name"].as_str())
        .collect();
    single.chain(several).any(|target| {
        let name = target["name"].as_str().unwrap_or_default();
        match target["kind"].as_str() {
            Some("HTTPRoute") => policy.is_beside(scene.object) && routes.contains(&name),
            Some("Service") => policy.is_beside(scene.object) && ours.iter().any(|slot| slot == name),
            Some("Gateway") => gateways.contains(&name),
            _ => false,
        }
    })
}

fn services(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let ours = our_slots(scene);
    let labels = scene
        .rollout
        .template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.clone());
    let labels = labels.unwrap_or_default();
    let accepted = scene
        .object
        .annotation(ANNOTATION_ACKNOWLEDGE)
        .unwrap_or_default();
    for object in scene.beside("Service") {
        let Ok(service) = serde_json::from_value::<Service>(object.value.clone()) else {
            continue;
        };
        let hits = conflicts::selecting_services(
            std::slice::from_ref(&service),
            &scene.rollout.name,
            &labels,
            &ours,
        );
        for hit in hits {
            if !accepted.split(',').any(|a| a.trim() == hit.acknowledgement()) {
                found.push(object.error(
                    "ServiceSelectsRehearsal",
                    "spec.selector",
                    "it selects the pods of rehearsals and canaries too, so its users would meet untried revisions".to_owned(),
                    &format!(
                        "add wsroll.dev/role: stable to its selector, or accept it with the annotation {ANNOTATION_ACKNOWLEDGE}: {}",
                        hit.acknowledgement()
                    ),
                ));
            }
        }
        let selector = serde_json::json!({"matchLabels": object.at(&["spec", "selector"])});
        let selector_there = object
            .at(&["spec", "selector"])
            .as_object()
            .is_some_and(|s| !s.is_empty());
        let leads = selector_there && selects(&selector, &scene.pod_labels())
            || ours.iter().any(|s| s == object.name());
        if leads {
            around_the_pods(object, found);
        }
    }
}

/// What a Service in front of the pods does to sessions.
fn around_the_pods(object: &Object, found: &mut Vec<Finding>) {
    if object.at(&["spec", "sessionAffinity"]) == "ClientIP" {
        let seconds = object.at(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
        let lasts = short(duration(seconds).unwrap_or(Duration::from_secs(10_800)));
        found.push(object.warning(
            "AffinityOutlivesDrain",
            "spec.sessionAffinity",
            format!("ClientIP keeps a client at its pod for {lasts}: who is asked to move may come back to the pod that lets it go"),
            "set it to None: sessions find their state by their identity, not by their pod",
        ));
    }
    let attributes = "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes";
    let cuts = object
        .annotation(attributes)
        .is_some_and(|a| a.contains("deregistration_delay.connection_termination.enabled=true"));
    if cuts {
        found.push(object.warning(
            "CutOnEndpointRemoval",
            &format!("metadata.annotations[{attributes}]"),
            "the load balancer cuts the sessions of a pod that leaves rotation, before they were asked to move".to_owned(),
            "set deregistration_delay.connection_termination.enabled=false",
        ));
    }
}

/// Ports that policies keep shut. What several policies allow adds up.
fn network(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let labels = scene.pod_labels();
    let policies: Vec<&Object> = scene
        .beside("NetworkPolicy")
        .filter(|o| selects(o.at(&["spec", "podSelector"]), &labels) && is_about_ingress(o))
        .collect();
    let Some(first) = policies.first() else { return };
    let mut shut = |port: u16, severe: bool, what: &str| {
        if policies.iter().any(|policy| allows(policy, port)) {
            return;
        }
        let problem = format!("no rule lets port {port} in: {what}");
        let remedy = format!("allow port {port}");
        found.push(if severe {
            first.error("PortShut", "spec.ingress", problem, &remedy)
        } else {
            first.warning("PortShut", "spec.ingress", problem, &remedy)
        });
    };
    let drain = &scene.rollout.spec.drain;
    if drain.via != Via::Signal {
        shut(
            DEFAULT_PORT,
            drain.via != Via::Auto,
            "the operator cannot ask the pods for their sessions, nor to let them go",
        );
    }
    if drain.via == Via::Sidecar {
        shut(TRAFFIC_PORT, true, "users cannot reach the sidecar");
    }
    if let Some(from) = &drain.sessions_from {
        shut(
            from.port,
            false,
            "the operator cannot read drain.sessionsFrom: sessions are unknown",
        );
    }
}

fn is_about_ingress(policy: &Object) -> bool {
    let types = policy.at(&["spec", "policyTypes"]).as_array();
    types.is_none_or(|types| types.iter().any(|t| t == "Ingress"))
}

fn allows(policy: &Object, port: u16) -> bool {
    let rules = policy.at(&["spec", "ingress"]).as_array().into_iter().flatten();
    let holds = |allowed: &Value| {
        let from = allowed["port"].as_u64();
        let to = allowed["endPort"].as_u64().or(from);
        // A port by name may be any.
        allowed["port"].is_null()
            || allowed["port"].is_string()
            || from
                .zip(to)
                .is_some_and(|(from, to)| (from..=to).contains(&u64::from(port)))
    };
    rules
        .map(|rule| rule["ports"].as_array())
        .any(|ports| ports.is_none_or(|ports| ports.is_empty() || ports.iter().any(holds)))
}
