//! What one pod's object says, and the patches that take it in and out of rotation.
//!
//! Every patch begins with a `test` of the pod's UID: the answer of a decision about one pod never lands on its
//! namesake. A failed `test` is an HTTP 422, see [`super::scale::raced`].

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::address;
use super::labels::{self, Role};

/// What a pod's object says, as far as a rollout cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The version of the object these facts were read from.
    pub resource_version: Option<String>,
    /// The revision it runs.
    pub revision: Option<String>,
    /// Its role label, where it has one we know.
    pub role: Option<Role>,
    /// Whether slot Services select it.
    pub serving: bool,
    /// Its `Ready` condition.
    pub ready: bool,
    /// Whether somebody deleted it.
    pub terminating: bool,
    /// Whether all its containers have ended for good.
    pub finished: bool,
    /// Its address, once it has one, and as long as it is its own: see [`address::of`].
    pub ip: Option<IpAddr>,
    /// The node it was put on.
    pub node: Option<String>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// When the kubelet took it over.
    pub started: Option<Timestamp>,
    /// How often its containers were restarted, all together.
    pub restarts: i32,
    /// The deletion cost it carries, 0 where none.
    pub deletion_cost: i32,
    /// Whether it has annotations at all (a patch cannot add to a map that is not there).
    pub annotated: bool,
    /// Why it does not run, where the kubelet or the scheduler says so (`ImagePullBackOff`, `Unschedulable` …).
    pub trouble: Option<String>,
}

// === impl PodFacts ===

impl PodFacts {
    /// Reads a pod. `None` for an object without a UID, which no API server hands out.
    pub fn of(pod: &Pod) -> Option<Self> {
        let label = |name: &str| pod.labels().get(name);
        let status = pod.status.as_ref();
        let statuses = status
            .and_then(|s| s.container_statuses.as_deref())
            .unwrap_or_default();
        Some(Self {
            name: pod.name_any(),
            uid: pod.uid()?,
            resource_version: pod.resource_version(),
            revision: label(labels::REVISION).cloned(),
            role: label(labels::ROLE).and_then(|role| role.parse().ok()),
            serving: label(labels::SERVING).is_some_and(|value| value == "true"),
            ready: is_ready(pod),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(
                status.and_then(|s| s.phase.as_deref()),
                Some("Succeeded" | "Failed")
            ),
            ip: address::of(pod),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            started: status.and_then(|s| s.start_time.as_ref()).map(|time| time.0),
            restarts: statuses.iter().map(|container| container.restart_count).sum(),
            deletion_cost: deletion_cost(pod),
            annotated: !pod.annotations().is_empty(),
            trouble: trouble(pod),
        })
    }

    /// Takes the pod out of rotation: it loses the serving label and its role becomes `draining`, in one write.
    /// `None` where that is so already.
    pub fn leave_rotation(&self) -> Option<json_patch::Patch> {
        self.rotation(false, Role::Draining)
    }

    /// Puts the pod back into rotation under the given role. `None` where that is so already.
    pub fn return_to_rotation(&self, role: Role) -> Option<json_patch::Patch> {
        self.rotation(true, role)
    }

    /// Changes the role alone. `None` where it is that already.
    pub fn set_role(&self, role: Role) -> Option<json_patch::Patch> {
        self.rotation(self.serving, role)
    }

    /// Sets the deletion cost: a ReplicaSet that shrinks deletes the pod with the lowest first (among ready ones).
    /// `None` where it is that already.
    pub fn set_deletion_cost(&self, cost: i32) -> Option<json_patch::Patch> {
        if self.deletion_cost == cost {
            return None;
        }
        let cost = cost.to_string();
        let mut operations = vec![self.same_pod()];
        if self.annotated {
            let path = pointer("/metadata/annotations", labels::DELETION_COST);
            operations.push(json!({"op": "add", "path": path, "value": cost}));
        } else {
            // The whole map is written, so nobody may have added one since.
            let version = &self.resource_version;
            operations.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
            let map = json!({labels::DELETION_COST: cost});
            operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": map}));
        }
        patch(Value::Array(operations))
    }

    fn rotation(&self, serving: bool, role: Role) -> Option<json_patch::Patch> {
        let mut operations = vec![self.same_pod()];
        let path = pointer("/metadata/labels", labels::SERVING);
        match (self.serving, serving) {
            (true, false) => operations.push(json!({"op": "remove", "path": path})),
            (false, true) => operations.push(json!({"op": "add", "path": path, "value": "true"})),
            _ => {}
        }
        if self.role != Some(role) {
            let path = pointer("/metadata/labels", labels::ROLE);
            operations.push(json!({"op": "add", "path": path, "value": role.as_str()}));
        }
        if operations.len() == 1 {
            None
        } else {
            patch(Value::Array(operations))
        }
    }

    fn same_pod(&self) -> Value {
        json!({"op": "test", "path": "/metadata/uid", "value": self.uid})
    }
}

/// Whether the pod's `Ready` condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

/// A JSON pointer to a member whose name may hold `/` and `~`.
pub(crate) fn pointer(parent: &str, member: &str) -> String {
    format!("{parent}/{}", member.replace('~', "~0").replace('/', "~1"))
}

/// A patch from its JSON form. `None` only for something that is no patch, which the callers' literals are not.
pub(crate) fn patch(operations: Value) -> Option<json_patch::Patch> {
    serde_json::from_value(operations).ok()
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, Option<&'a str>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.as_str(), found.reason.as_deref()))
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations()
        .get(labels::DELETION_COST)
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    let waiting = containers
        .filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
        .find(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"));
    let unscheduled = condition(pod, "PodScheduled")
        .filter(|(status, _)| *status == "False")
        .and_then(|(_, reason)| reason);
    waiting.or(unscheduled).map(str::to_owned)
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
