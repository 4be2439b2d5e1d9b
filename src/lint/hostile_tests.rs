//! Manifests that nobody should write: every finding has field, problem and remedy, and lint comes back.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::hostile::{deep, spoilt};

fn sound() -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
         "metadata": {"name": "chat", "namespace": "prod"},
         "spec": {"replicas": 4, "drain": {"via": "Sidecar", "budget": {"overDuration": "15m"}},
            "template": {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [
                {"name": "app", "image": "chat:1", "ports": [{"containerPort": 8080}]}]}},
            "traffic": {"port": 8080, "routes": [{"name": "chat"}]},
            "probes": {"url": "ws://chat.example.com/ws"}}},
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
         "metadata": {"name": "chat", "namespace": "prod"},
         "spec": {"parentRefs": [{"name": "edge"}], "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/ws"}}],
            "timeouts": {"request": "0s"},
            "backendRefs": [{"name": "chat-a", "port": 8080, "weight": 100}]}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": "prod"},
         "spec": {"selector": {"app": "chat"}, "ports": [{"port": 8080}]}},
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
         "metadata": {"name": "chat", "namespace": "prod"},
         "spec": {"scaleTargetRef": {"kind": "WebSocketRollout", "name": "chat"}, "minReplicas": 1, "maxReplicas": 9}},
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "chat", "namespace": "prod"},
         "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "chat"}}}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "prod"},
         "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 8080}]}]}}
    ]})
}

fn lint(text: &str) -> Option<Vec<Finding>> {
    let mut all = Objects::default();
    all.read(text).ok()?;
    Some(check(&all))
}

#[test]
fn nesting_without_end_is_no_manifest() {
    for levels in [200, 20_000] {
        assert_eq!(lint(&deep(levels)), None);
    }
    let lines = ('b'..='z').zip('a'..='y').map(|(name, of)| {
        let nine = [format!("*{of}").as_str(); 9].join(",");
        format!("{name}: &{name} [{nine}]\n")
    });
    let bomb: String = std::iter::once("a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned())
        .chain(lines)
        .collect();
    assert_eq!(lint(&bomb), None, "aliases of aliases");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_written_every_finding_helps(document in spoilt(sound())) {
        for finding in lint(&document.to_string()).unwrap_or_default() {
            prop_assert!(!finding.field.is_empty() && !finding.problem.is_empty(), "{finding:?}");
            prop_assert!(!finding.remedy.is_empty(), "{finding:?}");
        }
    }
}
