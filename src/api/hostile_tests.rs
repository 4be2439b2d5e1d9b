//! Rollouts that nobody should write: read or refused with words, never a panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::status::Request;
use super::{RolloutStatus, Span, ValidatedRollout, WebSocketRollout};
use crate::hostile::{any_json, deep, spoilt};

fn sound() -> Value {
    json!({
        "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
        "metadata": {"name": "chat", "namespace": "default", "uid": "u", "generation": 3, "annotations": {"a": "b"}},
        "spec": {
            "replicas": 4, "mode": "Active",
            "template": {"metadata": {"labels": {"app": "chat"}}, "spec": {
                "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "app", "image": "chat:1", "env": [{"name": "A", "value": "b"}],
                    "ports": [{"containerPort": 8080}], "lifecycle": {}, "volumeMounts": []}],
                "initContainers": [], "volumes": []}},
            "traffic": {"port": 8080, "routes": [{"name": "chat"}], "slots": 3},
            "steps": [{"weight": 10, "pause": {"duration": "10m"}, "moveSessions": "Auto"}, {"weight": 100}],
            "drain": {"via": "Sidecar", "deadline": "30m", "budget": {"overDuration": "15m"},
                "notice": {"closeCode": 1012, "reconnectWindow": "5s", "hint": "Query"},
                "session": {"idFrom": {"query": "sid"}},
                "sidecar": {"image": "s:1", "notices": [{"subprotocol": "a", "format": "Json"}],
                    "closeCodes": [{"subprotocol": "a", "client": 4000}], "pingInterval": "25s",
                    "limits": {"connections": 10, "idleTimeout": "1h"}, "resources": {}}},
            "probes": {"url": "ws://chat.example.com/ws", "connectTo": "gateway:80", "sessions": 20,
                "headers": {"x-a": "b"}, "subprotocols": ["a"], "recycle": "30s"},
            "thresholds": {"reconnectSuccess": {"window": "5m"}},
            "capacity": {"maxSurge": "25%", "rollbackFloor": 2},
            "rollbackWindow": "48h", "rollback": {"deadline": "10m"}
        }
    })
}

/// What a spec that can be read at all is asked: by lint and operator alike.
fn ask(document: &Value) -> Result<(), String> {
    let rollout: WebSocketRollout = serde_json::from_value(document.clone()).map_err(|e| e.to_string())?;
    let findings = match ValidatedRollout::new(&rollout) {
        Ok(valid) => {
            let _ = valid.spec.rollback_budget().per_second(u64::MAX);
            let _ = valid.spec.capacity.max_surge.of(valid.replicas);
            return Ok(());
        }
        Err(findings) => findings.0,
    };
    assert!(!findings.is_empty(), "refused without a word");
    for finding in findings {
        let of_the_resource = ["spec.", "metadata."]
            .iter()
            .any(|p| finding.field.starts_with(p));
        assert!(of_the_resource, "{finding}");
        assert!(
            !finding.problem.is_empty() && !finding.remedy.is_empty(),
            "{finding}"
        );
    }
    Ok(())
}

#[test]
fn the_sound_one_is_sound() {
    assert_eq!(ask(&sound()), Ok(()));
}

#[test]
fn durations_that_no_clock_has_are_refused_with_a_remedy() {
    for text in [
        "99999999999999999999999999h",
        "9999999999999999999h9999999999999999999h",
        "1s-5s",
        "-5s",
        "5",
        "h",
        "1.2.3s",
        "1e3s",
        "NaNs",
        "1y",
        "",
    ] {
        let read = serde_json::from_value::<Span>(json!(text));
        if text.is_empty() {
            continue; // Go reads it as nothing, and so did we.
        }
        let error = read.unwrap_err().to_string();
        assert!(
            error.contains(text) && error.contains("write it as 30s"),
            "{error}"
        );
    }
    let long = serde_json::from_value::<Span>(json!("7".repeat(70_000))).unwrap_err();
    assert!(long.to_string().len() < 200, "a message is for people");
    let fine = serde_json::from_value::<Span>(json!("+1h0.5m2.25s3ms4us5ns")).unwrap();
    assert_eq!(fine.0.as_nanos(), 3_632_253_004_005);
}

#[test]
fn nesting_without_end_is_no_rollout_and_no_request() {
    let text = deep(50_000);
    serde_json::from_str::<WebSocketRollout>(&text).unwrap_err();
    serde_json::from_str::<Request>(&text).unwrap_err();
    let mut template = sound();
    template["spec"]["template"] = serde_json::from_str(&deep(50)).unwrap();
    let _ = ask(&template);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_spoilt_rollout_is_taken_or_refused_with_words(document in spoilt(sound())) {
        let _ = ask(&document);
    }

    #[test]
    fn any_spec_is_taken_or_refused(spec in any_json()) {
        let mut document = sound();
        document["spec"] = spec;
        let _ = ask(&document);
    }

    #[test]
    fn any_status_and_any_request_is_read_or_refused(value in any_json(), text in ".{0,200}") {
        let _ = serde_json::from_value::<RolloutStatus>(value.clone());
        let _ = serde_json::from_value::<Request>(value);
        let _ = serde_json::from_str::<Request>(&text);
    }

    #[test]
    fn any_text_is_a_span_or_is_refused(text in "[-+0-9.hmsunµe]{0,24}") {
        let _ = serde_json::from_value::<Span>(json!(text));
    }

    #[test]
    fn a_request_with_any_field_spoilt(request in spoilt(json!({"verb": "promote", "release": 3, "nonce": "n"}))) {
        let _ = serde_json::from_value::<Request>(request);
    }
}
