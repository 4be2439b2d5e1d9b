//! The sidecar of `drain.via: Sidecar`: a native sidecar container that the pods of a revision are given when its ReplicaSet is built.
//!
//! All of it (image, settings, hook, grace period) stands in the ReplicaSet's template, so that it is frozen with the revision: neither
//! a newer operator nor a changed spec touches pods that run.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Map, Value, json};

use super::replica_set::{Error, MOUNT_PATH, VOLUME, list};
use super::token;
use crate::api::Span;
use crate::api::spec::Drain;
use crate::drain::Token;
use crate::drain::identity::{IdentityKey, mac};
use crate::drain::protocol::DEFAULT_PORT;

/// The container's name.
pub const NAME: &str = "wsroll-sidecar";
/// Where it takes the connections that the slots lead to it.
pub const TRAFFIC_PORT: u16 = 9910;
/// Asked by the application container's preStop hook; the answer comes when the pod's sessions are gone, or time is up.
pub const PRESTOP_PATH: &str = "/wsroll/v1/prestop";

/// Kubernetes' own grace period, where a template names none.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// How long a pod that is deleted or evicted lets its sessions go at most, unless the template's own grace period gives more.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(120);
/// What is left of the grace period for the application, once the drain is over.
pub const AFTER_SHUTDOWN: Duration = Duration::from_secs(10);
/// The longest drain of a deleted pod that the sidecar takes on.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Sessions per second that leave a pod that is deleted, where the budget names no rate.
const SHUTDOWN_RATE: f64 = 50.0;
/// The highest rate that the sidecar takes on.
const HIGHEST_RATE: f64 = 10_000.0;

/// What a sidecar is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sidecar<'a> {
    /// Its image.
    pub image: &'a str,
    /// The drain part of the spec: its settings.
    pub drain: &'a Drain,
    /// What the preStop hook presents; see [`prestop_key`].
    pub prestop_key: &'a str,
    /// Whether the revision's Secret holds a certificate: the drain port is then served by TLS, and by nothing else.
    pub tls: bool,
}

/// How a pod that is deleted lets go of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// The sidecar's time for it.
    pub within: Duration,
    /// The pod's grace period, which covers it.
    pub grace: Duration,
}

/// What the preStop hook presents instead of the drain token: it stands in the pod's spec, for all to read who may read pods, and
/// opens nothing else.
pub fn prestop_key(token: &Token) -> String {
    hex::encode(mac(&IdentityKey::new(token.expose()), "prestop:", ""))
}

/// Whether the pods of a ReplicaSet have the sidecar: its template says so, not the present spec.
pub fn is_in(set: &ReplicaSet) -> bool {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let containers = template
        .and_then(|t| t.spec.as_ref())
        .and_then(|s| s.init_containers.as_ref());
    containers.is_some_and(|containers| containers.iter().any(|c| c.name == NAME))
}

/// The grace period of a user's pod template (`{metadata, spec}`).
pub fn grace_of(template: &Value) -> Option<Duration> {
    let seconds = template["spec"]["terminationGracePeriodSeconds"].as_u64()?;
    Some(Duration::from_secs(seconds))
}

/// How long a deleted pod's sessions have, from the drain's deadline and the grace period that the user gave.
pub fn shutdown(drain: &Drain, grace: Option<Duration>) -> Shutdown {
    let grace = grace.unwrap_or(DEFAULT_GRACE);
    let room = grace.saturating_sub(AFTER_SHUTDOWN).clamp(LONGEST_SHUTDOWN, DAY);
    let within = drain.deadline.0.clamp(Duration::from_secs(1), room);
    let covered = Duration::from_secs(within.as_secs_f64().ceil() as u64) + AFTER_SHUTDOWN;
    Shutdown {
        within,
        grace: grace.max(covered),
    }
}

/// Puts the sidecar into a pod's spec, in front of the container at `index`.
pub(super) fn inject(
    spec: &mut Map<String, Value>,
    sidecar: &Sidecar<'_>,
    revision: &str,
    port: u16,
    index: usize,
) -> Result<(), Error> {
    refuse_taken_ports(spec, port)?;
    // A grace period that is no number is the API server's to refuse.
    let written = spec.get("terminationGracePeriodSeconds").filter(|v| !v.is_null());
    let user = written.and_then(Value::as_u64).map(Duration::from_secs);
    let shutdown = shutdown(sidecar.drain, user);
    if written.is_none() || user.is_some() {
        let seconds = shutdown.grace.as_secs();
        spec.insert("terminationGracePeriodSeconds".to_owned(), json!(seconds));
    }
    let containers = list(spec, "initContainers", "spec.initContainers")?;
    if containers.iter().any(|c| c["name"] == NAME) {
        return Err(Error::Reserved(format!("spec.initContainers[{NAME}]")));
    }
    // The last of them: it starts after what sets the pod up, and ends before the sidecars that the user has.
    containers.push(container(sidecar, revision, port, shutdown));
    add_hook(spec, sidecar, index);
    Ok(())
}

fn container(sidecar: &Sidecar<'_>, revision: &str, port: u16, shutdown: Shutdown) -> Value {
    let settings = settings(sidecar.drain, port, shutdown.within).to_string();
    let wanted = sidecar.drain.sidecar.as_ref().and_then(|s| s.resources.clone());
    let resources = wanted.unwrap_or_else(|| json!({"requests": {"cpu": "10m", "memory": "32Mi"}}));
    let mut env = vec![
        json!({"name": "WSROLL_SIDECAR", "value": settings}),
        json!({"name": "WSROLL_TOKEN_FILE", "value": format!("{MOUNT_PATH}/{}", token::KEY)}),
        json!({"name": "WSROLL_IDENTITY_KEY_FILE", "value": format!("{MOUNT_PATH}/{}", token::IDENTITY_KEY)}),
        json!({"name": "WSROLL_PORT", "value": DEFAULT_PORT.to_string()}),
        json!({"name": "WSROLL_REVISION", "value": revision}),
    ];
    let mut health = json!({"path": "/healthz", "port": DEFAULT_PORT});
    if sidecar.tls {
        // Named, so that a pod whose files are missing does not start instead of serving in plain text.
        let file = |name: &str| format!("{MOUNT_PATH}/{name}");
        env.push(json!({"name": "WSROLL_TLS_CERTIFICATE_FILE", "value": file(token::CERTIFICATE)}));
        env.push(json!({"name": "WSROLL_TLS_KEY_FILE", "value": file(token::CERTIFICATE_KEY)}));
        health["scheme"] = json!("HTTPS");
    }
    json!({
        "name": NAME,
        "image": sidecar.image,
        "args": ["sidecar"],
        "restartPolicy": "Always",
        "env": env,
        "ports": [
            {"name": "wsroll", "containerPort": TRAFFIC_PORT, "protocol": "TCP"},
            {"name": "wsroll-drain", "containerPort": DEFAULT_PORT, "protocol": "TCP"},
        ],
        // The application starts when this has passed: nobody is sent to a pod whose sessions could not be asked to leave.
        "startupProbe": {
            "httpGet": health,
            "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60,
        },
        "resources": resources,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": true}],
    })
}

/// The settings that the container reads from `WSROLL_SIDECAR`.
fn settings(drain: &Drain, port: u16, within: Duration) -> Value {
    let sidecar = drain.sidecar.clone().unwrap_or_default();
    let mut limits = Map::new();
    let mut limit = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            limits.insert(name.to_owned(), json!(value));
        }
    };
    limit("connections", sidecar.limits.connections.map(u64::from));
    limit("headerBytes", sidecar.limits.header_bytes.map(u64::from));
    limit(
        "handshakeTimeoutMs",
        sidecar.limits.handshake_timeout.map(Span::as_millis),
    );
    limit("idleTimeoutMs", sidecar.limits.idle_timeout.map(Span::as_millis));
    let rate = drain.budget.connects_per_second;
    let mut settings = json!({
        "applicationPort": port,
        "notices": sidecar.notices,
        "closeCodes": sidecar.close_codes,
        "session": drain.session.as_ref().map(|s| &s.id_from),
        // Polling sessions are many requests: where they can be told, they are led to the pod that has them.
        "affinity": drain.session.is_some(),
        "limits": limits,
        "pingIntervalMs": sidecar.ping_interval.map(Span::as_millis),
        "shutdown": {
            "ratePerSecond": rate.map_or(SHUTDOWN_RATE, f64::from).min(HIGHEST_RATE),
            "withinMs": u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            "closeCode": drain.notice.close_code,
        },
    });
    if let Some(hops) = sidecar.trusted_hops {
        settings["trustedHops"] = json!(hops);
    }
    settings
}

/// The sidecar gets SIGTERM only when all other containers have ended: so the hook holds the application's own SIGTERM back until
/// its sessions are gone. A hook of the user's stays as it is: containers have one each.
fn add_hook(spec: &mut Map<String, Value>, sidecar: &Sidecar<'_>, index: usize) {
    let container = spec
        .get_mut("containers")
        .and_then(|all| all.get_mut(index))
        .and_then(Value::as_object_mut);
    let Some(container) = container else { return };
    let lifecycle = container.entry("lifecycle").or_insert(Value::Null);
    if lifecycle.is_null() {
        *lifecycle = json!({});
    }
    let Some(lifecycle) = lifecycle.as_object_mut() else {
        return;
    };
    if lifecycle.get("preStop").is_some_and(|hook| !hook.is_null()) {
        return;
    }
    let bearer = format!("Bearer {}", sidecar.prestop_key);
    lifecycle.insert(
        "preStop".to_owned(),
        json!({"httpGet": {
            "path": PRESTOP_PATH, "port": DEFAULT_PORT, "scheme": if sidecar.tls { "HTTPS" } else { "HTTP" },
            "httpHeaders": [{"name": "Authorization", "value": bearer}],
        }}),
    );
}

/// The containers of a pod share its ports.
fn refuse_taken_ports(spec: &Map<String, Value>, port: u16) -> Result<(), Error> {
    let own = [TRAFFIC_PORT, DEFAULT_PORT];
    if own.contains(&port) {
        return Err(Error::PortTaken(port));
    }
    let containers = ["initContainers", "containers"]
        .iter()
        .filter_map(|key| spec.get(*key)?.as_array())
        .flatten();
    let declared = containers
        .filter_map(|c| c["ports"].as_array())
        .flatten()
        .filter_map(|p| p["containerPort"].as_u64());
    let mut taken = declared.filter(|p| own.iter().any(|own| u64::from(*own) == *p));
    match taken.next().and_then(|port| u16::try_from(port).ok()) {
        Some(port) => Err(Error::PortTaken(port)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "sidecar_tests.rs"]
mod tests;
