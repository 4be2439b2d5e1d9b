//! Routes and what gateways say of them, spoilt: read or refused, never a panic, and never more certain than they are.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::gateway_api::HTTPRoute;
use super::http_route::{self, Acceptance};
use super::pins::{self, Carrier, Pin};
use crate::hostile::{any_json, deep, spoilt};
use crate::workload::labels::Parent;

fn sound() -> Value {
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": 2,
            "lastTransitionTime": "2026-11-22T08:00:00Z"})
    };
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": "prod", "generation": 2},
        "spec": {"parentRefs": [{"name": "edge", "sectionName": "web", "port": 80}], "hostnames": ["chat.example.com"],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/ws"},
                    "headers": [{"name": "x", "value": "y"}], "queryParams": [{"name": "x", "value": "y"}]}],
                "filters": [], "timeouts": {"request": "0s"},
                "backendRefs": [{"name": "chat-a", "port": 8080, "weight": 100}, {"name": "chat-b", "port": 8080}]}]},
        "status": {"parents": [{"parentRef": {"name": "edge", "sectionName": "web", "port": 80},
            "controllerName": "example.com/gateway",
            "conditions": [condition("Accepted"), condition("ResolvedRefs")]}]}})
}

/// Everything the operator asks of a route.
fn ask(document: &Value) -> Option<Acceptance> {
    let route: HTTPRoute = serde_json::from_value(document.clone()).ok()?;
    let slots = ["chat-a".to_owned(), "chat-b".to_owned()];
    let _ = http_route::weights(&route, &slots);
    let _ = http_route::validate(&route, &slots, 8080);
    let wanted = BTreeMap::from([("chat-a".to_owned(), 90), ("chat-b".to_owned(), 10)]);
    if let Some(patch) = http_route::weights_patch(&route, &wanted) {
        // What is asked of the API server touches weights and nothing else.
        let mut patched = serde_json::to_value(&route).unwrap();
        if json_patch::patch(&mut patched, &patch).is_ok() {
            let after: HTTPRoute = serde_json::from_value(patched).expect("a route still");
            assert_eq!(after.spec.rules.len(), route.spec.rules.len());
        }
    }
    let parent = Parent {
        name: "chat",
        namespace: "prod",
        uid: "u",
    };
    let pin = Pin {
        carrier: Carrier::Hint,
        value: "v".to_owned(),
        service: "chat-b".to_owned(),
    };
    if let Ok(built) = pins::build(&parent, std::slice::from_ref(&route), &slots, 8080, &[pin]) {
        for route in &built {
            let _ = pins::is_current(route, route);
        }
    }
    Some(http_route::accepted(&route))
}

#[test]
fn the_sound_one_is_accepted() {
    assert_eq!(ask(&sound()), Some(Acceptance::Accepted));
}

#[test]
fn nesting_without_end_is_no_route() {
    serde_json::from_str::<HTTPRoute>(&deep(50_000)).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_spoilt_route_is_read_or_refused(document in spoilt(sound())) {
        let _ = ask(&document);
    }

    /// Acceptance is what all parents said of the present generation, and nothing that only looks like it.
    #[test]
    fn a_status_that_is_made_up_is_no_acceptance(status in any_json()) {
        let mut document = sound();
        document["status"] = status;
        prop_assert_ne!(ask(&document), Some(Acceptance::Accepted));
    }

    #[test]
    fn a_condition_of_another_generation_is_no_acceptance(generation in prop::option::of(any::<i64>())) {
        prop_assume!(generation != Some(2));
        let mut document = sound();
        document["status"]["parents"][0]["conditions"][0]["observedGeneration"] = json!(generation);
        prop_assert!(matches!(ask(&document), Some(Acceptance::Pending(_))));
    }
}
