//! Who else changes the number of pods: autoscalers, disruption budgets, the Deployment that was there before.

use serde_json::{Value, json};

use super::objects::{Object, selects};
use super::{Finding, Scene};
use crate::workload::labels;

pub(super) fn rules(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    autoscalers(scene, found);
    disruption(scene, found);
}

fn autoscalers(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let name = &scene.rollout.name;
    let all = ["HorizontalPodAutoscaler", "ScaledObject"].map(|kind| scene.beside(kind));
    for object in all.into_iter().flatten() {
        let target = object.at(&["spec", "scaleTargetRef"]);
        let kind = target["kind"].as_str().unwrap_or("Deployment");
        let aimed = target["name"].as_str().unwrap_or_default();
        let remedy = format!(
            "let scaleTargetRef be {}",
            json!({"apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout", "name": name})
        );
        let aim = format!("it scales {kind} {aimed:?}");
        let field = "spec.scaleTargetRef";
        match kind {
            "ReplicaSet" if aimed.starts_with(&format!("{name}-")) => found.push(object.error(
                "AutoscalerFights",
                field,
                format!("{aim}, which belongs to the rollout: a scale-down deletes pods with their sessions"),
                &remedy,
            )),
            "Deployment" if aimed == name || is_the_same(scene, aimed) => found.push(object.error(
                "AutoscalerFights",
                field,
                format!("{aim}, whose pods are not the ones that serve: the rollout's own are never scaled"),
                &remedy,
            )),
            "WebSocketRollout" if aimed == name && scene.object.at(&["spec", "replicas"]).is_number() => {
                found.push(scene.object.warning(
                    "AutoscalerFights",
                    "spec.replicas",
                    format!(
                        "{} is written here and by {}: every apply puts the autoscaler's number back",
                        scene.object.at(&["spec", "replicas"]),
                        object.display()
                    ),
                    "set it once, and leave it out of what is applied again",
                ));
            }
            _ => {}
        }
    }
}

/// Whether a Deployment of the files has the rollout's pods.
fn is_the_same(scene: &Scene<'_>, deployment: &str) -> bool {
    let template = |object: &Object, path: &[&str]| object.at(path).clone();
    let own = template(scene.object, &["spec", "template", "metadata", "labels"]);
    let mut all = scene.beside("Deployment").filter(|d| d.name() == deployment);
    all.any(|d| own.is_object() && template(d, &["spec", "template", "metadata", "labels"]) == own)
}

/// wsroll deletes its pods itself, which no budget stops; evictions (node drains, upgrades) heed it.
fn disruption(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let labels = scene.pod_labels();
    let replicas = u64::from(scene.rollout.replicas);
    for object in scene.beside("PodDisruptionBudget") {
        if !selects(object.at(&["spec", "selector"]), &labels) {
            continue;
        }
        let (most, least) = (
            object.at(&["spec", "maxUnavailable"]),
            object.at(&["spec", "minAvailable"]),
        );
        let blocked = if is_share(most, 0) {
            Some(("spec.maxUnavailable", most))
        } else if is_share(least, 100) || least.as_u64().is_some_and(|least| least >= replicas) {
            Some(("spec.minAvailable", least))
        } else {
            None
        };
        if let Some((field, value)) = blocked {
            found.push(object.warning(
                "BudgetBlocks",
                field,
                format!("{value} of {replicas} pods lets none be evicted: a node drain waits for ever"),
                "use `maxUnavailable: 1`: an evicted pod's sessions are let go within its grace period",
            ));
        }
        let by_revision = |path: &[&str]| {
            object
                .at(path)
                .as_object()
                .is_some_and(|l| l.contains_key(labels::REVISION))
        };
        if by_revision(&["spec", "selector", "matchLabels"]) {
            found.push(object.warning(
                "BudgetOfOneRevision",
                "spec.selector.matchLabels",
                format!(
                    "it selects one revision ({}), and protects nobody after the next release",
                    labels::REVISION
                ),
                &format!("select {}: {}", labels::ROLLOUT, scene.rollout.name),
            ));
        }
    }
}

/// `0` or `"0%"` for 0; `"100%"` for 100.
fn is_share(value: &Value, percent: u64) -> bool {
    match value {
        Value::Number(number) => percent == 0 && number.as_u64() == Some(0),
        Value::String(text) => text.strip_suffix('%').and_then(|n| n.parse().ok()) == Some(percent),
        _ => false,
    }
}
