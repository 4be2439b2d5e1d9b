//! The ReplicaSet of a revision.
//!
//! It is built as JSON, not as typed structs: a template may use fields of a newer Kubernetes than this program
//! knows, and a misspelt field has to reach the API server's strict validation instead of vanishing here.

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use super::certificate;
use super::labels::{self, Parent, Role};
use super::revision::canonical;
use super::sidecar::{self, Sidecar};
use super::token;
use crate::api::spec::Via;
use crate::drain::protocol::DEFAULT_PORT;

/// Where the token and the role are mounted.
pub const MOUNT_PATH: &str = "/var/run/wsroll";

/// The name of the projected volume.
pub const VOLUME: &str = "wsroll";

/// Longest template kept in an annotation, bytes; all annotations of an object may have 256 KiB together.
pub const MAX_TEMPLATE: usize = 200 * 1024;

/// Why no ReplicaSet can be made of a template. Each names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing to run.
    #[error("spec.template.spec.containers must name at least one container")]
    NoContainer,
    /// Not an object where one is needed.
    #[error("spec.template.{0} must be an object")]
    NotAnObject(&'static str),
    /// A list that is none.
    #[error("spec.template.{0} must be a list")]
    NotAList(String),
    /// A name the operator needs for itself.
    #[error("spec.template.{0} is set by wsroll: remove it from the template")]
    Reserved(String),
    /// Nobody named the sidecar's image.
    #[error("spec.drain.via is Sidecar and no image is known for it")]
    NoSidecarImage,
    /// A port the sidecar needs.
    #[error(
        "port {0} of the pods is the sidecar's: let the application listen on another (spec.traffic.port, spec.template)"
    )]
    PortTaken(u16),
    /// Larger than what fits beside the ReplicaSet.
    #[error("spec.template is larger than {MAX_TEMPLATE} bytes")]
    TooLarge,
}

/// What a revision's ReplicaSet is made of.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// The rollout.
    pub parent: Parent<'a>,
    /// The revision's hash.
    pub revision: &'a str,
    /// The user's pod template, `{metadata, spec}`.
    pub template: &'a Value,
    /// The port that serves WebSockets.
    pub port: u16,
    /// Pods to run.
    pub replicas: i32,
    /// The role new pods start with.
    pub role: Role,
    /// Who lets the pods' sessions go.
    pub via: Via,
    /// The sidecar, where that is who.
    pub sidecar: Option<Sidecar<'a>>,
}

/// The ReplicaSet as JSON, fit for `create` and for a server-side dry run.
pub fn build(spec: &Spec<'_>) -> Result<Value, Error> {
    let &Spec {
        parent,
        revision,
        template,
        replicas,
        via,
        sidecar,
        // The pods' own.
        port: _,
        role: _,
    } = spec;
    let kept = canonical(template);
    if kept.len() > MAX_TEMPLATE {
        return Err(Error::TooLarge);
    }
    let selector = labels::revision_labels(parent.name, revision);
    let mut annotations = parent.annotations();
    annotations.insert(labels::TEMPLATE.to_owned(), kept);
    annotations.insert(labels::VIA.to_owned(), via.to_string());
    if sidecar.is_some_and(|sidecar| sidecar.tls) {
        let name = certificate::server_name(parent.name);
        annotations.insert(labels::DRAIN_TLS.to_owned(), name);
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": labels::replica_set_name(parent.name, revision),
            "namespace": parent.namespace,
            "labels": selector,
            "annotations": annotations,
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "template": pod_template(spec)?,
        },
    }))
}

/// The name of the container that declares the port, if one does.
///
/// A template whose containers name no such port is refused by the preflight: its Services would lead nowhere.
pub fn container_of_port(template: &Value, port: u16) -> Option<&str> {
    template["spec"]["containers"]
        .as_array()?
        .iter()
        .find(|c| declares(c, port))?["name"]
        .as_str()
}

/// The user's template that a ReplicaSet was made of.
pub fn template_of(set: &ReplicaSet) -> Option<Value> {
    serde_json::from_str(set.annotations().get(labels::TEMPLATE)?).ok()
}

/// The revision a ReplicaSet runs.
pub fn revision_of(set: &ReplicaSet) -> Option<&str> {
    set.labels().get(labels::REVISION).map(String::as_str)
}

/// Whether a ReplicaSet belongs to the rollout with this UID, not to a namesake that was deleted before.
pub fn belongs_to(set: &ReplicaSet, rollout_uid: &str) -> bool {
    set.annotations()
        .get(labels::ROLLOUT_UID)
        .is_some_and(|uid| uid == rollout_uid)
}

/// Who lets the sessions of a ReplicaSet's pods go, as it was created. `None` where an older operator did not write it down.
pub fn via_of(set: &ReplicaSet) -> Option<Via> {
    let via = set.annotations().get(labels::VIA)?;
    [Via::Auto, Via::Protocol, Via::Sidecar, Via::Signal]
        .into_iter()
        .find(|known| known.to_string() == *via)
}

/// Why the pods of a ReplicaSet cannot be made, in its controller's words; `None` where they can.
pub fn failure(set: &ReplicaSet) -> Option<String> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    failure.message.clone().or_else(|| failure.reason.clone())
}

/// The name that the sidecars of a ReplicaSet's pods prove on the drain port; `None`: plain HTTP, as it was created.
pub fn drain_tls(set: &ReplicaSet) -> Option<&str> {
    set.annotations().get(labels::DRAIN_TLS).map(String::as_str)
}

/// The port at which the pods of a ReplicaSet take connections: the sidecar's where they have one, else the application's.
pub fn traffic_port(set: &ReplicaSet, application: u16) -> u16 {
    if sidecar::is_in(set) {
        sidecar::TRAFFIC_PORT
    } else {
        application
    }
}

/// The role that new pods of the set start with.
pub fn template_role(set: &ReplicaSet) -> Option<Role> {
    let labels = set
        .spec
        .as_ref()?
        .template
        .as_ref()?
        .metadata
        .as_ref()?
        .labels
        .as_ref()?;
    labels.get(labels::ROLE)?.parse().ok()
}

/// Changes the role that *new* pods start with, where it differs; pods that run keep theirs.
pub fn role_patch(set: &ReplicaSet, role: Role) -> Option<json_patch::Patch> {
    if template_role(set) == Some(role) {
        return None;
    }
    super::pods::patch(json!([
        {"op": "test", "path": "/metadata/uid", "value": set.uid()},
        {"op": "add", "path": super::pods::pointer("/spec/template/metadata/labels", labels::ROLE), "value": role.as_str()},
    ]))
}

fn pod_template(wanted: &Spec<'_>) -> Result<Value, Error> {
    let (rollout, revision, port) = (wanted.parent.name, wanted.revision, wanted.port);
    let mut template = wanted
        .template
        .as_object()
        .cloned()
        .ok_or(Error::NotAnObject("metadata"))?;
    let metadata = object(&mut template, "metadata", "metadata")?;
    let own_labels = object(metadata, "labels", "metadata.labels")?;
    let taken = [labels::ROLLOUT, labels::REVISION, labels::SERVING, labels::ROLE];
    if let Some(name) = taken.iter().find(|name| own_labels.contains_key(**name)) {
        return Err(Error::Reserved(format!("metadata.labels[{name}]")));
    }
    for (name, value) in labels::revision_labels(rollout, revision) {
        own_labels.insert(name, Value::from(value));
    }
    own_labels.insert(labels::SERVING.to_owned(), Value::from("true"));
    own_labels.insert(labels::ROLE.to_owned(), Value::from(wanted.role.as_str()));

    let spec = object(&mut template, "spec", "spec")?;
    add_volume(spec, rollout, revision, wanted.sidecar.is_some_and(|s| s.tls))?;
    let index = add_to_container(spec, revision, port, wanted.sidecar.is_none())?;
    if let Some(sidecar) = &wanted.sidecar {
        sidecar::inject(spec, sidecar, revision, port, index)?;
    }
    Ok(Value::Object(template))
}

fn add_volume(spec: &mut Map<String, Value>, rollout: &str, revision: &str, tls: bool) -> Result<(), Error> {
    let volumes = list(spec, "volumes", "spec.volumes")?;
    if volumes.iter().any(|volume| volume["name"] == VOLUME) {
        return Err(Error::Reserved(format!("spec.volumes[{VOLUME}]")));
    }
    let role = format!("metadata.labels['{}']", labels::ROLE);
    let secret = labels::token_name(rollout, revision);
    let item = |key: &str| json!([{"key": key, "path": key}]);
    let mut sources = vec![
        json!({"secret": {"name": secret, "items": item(token::KEY)}}),
        // A source of its own: Secrets of older operators have no such key, and `optional` is the source's.
        json!({"secret": {"name": secret, "items": item(token::IDENTITY_KEY), "optional": true}}),
        json!({"downwardAPI": {"items": [{"path": "role", "fieldRef": {"fieldPath": role}}]}}),
    ];
    for key in [token::CERTIFICATE, token::CERTIFICATE_KEY]
        .iter()
        .filter(|_| tls)
    {
        sources.push(json!({"secret": {"name": secret, "items": item(key)}}));
    }
    volumes.push(json!({"name": VOLUME, "projected": {"sources": sources}}));
    Ok(())
}

/// Gives the application's container what it needs, and says which of them it is. Where a sidecar lets the sessions go
/// (`speaks` is false) the application is told its revision and nothing else.
fn add_to_container(
    spec: &mut Map<String, Value>,
    revision: &str,
    port: u16,
    speaks: bool,
) -> Result<usize, Error> {
    let containers = list(spec, "containers", "spec.containers")?;
    let index = containers.iter().position(|c| declares(c, port)).unwrap_or(0);
    let container = containers.get_mut(index).ok_or(Error::NoContainer)?;
    let container = container
        .as_object_mut()
        .ok_or(Error::NotAnObject("spec.containers[]"))?;
    let name = container
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();

    let env = list(container, "env", &format!("spec.containers[{name}].env"))?;
    let own = [
        ("WSROLL_TOKEN_FILE", format!("{MOUNT_PATH}/{}", token::KEY)),
        (
            "WSROLL_IDENTITY_KEY_FILE",
            format!("{MOUNT_PATH}/{}", token::IDENTITY_KEY),
        ),
        ("WSROLL_PORT", DEFAULT_PORT.to_string()),
        ("WSROLL_REVISION", revision.to_owned()),
    ];
    let given = own
        .into_iter()
        .filter(|(variable, _)| speaks || *variable == "WSROLL_REVISION");
    for (variable, value) in given {
        if env.iter().any(|entry| entry["name"] == variable) {
            return Err(Error::Reserved(format!(
                "spec.containers[{name}].env[{variable}]"
            )));
        }
        env.push(json!({"name": variable, "value": value}));
    }
    if !speaks {
        return Ok(index);
    }

    let mounts = list(
        container,
        "volumeMounts",
        &format!("spec.containers[{name}].volumeMounts"),
    )?;
    if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
        return Err(Error::Reserved(format!(
            "spec.containers[{name}].volumeMounts[{MOUNT_PATH}]"
        )));
    }
    mounts.push(json!({"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": true}));
    Ok(index)
}

fn declares(container: &Value, port: u16) -> bool {
    container["ports"]
        .as_array()
        .is_some_and(|ports| ports.iter().any(|p| p["containerPort"] == port))
}

fn object<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
    path: &'static str,
) -> Result<&'a mut Map<String, Value>, Error> {
    let slot = parent.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!({});
    }
    slot.as_object_mut().ok_or(Error::NotAnObject(path))
}

pub(super) fn list<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
    path: &str,
) -> Result<&'a mut Vec<Value>, Error> {
    let slot = parent.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!([]);
    }
    slot.as_array_mut()
        .ok_or_else(|| Error::NotAList(path.to_owned()))
}

#[cfg(test)]
#[path = "replica_set_tests.rs"]
mod tests;
