//! Labels, annotations and names of everything the operator puts into the cluster.

use std::collections::BTreeMap;

use strum::{Display, EnumString, IntoStaticStr};

/// Label: the rollout an object belongs to (its name).
pub const ROLLOUT: &str = "wsroll.dev/rollout";
/// Label: the revision's hash.
pub const REVISION: &str = "wsroll.dev/revision";
/// Label: `true` on pods in rotation; slot Services select it.
pub const SERVING: &str = "wsroll.dev/serving";
/// Label: the pod's live [`Role`].
pub const ROLE: &str = "wsroll.dev/role";
/// Label: the slot letter of a slot Service.
pub const SLOT: &str = "wsroll.dev/slot";

/// Annotation: the rollout's UID, since children have no ownerReference.
pub const ROLLOUT_UID: &str = "wsroll.dev/rollout-uid";
/// Annotation of a ReplicaSet: the user's template as canonical JSON, so that the revision can be told again.
pub const TEMPLATE: &str = "wsroll.dev/template";
/// Annotation of a ReplicaSet: who lets its pods' sessions go (`Protocol`, `Sidecar`, `Signal`, `Auto`), as it was created.
pub const VIA: &str = "wsroll.dev/via";
/// Annotation of a ReplicaSet: the name that its pods' sidecars prove by TLS on the drain port, as it was created. Without it they serve
/// plain HTTP, as those of older operators do.
pub const DRAIN_TLS: &str = "wsroll.dev/drain-tls";
/// Annotation of a pod: the cheapest is deleted first (Kubernetes' own).
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Field manager of writes to the rollout's status.
pub const MANAGER_STATUS: &str = "wsroll/status";
/// Field manager of writes to routes and Services.
pub const MANAGER_ROUTES: &str = "wsroll/routes";
/// Field manager of writes to ReplicaSets, pods and Secrets.
pub const MANAGER_WORKLOAD: &str = "wsroll/workload";
/// Field manager of the command line's requests.
pub const MANAGER_REQUEST: &str = "wsroll/request";

/// What a pod is there for at the moment; pods read it live from their [`ROLE`] label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Role {
    /// Visited by pinned probes only.
    Rehearsal,
    /// Takes a share of new connections.
    Canary,
    /// The revision that is known to be good.
    Stable,
    /// Out of rotation, letting go of its sessions.
    Draining,
}

/// A rollout, as its children name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent<'a> {
    /// The rollout's name.
    pub name: &'a str,
    /// The namespace of the rollout and all its children.
    pub namespace: &'a str,
    /// The rollout's UID.
    pub uid: &'a str,
}

// === impl Role ===

impl Role {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl Parent ===

impl Parent<'_> {
    /// The annotations every child carries.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(ROLLOUT_UID.to_owned(), self.uid.to_owned())])
    }

    /// The labels every child carries.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(ROLLOUT.to_owned(), self.name.to_owned())])
    }
}

/// The label selector that finds every child of a rollout.
pub fn children_selector(rollout: &str) -> String {
    format!("{ROLLOUT}={rollout}")
}

/// The labels of a revision's pods that its ReplicaSet and its slot select by.
pub fn revision_labels(rollout: &str, revision: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (ROLLOUT.to_owned(), rollout.to_owned()),
        (REVISION.to_owned(), revision.to_owned()),
    ])
}

/// The name of a revision's ReplicaSet.
pub fn replica_set_name(rollout: &str, revision: &str) -> String {
    format!("{rollout}-{revision}")
}

/// The name of the Secret with a revision's drain token.
pub fn token_name(rollout: &str, revision: &str) -> String {
    format!("{rollout}-{revision}-token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_spelled_as_pods_read_them() {
        for (role, text) in [
            (Role::Rehearsal, "rehearsal"),
            (Role::Canary, "canary"),
            (Role::Stable, "stable"),
            (Role::Draining, "draining"),
        ] {
            assert_eq!(role.as_str(), text);
            assert_eq!(text.parse(), Ok(role));
        }
        "leader".parse::<Role>().unwrap_err();
    }
}
