use serde_json::{Value, json};

use super::*;

fn rollout(change: &Value) -> Value {
    let mut rollout = json!({
        "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
        "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {
            "replicas": 4,
            "template": {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [
                {"name": "app", "image": "chat:1", "ports": [{"containerPort": 8080}]}]}},
            "traffic": {"port": 8080, "routes": [{"name": "chat"}]},
            "probes": {"url": "ws://chat.example.com/ws"}
        }
    });
    json_patch::merge(&mut rollout, change);
    rollout
}

fn found(objects: &[Value]) -> Vec<Finding> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut all = Objects::default();
    all.read(&serde_json::to_string(&list).unwrap()).unwrap();
    check(&all)
}

/// Severity, rule and field of all that is found.
fn told(objects: &[Value]) -> Vec<(Severity, &'static str, String)> {
    let all = found(objects);
    all.into_iter().map(|f| (f.severity, f.rule, f.field)).collect()
}

fn error(rule: &'static str, field: &str) -> (Severity, &'static str, String) {
    (Severity::Error, rule, field.to_owned())
}

fn warning(rule: &'static str, field: &str) -> (Severity, &'static str, String) {
    (Severity::Warning, rule, field.to_owned())
}

fn named(kind: &str, spec: &Value) -> Value {
    let version = if kind == "Service" { "v1" } else { "x/v1" };
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "prod"}, "spec": spec})
}

fn route(rule: &Value) -> Value {
    let mut whole = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/ws"}}], "backendRefs": [
        {"name": "chat-a", "port": 8080, "weight": 100}, {"name": "chat-b", "port": 8080, "weight": 0},
        {"name": "chat-c", "port": 8080, "weight": 0}]});
    json_patch::merge(&mut whole, rule);
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [whole]}})
}

#[test]
fn a_sound_set_of_manifests_has_no_finding() {
    let pdb = named(
        "PodDisruptionBudget",
        &json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "chat"}}}),
    );
    let hpa = named(
        "HorizontalPodAutoscaler",
        &json!({"scaleTargetRef": {"kind": "Deployment", "name": "shop"}}),
    );
    let service = named(
        "Service",
        &json!({"selector": {"app": "chat", "wsroll.dev/role": "stable"}}),
    );
    let all = [
        rollout(&json!({})),
        route(&json!({"timeouts": {"request": "0s"}})),
        pdb,
        hpa,
        service,
    ];
    assert_eq!(found(&all), []);
    let fronted =
        rollout(&json!({"spec": {"drain": {"via": "Sidecar", "sidecar": {"pingInterval": "20s"}}}}));
    assert_eq!(found(&[fronted]), []);
}

#[rstest::rstest]
#[case(json!({"spec": {"drain": {"budgt": {}}}}), "UnknownField", "spec.drain.budgt")]
#[case(json!({"spec": {"steps": [{"weight": 100, "pauze": {}}]}}), "UnknownField", "spec.steps[0].pauze")]
#[case(json!({"spec": {"replicas": 0}}), "OutOfBounds", "spec.replicas")]
#[case(json!({"spec": {"traffic": {"routes": []}}}), "OutOfBounds", "spec.traffic.routes")]
#[case(json!({"spec": {"drain": {"deadline": "soon"}}}), "Unreadable", "spec")]
#[case(json!({"spec": {"steps": [{"weight": 50}]}}), "InvalidSpec", "spec.steps")]
#[case(json!({"spec": {"drain": {"budget": {"connectsPerSecond": 5, "overDuration": "5m"}}}}), "InvalidSpec", "spec.drain.budget")]
#[case(json!({"spec": {"probes": {"url": "http://chat/ws"}}}), "InvalidSpec", "spec.probes.url")]
#[case(json!({"spec": {"template": {"spec": {"volumes": [{"name": "wsroll", "emptyDir": {}}]}}}}), "InvalidTemplate", "spec.template")]
fn what_would_be_refused(#[case] change: Value, #[case] rule: &'static str, #[case] field: &str) {
    let told = told(&[rollout(&change)]);
    assert!(told.contains(&error(rule, field)), "{told:?}");
}

#[rstest::rstest]
#[case(json!({}), vec![
    warning("GraceTooShort", "spec.template.spec.terminationGracePeriodSeconds"),
    warning("PreStopMissing", "spec.template.spec.containers[].lifecycle.preStop"),
    warning("SessionsUnknown", "spec.drain.sessionsFrom")])]
#[case(json!({"template": {"spec": {"terminationGracePeriodSeconds": 60}}, "drain": {"deadline": "1m"}}), vec![
    warning("PreStopMissing", "spec.template.spec.containers[].lifecycle.preStop"),
    warning("SessionsUnknown", "spec.drain.sessionsFrom")])]
#[case(json!({"template": {"spec": {"terminationGracePeriodSeconds": 60, "containers": [
        {"name": "app", "image": "a", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}]}},
    "drain": {"deadline": "1m", "sessionsFrom": {"port": 9090, "metric": "open"}}}), vec![])]
#[case(json!({"template": {"spec": {"terminationGracePeriodSeconds": 60, "containers": [
        {"name": "app", "image": "a", "lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}]}},
    "drain": {"deadline": "1m", "sessionsFrom": {"port": 9090, "metric": "open"}}}), vec![
    error("GraceTooShort", "spec.template.spec.terminationGracePeriodSeconds")])]
fn applications_with_only_sigterm(
    #[case] change: Value,
    #[case] expected: Vec<(Severity, &'static str, String)>,
) {
    let mut spec = json!({"drain": {"via": "Signal"}});
    json_patch::merge(&mut spec, &change);
    let mut got = told(&[rollout(&json!({"spec": spec}))]);
    got.sort();
    let mut expected = expected;
    expected.sort();
    assert_eq!(got, expected);
}

#[rstest::rstest]
#[case(json!({"drain": {"via": "Sidecar"}, "template": {"spec": {"hostNetwork": true}}}),
    error("HostNetwork", "spec.template.spec.hostNetwork"))]
#[case(json!({"drain": {"via": "Sidecar"}, "template": {"spec": {"containers": [
        {"name": "app", "image": "a", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}]}}}),
    warning("PreStopKept", "spec.template.spec.containers[].lifecycle.preStop"))]
#[case(json!({"drain": {"via": "Sidecar"}, "template": {"spec": {"containers": [
        {"name": "app", "image": "a", "ports": [{"containerPort": 8080}, {"containerPort": 9911}]}]}}}),
    error("InvalidTemplate", "spec.template"))]
#[case(json!({"drain": {"via": "Sidecar", "sidecar": {"pingInterval": "30s", "limits": {"idleTimeout": "30s"}}}}),
    error("IdleBelowPing", "spec.drain.sidecar.limits.idleTimeout"))]
#[case(json!({"drain": {"mode": "Leave", "onDeadline": "Close", "deadline": "30m"}, "rollback": {"deadline": "2h"}}),
    warning("LeaveCutShort", "spec.drain.deadline"))]
#[case(json!({"drain": {"mode": "Leave", "deadline": "12h"}}), warning("LeaveCutShort", "spec.rollback.deadline"))]
#[case(json!({"drain": {"budget": {"overDuration": "4h"}}}), error("DeadlineBeforeBudget", "spec.drain.budget.overDuration"))]
#[case(json!({"drain": {"via": "Sidecar", "budget": {"connectsPerSecond": 1}, "sidecar": {"limits": {"connections": 10000}}}}),
    warning("DeadlineBeforeBudget", "spec.drain.budget.connectsPerSecond"))]
fn drains_that_cannot_keep_their_word(
    #[case] spec: Value,
    #[case] expected: (Severity, &'static str, String),
) {
    assert_eq!(told(&[rollout(&json!({"spec": spec}))]), [expected]);
}

#[test]
fn budgets_that_fit_are_no_finding() {
    // Four pods, two hours: half an hour each, which is the deadline.
    for budget in [json!({"overDuration": "2h"}), json!({"connectsPerSecond": 1})] {
        assert_eq!(
            told(&[rollout(&json!({"spec": {"drain": {"budget": budget}}}))]),
            []
        );
    }
}

#[rstest::rstest]
#[case(json!({"timeouts": {"request": "30s"}}), warning("SessionTimeout", "spec.rules[0].timeouts.request"))]
#[case(json!({"timeouts": {"backendRequest": "1h"}}), warning("SessionTimeout", "spec.rules[0].timeouts.backendRequest"))]
#[case(json!({"sessionPersistence": {"sessionName": "s", "absoluteTimeout": "1h"}}),
    warning("AffinityOutlivesDrain", "spec.rules[0].sessionPersistence"))]
#[case(json!({"backendRefs": [{"name": "chat", "port": 8080}]}), error("ForeignBackend", "spec.rules[].backendRefs"))]
fn routes(#[case] rule: Value, #[case] expected: (Severity, &'static str, String)) {
    assert_eq!(told(&[rollout(&json!({})), route(&rule)]), [expected]);
}

#[test]
fn routes_of_others_are_none_of_our_business() {
    let mut other = route(&json!({"timeouts": {"request": "30s"}}));
    other["metadata"]["name"] = json!("shop");
    let mut elsewhere = route(&json!({"timeouts": {"request": "30s"}}));
    elsewhere["metadata"]["namespace"] = json!("test");
    assert_eq!(told(&[rollout(&json!({})), other, elsewhere]), []);
}

#[rstest::rstest]
#[case("Path", json!([{"path": {"type": "RegularExpression", "value": "/ws.*"}}]), Some(Severity::Error))]
#[case("Path", json!([{"path": {"type": "PathPrefix", "value": "/other"}}]), Some(Severity::Warning))]
#[case("Path", json!([{"path": {"type": "PathPrefix", "value": "/"}}]), None)]
#[case("Path", json!([{"path": {"type": "Exact", "value": "/ws"}}]), None)]
#[case("Query", json!([{"path": {"type": "RegularExpression", "value": "/ws.*"}}]), None)]
fn hints_by_path(#[case] hint: &str, #[case] matches: Value, #[case] expected: Option<Severity>) {
    let all = [
        rollout(&json!({"spec": {"drain": {"notice": {"hint": hint}}}})),
        route(&json!({"matches": matches})),
    ];
    let severities: Vec<Severity> = told(&all).into_iter().map(|f| f.0).collect();
    assert_eq!(severities, expected.into_iter().collect::<Vec<_>>());
}

#[rstest::rstest]
#[case("BackendTrafficPolicy", json!({"timeout": {"http": {"connectionIdleTimeout": "20s"}}}), Some((Severity::Error, "IdleBelowPing")))]
#[case("BackendTrafficPolicy", json!({"timeout": {"http": {"connectionIdleTimeout": "30s"}}}), None)]
#[case("BackendTrafficPolicy", json!({"timeout": {"http": {"requestTimeout": "15s"}}}), Some((Severity::Warning, "SessionTimeout")))]
#[case("GCPBackendPolicy", json!({"default": {"timeoutSec": 30}}), Some((Severity::Warning, "SessionTimeout")))]
#[case("BackendLBPolicy", json!({"sessionPersistence": {"type": "Cookie"}}), Some((Severity::Warning, "AffinityOutlivesDrain")))]
#[case("ClientTrafficPolicy", json!({"timeout": {"http": {"idleTimeout": "5s"}}}), Some((Severity::Error, "IdleBelowPing")))]
fn policies_of_gateways(
    #[case] kind: &str,
    #[case] spec: Value,
    #[case] expected: Option<(Severity, &'static str)>,
    #[values("ours", "others")] whose: &str,
) {
    let mut spec = spec;
    spec["targetRef"] = match (whose, kind) {
        ("ours", "ClientTrafficPolicy") => json!({"kind": "Gateway", "name": "edge"}),
        ("ours", "GCPBackendPolicy") => json!({"kind": "Service", "name": "chat-b"}),
        ("ours", _) => json!({"kind": "HTTPRoute", "name": "chat"}),
        _ => json!({"kind": "HTTPRoute", "name": "shop"}),
    };
    let fronted =
        rollout(&json!({"spec": {"drain": {"via": "Sidecar", "sidecar": {"pingInterval": "20s"}}}}));
    let told = told(&[fronted, route(&json!({})), named(kind, &spec)]);
    let got: Vec<_> = told.into_iter().map(|f| (f.0, f.1)).collect();
    let expected = expected.filter(|_| whose == "ours");
    assert_eq!(got, expected.into_iter().collect::<Vec<_>>());
}

#[rstest::rstest]
#[case(json!({"selector": {"app": "chat"}}), vec![error("ServiceSelectsRehearsal", "spec.selector")])]
#[case(json!({"selector": {"app": "chat", "wsroll.dev/role": "stable"}, "sessionAffinity": "ClientIP"}),
    vec![warning("AffinityOutlivesDrain", "spec.sessionAffinity")])]
#[case(json!({"selector": {"app": "shop"}, "sessionAffinity": "ClientIP"}), vec![])]
fn services(#[case] spec: Value, #[case] expected: Vec<(Severity, &'static str, String)>) {
    assert_eq!(told(&[rollout(&json!({})), named("Service", &spec)]), expected);
}

#[test]
fn what_a_person_accepted_is_no_finding() {
    let accepted =
        rollout(&json!({"metadata": {"annotations": {"wsroll.dev/acknowledge": "service/y, service/x"}}}));
    let service = named("Service", &json!({"selector": {"app": "chat"}}));
    assert_eq!(told(&[accepted, service]), []);
}

#[test]
fn load_balancers_that_cut_who_leaves_rotation() {
    let mut service = named(
        "Service",
        &json!({"selector": {"app": "chat", "wsroll.dev/role": "stable"}}),
    );
    service["metadata"]["annotations"] = json!({"service.beta.kubernetes.io/aws-load-balancer-target-group-attributes":
        "deregistration_delay.timeout_seconds=10,deregistration_delay.connection_termination.enabled=true"});
    let told = told(&[rollout(&json!({})), service]);
    assert_eq!((told.len(), told[0].1), (1, "CutOnEndpointRemoval"));
}

#[rstest::rstest]
#[case("Deployment", "chat", Some(Severity::Error))]
#[case("ReplicaSet", "chat-bcdfg24567", Some(Severity::Error))]
#[case("Deployment", "old-chat", Some(Severity::Error))]
#[case("Deployment", "shop", None)]
#[case("WebSocketRollout", "chat", Some(Severity::Warning))]
#[case("WebSocketRollout", "other", None)]
fn autoscalers(
    #[case] kind: &str,
    #[case] name: &str,
    #[case] expected: Option<Severity>,
    #[values("HorizontalPodAutoscaler", "ScaledObject")] scaler: &str,
) {
    let mut before = named(
        "Deployment",
        &json!({"template": {"metadata": {"labels": {"app": "chat"}}}}),
    );
    before["metadata"]["name"] = json!("old-chat");
    let hpa = named(scaler, &json!({"scaleTargetRef": {"kind": kind, "name": name}}));
    let told = told(&[rollout(&json!({})), before, hpa]);
    let got: Vec<_> = told.iter().map(|f| (f.0, f.1)).collect();
    let expected = expected.map(|severity| (severity, "AutoscalerFights"));
    assert_eq!(got, expected.into_iter().collect::<Vec<_>>());
}

#[rstest::rstest]
#[case(json!({"maxUnavailable": 0}), Some("spec.maxUnavailable"))]
#[case(json!({"maxUnavailable": "0%"}), Some("spec.maxUnavailable"))]
#[case(json!({"minAvailable": "100%"}), Some("spec.minAvailable"))]
#[case(json!({"minAvailable": 4}), Some("spec.minAvailable"))]
#[case(json!({"minAvailable": 3}), None)]
#[case(json!({"maxUnavailable": "25%"}), None)]
fn disruption_budgets(#[case] spec: Value, #[case] field: Option<&str>, #[values(true, false)] ours: bool) {
    let mut spec = spec;
    let app = if ours { "chat" } else { "shop" };
    spec["selector"] = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": [app]}]});
    let told = told(&[rollout(&json!({})), named("PodDisruptionBudget", &spec)]);
    let expected = field.filter(|_| ours).map(|field| warning("BudgetBlocks", field));
    assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
}

#[rstest::rstest]
#[case("Protocol", json!([{"ports": [{"port": 8080}]}]), vec![Severity::Error])]
#[case("Auto", json!([{"ports": [{"port": 8080}]}]), vec![Severity::Warning])]
#[case("Sidecar", json!([{"ports": [{"port": 8080}]}]), vec![Severity::Error, Severity::Error])]
#[case("Sidecar", json!([{"ports": [{"port": 9900, "endPort": 9920}]}]), vec![])]
#[case("Sidecar", json!([{"from": []}]), vec![])]
#[case("Protocol", json!([{"ports": [{"port": "drain"}]}]), vec![])]
#[case("Protocol", json!([]), vec![Severity::Error])]
fn network_policies(#[case] via: &str, #[case] ingress: Value, #[case] expected: Vec<Severity>) {
    let policy = named(
        "NetworkPolicy",
        &json!({"podSelector": {"matchLabels": {"app": "chat"}}, "ingress": ingress}),
    );
    let rollout = rollout(&json!({"spec": {"drain": {"via": via}}}));
    let told = told(&[rollout, policy]);
    assert!(told.iter().all(|f| f.1 == "PortShut"), "{told:?}");
    assert_eq!(told.into_iter().map(|f| f.0).collect::<Vec<_>>(), expected);
}

#[test]
fn manifests_are_read_as_they_are_written() {
    let mut all = Objects::default();
    let text = "# nothing\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: b}}\n";
    all.read(text).unwrap();
    assert_eq!(
        all.of("Service").map(Object::name).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(all.read("a: [").is_err());
    assert!(all.read("name: values of a chart").is_err());
}

#[test]
fn findings_say_what_to_do_and_the_worst_comes_first() {
    let all = found(&[
        rollout(&json!({"spec": {"drain": {"via": "Signal"}}})),
        named("Service", &json!({"selector": {"app": "chat"}})),
    ]);
    assert!(all.is_sorted_by_key(|f| f.severity));
    assert_eq!(all[0].object, "Service prod/x");
    for finding in &all {
        assert!(
            !finding.problem.is_empty() && !finding.remedy.is_empty(),
            "{finding:?}"
        );
    }
}
