use serde_json::{Value, json};

use super::*;

const PARENT: Parent<'_> = Parent {
    name: "chat",
    namespace: "prod",
    uid: "u-1",
};

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "chat"}, "annotations": {"team": "rt"}},
        "spec": {"containers": [
            {"name": "log", "image": "log:1"},
            {"name": "chat", "image": "chat:1", "ports": [{"containerPort": 8080}], "env": [{"name": "A", "value": "b"}],
             "fieldOfTomorrow": true},
        ]},
    })
}

fn built(template: &Value) -> Result<Value, Error> {
    build(&Spec {
        parent: PARENT,
        revision: "bcdfg24567",
        template,
        port: 8080,
        replicas: 3,
        role: Role::Rehearsal,
        via: Via::Protocol,
        sidecar: None,
    })
}

fn typed() -> ReplicaSet {
    serde_json::from_value(built(&template()).unwrap()).unwrap()
}

#[test]
fn pods_get_labels_environment_and_volume() {
    let set = built(&template()).unwrap();
    assert_eq!(set["metadata"]["name"], "chat-bcdfg24567");
    assert_eq!(set["metadata"]["ownerReferences"], Value::Null);
    let pod = &set["spec"]["template"];
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "chat", "wsroll.dev/rollout": "chat", "wsroll.dev/revision": "bcdfg24567",
            "wsroll.dev/serving": "true", "wsroll.dev/role": "rehearsal"})
    );
    assert_eq!(
        set["spec"]["selector"]["matchLabels"],
        json!({"wsroll.dev/rollout": "chat", "wsroll.dev/revision": "bcdfg24567"})
    );
    let container = &pod["spec"]["containers"][1];
    assert_eq!(
        container["env"],
        json!([{"name": "A", "value": "b"}, {"name": "WSROLL_TOKEN_FILE", "value": "/var/run/wsroll/token"},
            {"name": "WSROLL_IDENTITY_KEY_FILE", "value": "/var/run/wsroll/identity-key"},
            {"name": "WSROLL_PORT", "value": "9911"}, {"name": "WSROLL_REVISION", "value": "bcdfg24567"}])
    );
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/var/run/wsroll");
    assert_eq!(
        container["fieldOfTomorrow"], true,
        "fields of a newer Kubernetes are kept"
    );
    assert_eq!(
        pod["spec"]["containers"][0]["env"],
        Value::Null,
        "the other container is left alone"
    );
    assert_eq!(
        pod["spec"]["volumes"][0]["projected"]["sources"][0]["secret"]["name"],
        "chat-bcdfg24567-token"
    );
    let identity = &pod["spec"]["volumes"][0]["projected"]["sources"][1]["secret"];
    assert_eq!(
        *identity,
        json!({"name": "chat-bcdfg24567-token", "items": [{"key": "identity-key", "path": "identity-key"}], "optional": true}),
        "a Secret of an older operator starts its pods all the same"
    );
    assert_eq!(set["metadata"]["annotations"]["wsroll.dev/via"], "Protocol");
    assert_eq!(
        pod["spec"]["volumes"][0]["projected"]["sources"][2]["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"],
        "metadata.labels['wsroll.dev/role']"
    );
}

#[test]
fn the_users_template_comes_back_untouched() {
    let set = typed();
    assert_eq!(template_of(&set), Some(template()));
    assert_eq!(revision_of(&set), Some("bcdfg24567"));
    assert!(belongs_to(&set, "u-1"));
    assert!(!belongs_to(&set, "u-0"), "a namesake that was deleted before");
}

#[test]
fn a_port_that_no_container_names_is_told() {
    assert_eq!(container_of_port(&template(), 8080), Some("chat"));
    assert_eq!(container_of_port(&template(), 9090), None);
    let set = build(&Spec {
        parent: PARENT,
        revision: "x",
        template: &template(),
        port: 9090,
        replicas: 1,
        role: Role::Stable,
        via: Via::Auto,
        sidecar: None,
    })
    .unwrap();
    assert!(
        set["spec"]["template"]["spec"]["containers"][0]["env"].is_array(),
        "the first container then"
    );
}

#[rstest::rstest]
#[case(json!({"spec": {"containers": []}}), Error::NoContainer)]
#[case(json!({"spec": {"containers": null}}), Error::NoContainer)]
#[case(json!({"spec": null}), Error::NoContainer)]
#[case(json!({"spec": {"containers": "chat"}}), Error::NotAList("spec.containers".into()))]
#[case(json!({"metadata": []}), Error::NotAnObject("metadata"))]
#[case(json!({"metadata": {"labels": {"wsroll.dev/role": "x"}}}), Error::Reserved("metadata.labels[wsroll.dev/role]".into()))]
#[case(json!({"spec": {"volumes": [{"name": "wsroll"}]}}), Error::Reserved("spec.volumes[wsroll]".into()))]
#[case(json!({"spec": {"containers": [{"name": "chat", "env": [{"name": "WSROLL_PORT", "value": "1"}]}]}}),
    Error::Reserved("spec.containers[chat].env[WSROLL_PORT]".into()))]
#[case(json!({"metadata": {"annotations": {"a": "x".repeat(MAX_TEMPLATE)}}}), Error::TooLarge)]
fn templates_that_cannot_be_run_are_named(#[case] change: Value, #[case] expected: Error) {
    let mut changed = template();
    json_patch::merge(&mut changed, &change);
    assert_eq!(built(&changed).unwrap_err(), expected);
}

#[test]
fn a_role_is_changed_only_where_it_differs() {
    let mut set = typed();
    set.metadata.uid = Some("s-1".into());
    assert_eq!(role_patch(&set, Role::Rehearsal), None);
    let patch = role_patch(&set, Role::Stable).unwrap();
    let mut value = serde_json::to_value(&set).unwrap();
    json_patch::patch(&mut value, &patch).unwrap();
    assert_eq!(
        template_role(&serde_json::from_value(value).unwrap()),
        Some(Role::Stable)
    );
}

#[test]
fn a_quota_that_is_used_up_is_told_in_the_controllers_words() {
    let mut set = ReplicaSet::default();
    assert_eq!(failure(&set), None);
    let with = |status: &str| {
        serde_json::from_value(json!({"replicas": 0, "conditions": [
            {"type": "ReplicaFailure", "status": status, "reason": "FailedCreate", "message": "exceeded quota: pods"},
        ]}))
        .unwrap()
    };
    set.status = Some(with("True"));
    assert_eq!(failure(&set).as_deref(), Some("exceeded quota: pods"));
    set.status = Some(with("False"));
    assert_eq!(failure(&set), None);
}
