//! `wsroll lint`: what will go wrong, told from the manifests alone, before anything is applied.
//!
//! It looks at rollouts and at whatever else stands in the same files: Services, routes, autoscalers, budgets, policies. What is not
//! in the files is not judged. A finding of severity `Error` will be refused or cut sessions; a `Warning` costs something that people
//! should know of.

mod drain;
pub mod objects;
mod scale;
mod schema;
mod traffic;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::api::{ValidatedRollout, WebSocketRollout};
use crate::workload::labels::Parent;
use crate::workload::replica_set;
use crate::workload::sidecar::Sidecar;
pub use objects::{Object, Objects};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
pub enum Severity {
    /// It will be refused, or it will cut sessions.
    Error,
    /// It works, and costs something that people should know of.
    Warning,
}

/// One thing that will go wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The object: `HTTPRoute prod/chat`.
    pub object: String,
    /// Identifies the rule, out of a closed set: `docs/lint.md` has them all.
    pub rule: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is wrong, with the value.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// A rollout that was found whole, and its surroundings.
pub(crate) struct Scene<'a> {
    /// The rollout's object.
    pub object: &'a Object,
    /// The rollout.
    pub rollout: &'a ValidatedRollout,
    /// All objects of the files.
    pub all: &'a Objects,
}

/// Everything that is found, worst first.
pub fn check(objects: &Objects) -> Vec<Finding> {
    let mut found = Vec::new();
    for object in objects.of("WebSocketRollout") {
        check_rollout(object, objects, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn check_rollout(object: &Object, all: &Objects, found: &mut Vec<Finding>) {
    schema::unknown_and_out_of_bounds(object, found);
    let rollout: WebSocketRollout = match serde_json::from_value(object.value.clone()) {
        Ok(rollout) => rollout,
        Err(error) => {
            found.push(object.error(
                "Unreadable",
                "spec",
                error.to_string(),
                "write it as `kubectl explain wsr.spec` says",
            ));
            return;
        }
    };
    schema::rules(object, &rollout, found);
    let rollout = match ValidatedRollout::new(&rollout) {
        Ok(valid) => valid,
        Err(findings) => {
            let named = findings
                .0
                .into_iter()
                .map(|f| object.error("InvalidSpec", &f.field, f.problem, &f.remedy));
            found.extend(named);
            return;
        }
    };
    if let Some(refused) = refused_template(&rollout) {
        let remedy = "change the template";
        found.push(object.error("InvalidTemplate", "spec.template", refused, remedy));
    }
    let scene = Scene {
        object,
        rollout: &rollout,
        all,
    };
    for rules in [drain::rules, traffic::rules, scale::rules] {
        rules(&scene, found);
    }
}

/// What the operator itself would say of the template.
fn refused_template(rollout: &ValidatedRollout) -> Option<String> {
    let drain = &rollout.spec.drain;
    let sidecar = Sidecar {
        image: "any",
        drain,
        prestop_key: "any",
        tls: true,
    };
    let built = replica_set::build(&replica_set::Spec {
        parent: Parent {
            name: &rollout.name,
            namespace: &rollout.namespace,
            uid: &rollout.uid,
        },
        revision: "any",
        template: &rollout.spec.template,
        port: rollout.spec.traffic.port,
        replicas: 1,
        role: crate::workload::Role::Stable,
        via: drain.via,
        sidecar: (drain.via == crate::api::spec::Via::Sidecar).then_some(sidecar),
    });
    built.err().map(|error| error.to_string())
}

// === impl Scene ===

impl Scene<'_> {
    /// The container that takes connections: the one that declares the port, else the first.
    fn application(&self) -> &serde_json::Value {
        let template = &self.rollout.spec.template;
        let containers = template["spec"]["containers"].as_array();
        let named = replica_set::container_of_port(template, self.rollout.spec.traffic.port);
        let mut all = containers.into_iter().flatten();
        let found = match named {
            Some(name) => all.find(|c| c["name"] == name),
            None => all.next(),
        };
        found.unwrap_or(&serde_json::Value::Null)
    }

    /// Objects of a kind in the rollout's namespace.
    fn beside(&self, kind: &'static str) -> impl Iterator<Item = &Object> {
        self.all.of(kind).filter(|other| other.is_beside(self.object))
    }

    /// The labels of the rollout's pods in rotation, as stable ones have them.
    fn pod_labels(&self) -> std::collections::BTreeMap<String, String> {
        use crate::workload::labels;
        let own = self.rollout.template.metadata.as_ref();
        let mut all = own.and_then(|m| m.labels.clone()).unwrap_or_default();
        all.insert(labels::ROLLOUT.to_owned(), self.rollout.name.clone());
        all.insert(labels::SERVING.to_owned(), "true".to_owned());
        all.insert(
            labels::ROLE.to_owned(),
            crate::workload::Role::Stable.as_str().to_owned(),
        );
        all
    }
}
