use serde_json::{Value, json};

use super::*;
use crate::api::spec::Via;
use crate::workload::labels::{Parent, Role};
use crate::workload::replica_set;

const PARENT: Parent<'_> = Parent {
    name: "chat",
    namespace: "prod",
    uid: "u-1",
};

fn drain(change: &Value) -> Drain {
    let mut drain = json!({"via": "Sidecar"});
    json_patch::merge(&mut drain, change);
    serde_json::from_value(drain).unwrap()
}

fn template(change: &Value) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": "chat"}},
        "spec": {"containers": [
            {"name": "log", "image": "log:1"},
            {"name": "chat", "image": "chat:1", "ports": [{"containerPort": 8080}]},
        ]},
    });
    json_patch::merge(&mut template, change);
    template
}

fn built_from(template: &Value, drain: &Drain, image: &str) -> Result<Value, Error> {
    replica_set::build(&replica_set::Spec {
        parent: PARENT,
        revision: "bcdfg24567",
        template,
        port: 8080,
        replicas: 3,
        role: Role::Rehearsal,
        via: drain.via,
        sidecar: (drain.via == Via::Sidecar).then_some(Sidecar {
            image,
            drain,
            prestop_key: "k3y",
            tls: false,
        }),
    })
}

fn pod(change: &Value, settings: &Value) -> Value {
    let set = built_from(&template(change), &drain(settings), "wsroll:1").unwrap();
    set["spec"]["template"]["spec"].clone()
}

fn settings_of(pod: &Value) -> Value {
    let env = pod["initContainers"][0]["env"].as_array().unwrap();
    let found = env.iter().find(|e| e["name"] == "WSROLL_SIDECAR").unwrap();
    serde_json::from_str(found["value"].as_str().unwrap()).unwrap()
}

#[test]
fn the_whole_container() {
    let pod = pod(&json!({}), &json!({}));
    let mut container = pod["initContainers"][0].clone();
    let env = container.as_object_mut().unwrap().remove("env").unwrap();
    assert_eq!(
        container,
        json!({
            "name": "wsroll-sidecar", "image": "wsroll:1", "args": ["sidecar"], "restartPolicy": "Always",
            "ports": [{"name": "wsroll", "containerPort": 9910, "protocol": "TCP"},
                {"name": "wsroll-drain", "containerPort": 9911, "protocol": "TCP"}],
            "startupProbe": {"httpGet": {"path": "/healthz", "port": 9911}, "periodSeconds": 1, "timeoutSeconds": 2,
                "failureThreshold": 60},
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}},
            "volumeMounts": [{"name": "wsroll", "mountPath": "/var/run/wsroll", "readOnly": true}],
        })
    );
    let names: Vec<_> = env
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["name"].clone())
        .collect();
    assert_eq!(
        names,
        [
            "WSROLL_SIDECAR",
            "WSROLL_TOKEN_FILE",
            "WSROLL_IDENTITY_KEY_FILE",
            "WSROLL_PORT",
            "WSROLL_REVISION"
        ]
    );
}

#[test]
fn the_application_is_told_its_revision_and_holds_no_token() {
    let pod = pod(&json!({}), &json!({}));
    let application = &pod["containers"][1];
    assert_eq!(
        application["env"],
        json!([{"name": "WSROLL_REVISION", "value": "bcdfg24567"}])
    );
    assert_eq!(application["volumeMounts"], Value::Null);
    assert_eq!(
        application["lifecycle"]["preStop"],
        json!({"httpGet": {"path": "/wsroll/v1/prestop", "port": 9911, "scheme": "HTTP",
            "httpHeaders": [{"name": "Authorization", "value": "Bearer k3y"}]}})
    );
    assert_eq!(
        pod["containers"][0]["lifecycle"],
        Value::Null,
        "the other container is left alone"
    );
}

#[test]
fn settings_say_what_the_spec_says() {
    let defaults = settings_of(&pod(&json!({}), &json!({})));
    assert_eq!(
        defaults,
        json!({"applicationPort": 8080, "notices": [], "closeCodes": [], "session": null, "affinity": false, "limits": {}, "pingIntervalMs": null,
            "shutdown": {"ratePerSecond": 50.0, "withinMs": 120_000, "closeCode": 1012}}),
        "what is absent has the sidecar's own default"
    );
    let all = settings_of(&pod(
        &json!({}),
        &json!({
            "deadline": "90s", "budget": {"connectsPerSecond": 7}, "notice": {"closeCode": 4001},
            "session": {"idFrom": {"query": "sid"}},
            "sidecar": {
                "notices": [{"subprotocol": "chat.v1", "format": "Text", "template": "bye {afterMs}"}],
                "closeCodes": [{"subprotocol": "mqtt", "client": 1001}], "trustedHops": 2, "pingInterval": "25s",
                "limits": {"connections": 500, "headerBytes": 8192, "handshakeTimeout": "5s", "idleTimeout": "1h"},
            },
        }),
    ));
    assert_eq!(
        all,
        json!({"applicationPort": 8080,
            "notices": [{"subprotocol": "chat.v1", "format": "Text", "template": "bye {afterMs}"}],
            "closeCodes": [{"subprotocol": "mqtt", "client": 1001}],
            "session": {"query": "sid"}, "affinity": true, "trustedHops": 2, "pingIntervalMs": 25_000,
            "limits": {"connections": 500, "headerBytes": 8192, "handshakeTimeoutMs": 5_000, "idleTimeoutMs": 3_600_000},
            "shutdown": {"ratePerSecond": 7.0, "withinMs": 90_000, "closeCode": 4001}})
    );
}

#[test]
fn a_hook_of_the_users_stays() {
    let own = json!({"exec": {"command": ["sleep", "5"]}});
    let containers = json!([{"name": "chat", "image": "chat:1", "ports": [{"containerPort": 8080}],
        "lifecycle": {"preStop": own, "postStart": {"exec": {"command": ["true"]}}}}]);
    let kept = pod(&json!({"spec": {"containers": containers}}), &json!({}));
    assert_eq!(kept["containers"][0]["lifecycle"]["preStop"], own);
    let containers = json!([{"name": "chat", "image": "chat:1", "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}}]);
    let beside = pod(&json!({"spec": {"containers": containers}}), &json!({}));
    assert_eq!(
        beside["containers"][0]["lifecycle"]["preStop"]["httpGet"]["port"],
        9911
    );
    assert!(beside["containers"][0]["lifecycle"]["postStart"].is_object());
}

#[rstest::rstest]
#[case("30m", None, 120, 130)]
#[case("20s", None, 20, 30)]
#[case("5s", None, 5, 30)]
#[case("30m", Some(20), 120, 130)]
#[case("30m", Some(600), 590, 600)]
#[case("300s", Some(600), 300, 600)]
#[case("1500ms", Some(0), 1, 12)]
#[case("48h", Some(200_000), 86_400, 200_000)]
#[case("0s", None, 1, 30)]
fn the_grace_period_covers_the_drain(
    #[case] deadline: &str,
    #[case] user: Option<u64>,
    #[case] within: u64,
    #[case] grace: u64,
) {
    let change = json!({"spec": {"terminationGracePeriodSeconds": user}});
    let pod = pod(&change, &json!({"deadline": deadline}));
    assert_eq!(pod["terminationGracePeriodSeconds"], json!(grace));
    let ms = settings_of(&pod)["shutdown"]["withinMs"].as_u64().unwrap();
    assert_eq!(ms / 1000, within);
    assert!(ms / 1000 + 10 <= grace, "the application has time left");
}

#[test]
fn a_grace_period_that_is_none_is_left_for_the_api_server_to_refuse() {
    let pod = pod(
        &json!({"spec": {"terminationGracePeriodSeconds": "long"}}),
        &json!({}),
    );
    assert_eq!(pod["terminationGracePeriodSeconds"], "long");
}

#[test]
fn it_comes_after_what_sets_the_pod_up() {
    let change = json!({"spec": {"initContainers": [{"name": "migrate", "image": "m:1"}]}});
    let pod = pod(&change, &json!({}));
    let names: Vec<_> = pod["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["migrate", "wsroll-sidecar"]);
}

#[rstest::rstest]
#[case(json!({"spec": {"initContainers": [{"name": "wsroll-sidecar", "image": "x"}]}}),
    Error::Reserved("spec.initContainers[wsroll-sidecar]".into()))]
#[case(json!({"spec": {"containers": [{"name": "chat", "ports": [{"containerPort": 8080}, {"containerPort": 9910}]}]}}),
    Error::PortTaken(9910))]
#[case(json!({"spec": {"initContainers": [{"name": "m", "ports": [{"containerPort": 9911}]}]}}), Error::PortTaken(9911))]
#[case(json!({"spec": {"containers": [{"name": "chat", "env": [{"name": "WSROLL_REVISION", "value": "1"}]}]}}),
    Error::Reserved("spec.containers[chat].env[WSROLL_REVISION]".into()))]
#[case(json!({"spec": {"initContainers": "none"}}), Error::NotAList("spec.initContainers".into()))]
fn what_is_in_its_way_is_named(#[case] change: Value, #[case] expected: Error) {
    let error = built_from(&template(&change), &drain(&json!({})), "wsroll:1").unwrap_err();
    assert_eq!(error, expected);
}

#[test]
fn resources_are_the_users_where_there_are_any() {
    let wanted = json!({"limits": {"memory": "64Mi"}});
    let pod = pod(&json!({}), &json!({"sidecar": {"resources": wanted}}));
    assert_eq!(pod["initContainers"][0]["resources"], wanted);
}

/// What a revision is, and where its pods take connections, is told by its own ReplicaSet: another image of the operator, or other
/// settings in the spec, make no other revision and change nothing in one that exists.
#[test]
fn it_is_frozen_with_its_revision() {
    let typed = |drain: &Drain, image: &str| -> ReplicaSet {
        serde_json::from_value(built_from(&template(&json!({})), drain, image).unwrap()).unwrap()
    };
    let old = typed(&drain(&json!({})), "wsroll:1");
    let new = typed(&drain(&json!({"deadline": "10s"})), "wsroll:2");
    let hash = |set: &ReplicaSet| super::super::Revision::of(&replica_set::template_of(set).unwrap()).hash;
    assert_eq!(hash(&old), hash(&new), "the hash covers the user's template only");
    assert_eq!(
        old.metadata.name, new.metadata.name,
        "so creating the newer one finds the older there"
    );
    assert!(is_in(&old));
    assert_eq!(replica_set::via_of(&old), Some(Via::Sidecar));
    assert_eq!(replica_set::traffic_port(&old, 8080), 9910);

    let bare = typed(&drain(&json!({"via": "Signal"})), "wsroll:2");
    assert_eq!(hash(&bare), hash(&old));
    assert!(!is_in(&bare));
    assert_eq!(replica_set::via_of(&bare), Some(Via::Signal));
    assert_eq!(replica_set::traffic_port(&bare, 8080), 8080);

    let mut older = bare;
    older
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .remove("wsroll.dev/via");
    assert_eq!(
        replica_set::via_of(&older),
        None,
        "of an operator that knew no other way"
    );
}

#[test]
fn the_hooks_key_is_made_of_the_token_and_does_not_show_it() {
    let key = prestop_key(&Token::new("s3cret\n"));
    assert_eq!(key, prestop_key(&Token::new("s3cret")));
    // Fixed: the sidecar makes the same of the same token.
    assert_eq!(key, hex::encode(mac(&IdentityKey::new("s3cret"), "prestop:", "")));
    assert_eq!(key.len(), 64);
    assert_ne!(key, prestop_key(&Token::new("s3cres")));
}
