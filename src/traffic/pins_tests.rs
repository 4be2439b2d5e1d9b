use serde_json::{Value, json};

use super::*;

const PARENT: Parent<'_> = Parent {
    name: "chat",
    namespace: "prod",
    uid: "u-1",
};

fn slots() -> Vec<String> {
    ["chat-a", "chat-b", "chat-c"].map(str::to_owned).to_vec()
}

fn route(name: &str, change: &Value) -> HTTPRoute {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "prod"},
        "spec": {
            "parentRefs": [{"name": "gateway", "namespace": "infra"}], "hostnames": ["chat.example.com"],
            "rules": [
                {"name": "ws", "timeouts": {"request": "0s"}, "filters": [{"type": "RequestHeaderModifier"}],
                 "matches": [{"path": {"type": "PathPrefix", "value": "/ws"}}, {"headers": [{"name": "x", "value": "y"}]}],
                 "backendRefs": [{"name": "chat-a", "port": 8080, "weight": 100}, {"name": "chat-b", "port": 8080, "weight": 0},
                    {"name": "chat-c", "port": 8080, "weight": 0}]},
                {"backendRefs": [{"name": "site", "port": 80}]},
            ],
        },
    });
    json_patch::merge(&mut route, change);
    serde_json::from_value(route).unwrap()
}

fn pin(carrier: Carrier, value: &str, service: &str) -> Pin {
    Pin {
        carrier,
        value: value.into(),
        service: service.into(),
    }
}

fn pins() -> Vec<Pin> {
    vec![
        pin(Carrier::Hint, "h1", "chat-b"),
        pin(Carrier::Probe, "p1", "chat-b"),
    ]
}

fn built(routes: &[HTTPRoute], pins: &[Pin]) -> Result<Vec<HTTPRoute>, Error> {
    build(&PARENT, routes, &slots(), 8080, pins)
}

#[test]
fn the_users_rules_narrowed_by_the_pin() {
    let made = built(&[route("chat", &json!({}))], &pins()).unwrap();
    assert_eq!(made.len(), 1);
    let value = serde_json::to_value(&made[0]).unwrap();
    assert_eq!(value["metadata"]["name"], "chat-pins");
    assert_eq!(value["metadata"].get("ownerReferences"), None);
    assert_eq!(value["spec"]["hostnames"], json!(["chat.example.com"]));
    assert_eq!(value["spec"]["parentRefs"][0]["name"], "gateway");
    let pin_header = json!({"type": "Exact", "name": "wsroll-pin", "value": "p1"});
    let hint = json!({"type": "Exact", "name": "wsroll", "value": "h1"});
    let backend = json!([{"group": "", "kind": "Service", "name": "chat-b", "port": 8080, "weight": 1}]);
    let kept = json!({"timeouts": {"request": "0s"}, "filters": [{"type": "RequestHeaderModifier"}], "backendRefs": backend});
    let rule = |matches: Value| {
        let mut rule = kept.clone();
        json_patch::merge(&mut rule, &json!({"matches": matches}));
        rule
    };
    assert_eq!(
        value["spec"]["rules"],
        json!([
            rule(json!([
                {"path": {"type": "PathPrefix", "value": "/ws"}, "headers": [pin_header]},
                {"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "x", "value": "y"}, pin_header]},
            ])),
            rule(json!([
                {"path": {"type": "PathPrefix", "value": "/ws"}, "queryParams": [hint]},
                {"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "x", "value": "y"}], "queryParams": [hint]},
            ])),
        ])
    );
}

#[test]
fn a_hint_by_header_is_a_term_of_its_own() {
    let made = built(
        &[route("chat", &json!({}))],
        &[pin(Carrier::HintHeader, "h1", "chat-b")],
    )
    .unwrap();
    let matches = serde_json::to_value(&made[0].spec.rules[0].matches).unwrap();
    let term = json!({"type": "Exact", "name": "x-wsroll-hint", "value": "h1"});
    assert_eq!(matches[0]["headers"], json!([term]));
    assert_eq!(matches[1]["headers"][1], term);
}

#[test]
fn a_hint_by_path_is_put_before_the_path_and_taken_off_again() {
    let matches = json!([
        {"path": {"type": "PathPrefix", "value": "/ws/"}},
        {"path": {"type": "Exact", "value": "/socket"}, "headers": [{"name": "x", "value": "y"}]},
        {"queryParams": [{"name": "q", "value": "1"}]},
    ]);
    let rule = json!({"matches": matches, "timeouts": {"request": "0s"}, "backendRefs": [{"name": "chat-a", "port": 8080}]});
    let made = built(
        &[route("chat", &json!({"spec": {"rules": [rule]}}))],
        &[pin(Carrier::HintPath, "h1", "chat-b")],
    )
    .unwrap();
    let rules = serde_json::to_value(&made[0].spec.rules).unwrap();
    let rewrite = |path: Value| json!([{"type": "URLRewrite", "urlRewrite": {"path": path}}]);
    let of = |n: usize, field: &str| rules[n][field].clone();
    assert_eq!(
        rules.as_array().unwrap().len(),
        3,
        "a prefix is rewritten in a rule with one match"
    );
    assert_eq!(
        of(0, "matches"),
        json!([{"path": {"type": "PathPrefix", "value": "/wsroll-h1/ws"}}])
    );
    assert_eq!(
        of(0, "filters"),
        rewrite(json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/ws"}))
    );
    assert_eq!(
        of(1, "matches"),
        json!([{"path": {"type": "Exact", "value": "/wsroll-h1/socket"}, "headers": [{"name": "x", "value": "y"}]}])
    );
    assert_eq!(
        of(1, "filters"),
        rewrite(json!({"type": "ReplaceFullPath", "replaceFullPath": "/socket"}))
    );
    assert_eq!(
        of(2, "matches"),
        json!([{"path": {"type": "PathPrefix", "value": "/wsroll-h1"}, "queryParams": [{"name": "q", "value": "1"}]}])
    );
    assert_eq!(
        of(2, "filters"),
        rewrite(json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}))
    );
    assert_eq!(of(2, "timeouts"), json!({"request": "0s"}));
    assert_eq!(of(2, "backendRefs")[0]["name"], "chat-b");
}

#[test]
fn a_rewrite_of_the_users_stays_and_one_of_the_host_is_completed() {
    let with = |rewrite: Value| {
        let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/ws"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": rewrite}], "backendRefs": [{"name": "chat-a", "port": 8080}]});
        let made = built(
            &[route("chat", &json!({"spec": {"rules": [rule]}}))],
            &[pin(Carrier::HintPath, "h1", "chat-b")],
        )
        .unwrap();
        serde_json::to_value(&made[0].spec.rules[0]).unwrap()["filters"].clone()
    };
    let own = json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}});
    assert_eq!(
        with(own.clone()),
        json!([{"type": "URLRewrite", "urlRewrite": own}])
    );
    assert_eq!(
        with(json!({"hostname": "h"})),
        json!([{"type": "URLRewrite", "urlRewrite": {"hostname": "h",
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/ws"}}}])
    );
}

#[test]
fn nothing_can_be_put_before_a_regular_expression() {
    let rule = json!({"matches": [{"path": {"type": "RegularExpression", "value": "/ws.*"}}], "backendRefs": [{"name": "chat-a"}]});
    let route = route("chat", &json!({"spec": {"rules": [rule]}}));
    let error = built(
        std::slice::from_ref(&route),
        &[pin(Carrier::HintPath, "h", "chat-a")],
    )
    .unwrap_err();
    assert!(error.to_string().contains("Query or Header"), "{error}");
    built(&[route], &[pin(Carrier::Hint, "h", "chat-a")]).unwrap();
}

#[test]
fn a_rule_without_matches_is_narrowed_too() {
    let bare = json!({"spec": {"rules": [{"backendRefs": [{"name": "chat-a", "port": 8080}]}]}});
    let made = built(&[route("chat", &bare)], &[pin(Carrier::Probe, "p", "chat-a")]).unwrap();
    let matches = serde_json::to_value(&made[0].spec.rules[0].matches).unwrap();
    assert_eq!(
        matches,
        json!([{"path": {"type": "PathPrefix", "value": "/"},
            "headers": [{"type": "Exact", "name": "wsroll-pin", "value": "p"}]}])
    );
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    let (a, b) = (route("a", &json!({})), route("b", &json!({})));
    let mut reversed = pins();
    reversed.reverse();
    assert_eq!(built(&[a.clone(), b.clone()], &pins()), built(&[b, a], &reversed));
}

#[test]
fn no_pins_no_routes() {
    assert_eq!(built(&[route("chat", &json!({}))], &[]).unwrap(), []);
    let foreign = json!({"spec": {"rules": [{"backendRefs": [{"name": "site", "port": 80}]}]}});
    assert_eq!(built(&[route("chat", &foreign)], &pins()).unwrap(), []);
}

#[test]
fn routes_of_other_gateways_get_pins_of_their_own() {
    let internal = json!({"spec": {"parentRefs": [{"name": "internal", "namespace": "infra"}]}});
    let made = built(
        &[route("chat", &json!({})), route("chat-internal", &internal)],
        &pins(),
    )
    .unwrap();
    let names: Vec<_> = made.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["chat-pins", "chat-pins-2"]);
    assert_eq!(made[1].spec.parent_refs[0].name, "internal");
    assert_eq!(obsolete(&made, &made[..1]), ["chat-pins-2"]);
}

fn many(rules: usize, matches: usize) -> HTTPRoute {
    let matches: Vec<_> = (0..matches)
        .map(|n| json!({"path": {"type": "Exact", "value": format!("/{n}")}}))
        .collect();
    let rule = json!({"matches": matches, "backendRefs": [{"name": "chat-a", "port": 8080}]});
    route("chat", &json!({"spec": {"rules": vec![rule; rules]}}))
}

#[rstest::rstest]
#[case(9, 1, 2)]
#[case(16, 1, 2)]
#[case(2, 64, 2)]
#[case(16, 8, 2)]
fn limits_of_the_gateway_api_are_kept_by_splitting(
    #[case] rules: usize,
    #[case] matches: usize,
    #[case] routes: usize,
) {
    let made = built(&[many(rules, matches)], &pins()).unwrap();
    assert_eq!(made.len(), routes);
    for route in &made {
        assert!(route.spec.rules.len() <= MAX_RULES);
        assert!(
            route
                .spec
                .rules
                .iter()
                .map(|rule| rule.matches.len())
                .sum::<usize>()
                <= MAX_MATCHES
        );
    }
    assert_eq!(
        made.iter().map(|route| route.spec.rules.len()).sum::<usize>(),
        rules * pins().len()
    );
}

#[test]
fn beyond_all_measure_is_refused() {
    let pins: Vec<_> = (0..20)
        .map(|n| pin(Carrier::Hint, &n.to_string(), "chat-a"))
        .collect();
    assert_eq!(built(&[many(16, 8)], &pins), Err(Error::TooMany(20)));
}

#[test]
fn matches_without_room_and_names_that_are_taken_are_told() {
    let term = json!({"name": "Wsroll-Pin", "value": "1"});
    let taken =
        json!({"spec": {"rules": [{"matches": [{"headers": [term]}], "backendRefs": [{"name": "chat-a"}]}]}});
    let error = built(&[route("chat", &taken)], &pins()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rule 0 of HTTPRoute chat matches wsroll-pin itself: wsroll needs that name"
    );
    let terms: Vec<_> = (0..16)
        .map(|n| json!({"name": format!("h{n}"), "value": "1"}))
        .collect();
    let full =
        json!({"spec": {"rules": [{"matches": [{"headers": terms}], "backendRefs": [{"name": "chat-a"}]}]}});
    let error = built(&[route("chat", &full)], &pins()).unwrap_err();
    assert!(error.to_string().contains("16 header terms"), "{error}");
}

#[test]
fn defaults_of_the_api_server_are_no_difference() {
    let desired = &built(&[route("chat", &json!({}))], &pins()).unwrap()[0];
    let mut stored = serde_json::to_value(desired).unwrap();
    stored["spec"]["rules"][0]["backendRefs"][0]["filled"] = json!("in");
    stored["metadata"]["labels"]["team"] = json!("rt");
    assert!(is_current(
        &serde_json::from_value(stored.clone()).unwrap(),
        desired
    ));
    stored["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(0);
    assert!(!is_current(
        &serde_json::from_value(stored.clone()).unwrap(),
        desired
    ));
    stored["spec"]["rules"].as_array_mut().unwrap().pop();
    assert!(!is_current(&serde_json::from_value(stored).unwrap(), desired));
}

#[test]
fn values_are_random_and_plain() {
    let value = random_value();
    assert!(value.len() == 24 && value.bytes().all(|c| c.is_ascii_alphanumeric()));
    assert_ne!(value, random_value());
}
