//! What else leads connections to our pods, or claims our routes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;

use crate::workload::labels::{self, Role};

/// A Service that sends its own users to the rollout's pods, rehearsal and canary included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectingService {
    /// The Service's name.
    pub name: String,
    /// Its selector.
    pub selector: BTreeMap<String, String>,
}

/// A rollout's claim on routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The rollout's name.
    pub rollout: String,
    /// When it was created; the oldest holds a contested route.
    pub created: Option<Timestamp>,
    /// The names of the HTTPRoutes it lists, of its own namespace.
    pub routes: Vec<String>,
}

/// A route that several rollouts list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// The HTTPRoute's name.
    pub route: String,
    /// The rollout that was there first; the others wait.
    pub holder: String,
}

// === impl SelectingService ===

impl SelectingService {
    /// How the `wsroll.dev/acknowledge` annotation names this finding.
    pub fn acknowledgement(&self) -> String {
        format!("service/{}", self.name)
    }
}

/// Services of the namespace, `slots` (by name) aside, that would send users to rehearsal or canary pods made of a
/// template with these labels. One that selects `wsroll.dev/role=stable` as well is not among them.
pub fn selecting_services(
    services: &[Service],
    rollout: &str,
    template_labels: &BTreeMap<String, String>,
    slots: &[String],
) -> Vec<SelectingService> {
    let pods: Vec<_> = [Role::Rehearsal, Role::Canary]
        .map(|role| pod_labels(rollout, template_labels, role))
        .into();
    let mut found: Vec<_> = services
        .iter()
        .filter(|service| !slots.contains(&service.name_any()))
        .filter_map(|service| {
            let spec = service.spec.as_ref()?;
            let external = spec.type_.as_deref() == Some("ExternalName");
            let selector = spec
                .selector
                .as_ref()
                .filter(|selector| !selector.is_empty() && !external)?;
            let hit = pods
                .iter()
                .any(|pod| selector.iter().all(|(name, value)| pod.get(name) == Some(value)));
            hit.then(|| SelectingService {
                name: service.name_any(),
                selector: selector.clone(),
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The routes of `mine` that an older rollout lists too (of two that are equally old, the one whose name comes
/// first is the older).
pub fn contested_routes(mine: &Claim, others: &[Claim]) -> Vec<Contested> {
    let age = |claim: &Claim| (claim.created.is_none(), claim.created, claim.rollout.clone());
    mine.routes
        .iter()
        .filter_map(|route| {
            let rivals = others
                .iter()
                .filter(|o| o.rollout != mine.rollout && o.routes.contains(route));
            let holder = rivals
                .min_by_key(|claim| age(claim))
                .filter(|holder| age(holder) < age(mine))?;
            Some(Contested {
                route: route.clone(),
                holder: holder.rollout.clone(),
            })
        })
        .collect()
}

fn pod_labels(rollout: &str, template: &BTreeMap<String, String>, role: Role) -> BTreeMap<String, String> {
    let mut all = template.clone();
    all.insert(labels::ROLLOUT.to_owned(), rollout.to_owned());
    all.insert(labels::SERVING.to_owned(), "true".to_owned());
    all.insert(labels::ROLE.to_owned(), role.as_str().to_owned());
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn hits(services: &[Service]) -> Vec<String> {
        let template = BTreeMap::from([
            ("app".to_owned(), "chat".to_owned()),
            ("tier".to_owned(), "rt".to_owned()),
        ]);
        let slots = ["chat-a".to_owned()];
        selecting_services(services, "chat", &template, &slots)
            .iter()
            .map(SelectingService::acknowledgement)
            .collect()
    }

    #[test]
    fn services_that_would_send_users_to_a_rehearsal() {
        let found = hits(&[
            service("legacy", &json!({"selector": {"app": "chat"}})),
            service("chat", &json!({"selector": {"app": "chat", "tier": "rt"}})),
            service("all-of-us", &json!({"selector": {"wsroll.dev/rollout": "chat"}})),
            service(
                "canaries",
                &json!({"selector": {"app": "chat", "wsroll.dev/role": "canary"}}),
            ),
        ]);
        assert_eq!(
            found,
            [
                "service/all-of-us",
                "service/canaries",
                "service/chat",
                "service/legacy"
            ]
        );
    }

    #[test]
    fn services_that_do_not() {
        let found = hits(&[
            service(
                "narrowed",
                &json!({"selector": {"app": "chat", "wsroll.dev/role": "stable"}}),
            ),
            service("other", &json!({"selector": {"app": "shop"}})),
            service("more", &json!({"selector": {"app": "chat", "shard": "1"}})),
            service("manual", &json!({})),
            service("empty", &json!({"selector": {}})),
            service(
                "alias",
                &json!({"type": "ExternalName", "externalName": "x", "selector": {"app": "chat"}}),
            ),
            service(
                "chat-a",
                &json!({"selector": {"wsroll.dev/rollout": "chat", "wsroll.dev/serving": "true"}}),
            ),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn the_older_rollout_holds_a_contested_route() {
        let claim = |name: &str, second: i64, routes: &[&str]| Claim {
            rollout: name.into(),
            created: Timestamp::from_second(second).ok(),
            routes: routes.iter().map(|route| (*route).to_owned()).collect(),
        };
        let (old, new) = (claim("old", 1, &["chat", "api"]), claim("new", 2, &["chat"]));
        let all = [old.clone(), new.clone(), claim("far", 0, &["else"])];
        assert_eq!(
            contested_routes(&new, &all),
            [Contested {
                route: "chat".into(),
                holder: "old".into()
            }]
        );
        assert_eq!(contested_routes(&old, &all), []);
        let twin = claim("nez", 2, &["chat"]);
        assert_eq!(
            contested_routes(&new, &[twin.clone(), new.clone()]),
            [],
            "of twins the first by name"
        );
        assert_eq!(contested_routes(&twin, &[new])[0].holder, "new");
    }
}
