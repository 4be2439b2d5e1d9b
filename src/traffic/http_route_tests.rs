use serde_json::{Value, json};

use super::*;

fn slots() -> Vec<String> {
    ["chat-a", "chat-b", "chat-c"].map(str::to_owned).to_vec()
}

fn backends(weights: [i32; 3]) -> Value {
    json!([{"name": "chat-a", "port": 8080, "weight": weights[0]}, {"name": "chat-b", "port": 8080, "weight": weights[1]},
        {"name": "chat-c", "port": 8080, "weight": weights[2]}])
}

fn route(rules: &Value) -> HTTPRoute {
    serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": "prod", "generation": 4},
        "spec": {"parentRefs": [{"name": "gateway", "namespace": "infra"}], "rules": rules},
    }))
    .unwrap()
}

fn apply(route: &HTTPRoute, patch: &json_patch::Patch) -> Option<HTTPRoute> {
    let mut value = serde_json::to_value(route).unwrap();
    json_patch::patch(&mut value, patch).ok()?;
    Some(serde_json::from_value(value).unwrap())
}

fn desired(weights: [i32; 3]) -> BTreeMap<String, i32> {
    slots().into_iter().zip(weights).collect()
}

#[test]
fn weights_are_read_from_the_rules_that_name_us() {
    let route = route(
        &json!([{"backendRefs": [{"name": "site", "port": 80}]}, {"backendRefs": backends([90, 10, 0])}]),
    );
    assert_eq!(
        weights(&route, &slots()),
        [RuleWeights {
            rule: 1,
            weights: desired([90, 10, 0])
        }]
    );
}

#[test]
fn weights_are_written_where_they_differ_and_nowhere_else() {
    let before = route(&json!([
        {"matches": [{"path": {"type": "Exact", "value": "/ws"}}], "backendRefs": backends([100, 0, 0])},
        {"backendRefs": [{"name": "site", "port": 80}]},
        {"backendRefs": [{"name": "chat-a", "port": 8080}, {"name": "chat-b", "port": 8080, "weight": 10}]},
    ]));
    let patch = weights_patch(&before, &desired([90, 10, 0])).unwrap();
    let after = apply(&before, &patch).unwrap();
    let read: Vec<_> = weights(&after, &slots())
        .into_iter()
        .map(|rule| rule.weights)
        .collect();
    assert_eq!(read[0], desired([90, 10, 0]));
    assert_eq!(
        read[1],
        BTreeMap::from([("chat-a".into(), 90), ("chat-b".into(), 10)])
    );
    assert_eq!(after.spec.rules[1], before.spec.rules[1]);
    assert_eq!(weights_patch(&after, &desired([90, 10, 0])), None, "written once");
}

#[test]
fn a_route_rewritten_in_between_is_not_patched() {
    let decided = route(&json!([{"backendRefs": backends([100, 0, 0])}]));
    let patch = weights_patch(&decided, &desired([90, 10, 0])).unwrap();
    let mut swapped = backends([100, 0, 0]);
    swapped.as_array_mut().unwrap().reverse();
    for rules in [
        json!([{"backendRefs": backends([50, 50, 0])}]),
        json!([{"backendRefs": swapped}]),
        json!([]),
    ] {
        assert_eq!(apply(&route(&rules), &patch), None);
    }
}

#[rstest::rstest]
#[case(json!([]), "leads to none of our slots")]
#[case(json!([{"backendRefs": [{"name": "chat", "port": 8080}]}]), "let a rule's backendRefs name chat-a, chat-b, chat-c")]
#[case(json!([{"backendRefs": [{"name": "chat-a", "port": 8080}, {"name": "chat-b", "port": 8080}]}]), "does not name chat-c")]
#[case(json!([{"backendRefs": [{"name": "chat-a", "port": 8080}, {"name": "old", "namespace": "x"}]}]), "names Service x/old")]
#[case(json!([{"backendRefs": [{"name": "chat-a", "port": 8080}, {"name": "chat-a", "port": 8080}]}]), "names chat-a twice")]
#[case(json!([{"backendRefs": [{"name": "chat-a", "port": 80}]}]), "names port 80 of chat-a: our slots have port 8080")]
fn routes_that_cannot_carry_us_are_told_why(#[case] rules: Value, #[case] expected: &str) {
    let error = validate(&route(&rules), &slots(), 8080).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_whole_route_is_valid() {
    let rules =
        json!([{"backendRefs": backends([100, 0, 0])}, {"backendRefs": [{"name": "site", "port": 80}]}]);
    assert_eq!(validate(&route(&rules), &slots(), 8080), Ok(()));
}

fn with_status(parents: &Value) -> HTTPRoute {
    let mut route = route(&json!([]));
    route.status = serde_json::from_value(json!({"parents": parents})).unwrap();
    route
}

fn parent(accepted: &str, resolved: &str, generation: i64) -> Value {
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "Because", "message": "of it", "observedGeneration": generation,
            "lastTransitionTime": "2026-11-22T08:00:00Z"})
    };
    json!({"controllerName": "x.io/gateway", "conditions": [condition("Accepted", accepted), condition("ResolvedRefs", resolved)],
        "parentRef": {"name": "gateway", "namespace": "infra", "group": "gateway.networking.k8s.io", "kind": "Gateway"}})
}

#[test]
fn acceptance_is_of_the_present_generation() {
    assert_eq!(
        accepted(&with_status(&json!([parent("True", "True", 4)]))),
        Acceptance::Accepted
    );
    for pending in [
        json!([]),
        json!([parent("True", "True", 3)]),
        json!([parent("False", "True", 3)]),
    ] {
        assert!(matches!(accepted(&with_status(&pending)), Acceptance::Pending(_)));
    }
    let Acceptance::Refused(reasons) = accepted(&with_status(&json!([parent("True", "False", 4)]))) else {
        unreachable!("refused")
    };
    assert_eq!(reasons, ["infra/gateway: ResolvedRefs is False (Because): of it"]);
}

#[test]
fn every_parent_has_to_accept() {
    let mut route = with_status(&json!([parent("True", "True", 4)]));
    let second = super::super::gateway_api::ParentReference {
        name: "edge".into(),
        ..Default::default()
    };
    route.spec.parent_refs.push(second);
    assert_eq!(
        accepted(&route),
        Acceptance::Pending(vec!["prod/edge: no controller has answered".into()])
    );
}
