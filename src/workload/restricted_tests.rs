//! Pod Security's level `restricted`, as far as it asks anything of a container: of the operator's own pods and of injected sidecars.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>

use std::path::Path;

use serde_json::{Value, json};

use super::labels::{self, Parent, Role};
use super::replica_set;
use super::sidecar::Sidecar;
use crate::api::spec::{Drain, Via};

/// What a container is refused for at the level `restricted`, within this pod.
fn refused(pod: &Value, container: &Value) -> Vec<&'static str> {
    let (own, pods) = (&container["securityContext"], &pod["securityContext"]);
    let either = |field: &str| {
        if own[field].is_null() {
            &pods[field]
        } else {
            &own[field]
        }
    };
    let seccomp = &either("seccompProfile")["type"];
    let rules = [
        ("privileged", own["privileged"] != true),
        (
            "allowPrivilegeEscalation",
            own["allowPrivilegeEscalation"] == false,
        ),
        ("runAsNonRoot", *either("runAsNonRoot") == true),
        (
            "runAsUser",
            either("runAsUser").as_u64().is_some_and(|user| user > 0),
        ),
        (
            "seccompProfile",
            seccomp == "RuntimeDefault" || seccomp == "Localhost",
        ),
        ("capabilities.drop", own["capabilities"]["drop"] == json!(["ALL"])),
        ("capabilities.add", own["capabilities"]["add"].is_null()),
        (
            "hostPorts",
            !container["ports"]
                .as_array()
                .is_some_and(|ports| ports.iter().any(|p| !p["hostPort"].is_null())),
        ),
        // Not of the level, and ours all the same.
        ("readOnlyRootFilesystem", own["readOnlyRootFilesystem"] == true),
    ];
    rules
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(rule, _)| rule)
        .collect()
}

fn refused_of_the_pod(pod: &Value) -> Vec<&'static str> {
    let allowed = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
    let fine = |volume: &Value| {
        volume
            .as_object()
            .is_some_and(|v| v.keys().all(|k| k == "name" || allowed.contains(&k.as_str())))
    };
    let rules = [
        ("hostNetwork", pod["hostNetwork"] != true),
        ("hostPID", pod["hostPID"] != true),
        ("hostIPC", pod["hostIPC"] != true),
        ("volumes", volumes.iter().all(fine)),
    ];
    rules
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(rule, _)| rule)
        .collect()
}

fn with_sidecar(tls: bool) -> Value {
    let drain: Drain = serde_json::from_value(json!({"via": "Sidecar"})).unwrap();
    let template = json!({"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [
        {"name": "chat", "image": "chat:1", "ports": [{"containerPort": 8080}]}]}});
    replica_set::build(&replica_set::Spec {
        parent: Parent {
            name: "chat",
            namespace: "prod",
            uid: "u",
        },
        revision: "r",
        template: &template,
        port: 8080,
        replicas: 1,
        role: Role::Stable,
        via: Via::Sidecar,
        sidecar: Some(Sidecar {
            image: "wsroll:1",
            drain: &drain,
            prestop_key: "k",
            tls,
        }),
    })
    .unwrap()
}

#[test]
fn an_injected_sidecar_is_restricted_and_asks_nothing_more_of_the_pod() {
    for tls in [false, true] {
        let pod = with_sidecar(tls)["spec"]["template"]["spec"].clone();
        assert_eq!(refused(&pod, &pod["initContainers"][0]), [""; 0]);
        assert_eq!(refused_of_the_pod(&pod), [""; 0]);
    }
}

#[test]
fn the_operators_pod_is_restricted() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/base/deployment.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let deployment: Value = serde_saphyr::from_str(&text).unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(refused(pod, &pod["containers"][0]), [""; 0]);
    assert_eq!(refused_of_the_pod(pod), [""; 0]);
}

/// The chart is a template, whose security settings are not for values to change: they are the manifest's, line by line.
#[test]
fn the_charts_pod_is_the_same() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    // A volume for audit files is the group's to write: that loosens nothing.
    let optional = |line: &str| line.starts_with("{{-") || line.starts_with('#') || line == "fsGroup: 65532";
    let block = |text: &str| -> Vec<String> {
        let mut lines = Vec::new();
        let mut within = None;
        for line in text.lines() {
            let depth = line.len() - line.trim_start().len();
            if within.is_some_and(|outer| depth <= outer) {
                within = None;
            }
            if line.trim() == "securityContext:" {
                within = Some(depth);
            } else if within.is_some() && !optional(line.trim()) {
                lines.push(line.trim().to_owned());
            }
        }
        lines
    };
    let manifest = block(&read("manifests/base/deployment.yaml"));
    assert_eq!(manifest.len(), 9, "{manifest:?}");
    assert_eq!(block(&read("charts/wsroll/templates/deployment.yaml")), manifest);
}

#[test]
fn a_looser_container_is_found_out() {
    let pod = with_sidecar(true)["spec"]["template"]["spec"].clone();
    for (field, value, rule) in [
        ("privileged", json!(true), "privileged"),
        (
            "allowPrivilegeEscalation",
            Value::Null,
            "allowPrivilegeEscalation",
        ),
        ("runAsNonRoot", json!(false), "runAsNonRoot"),
        ("runAsUser", json!(0), "runAsUser"),
        ("seccompProfile", json!({"type": "Unconfined"}), "seccompProfile"),
        ("capabilities", json!({"drop": ["NET_RAW"]}), "capabilities.drop"),
        ("readOnlyRootFilesystem", json!(false), "readOnlyRootFilesystem"),
    ] {
        let mut container = pod["initContainers"][0].clone();
        container["securityContext"][field] = value;
        assert_eq!(refused(&pod, &container), [rule]);
    }
}

/// A revision with a certificate says so everywhere it is looked for, and one without says nothing of it.
#[test]
fn what_a_certificate_changes_in_a_revision() {
    let (sealed, plain) = (with_sidecar(true), with_sidecar(false));
    let annotation = |set: &Value| set["metadata"]["annotations"][labels::DRAIN_TLS].clone();
    assert_eq!(
        (annotation(&sealed), annotation(&plain)),
        (json!("sidecar.chat.wsroll"), Value::Null)
    );
    let spec = |set: &Value| set["spec"]["template"]["spec"].clone();
    let (sealed, plain) = (spec(&sealed), spec(&plain));
    let scheme = |pod: &Value| {
        (
            pod["initContainers"][0]["startupProbe"]["httpGet"]["scheme"].clone(),
            pod["containers"][0]["lifecycle"]["preStop"]["httpGet"]["scheme"].clone(),
        )
    };
    assert_eq!(scheme(&sealed), (json!("HTTPS"), json!("HTTPS")));
    assert_eq!(scheme(&plain), (Value::Null, json!("HTTP")));
    let names = |pod: &Value| {
        pod["initContainers"][0]["env"]
            .to_string()
            .matches("WSROLL_TLS_")
            .count()
    };
    assert_eq!((names(&sealed), names(&plain)), (2, 0));
    let mounted = |pod: &Value| pod["volumes"].to_string();
    for key in ["tls.crt", "tls.key"] {
        assert!(
            mounted(&sealed).contains(key) && !mounted(&plain).contains(key),
            "{key}"
        );
    }
    assert!(
        !mounted(&sealed).contains("ca."),
        "the authority is the operator's to know"
    );
    assert_eq!(
        sealed["containers"][0]["volumeMounts"],
        Value::Null,
        "the application holds no key"
    );
}
