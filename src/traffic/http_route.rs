//! The user's routes: read and change the weights of our slots, and nothing else.
//!
//! `backendRefs` is an atomic list: a server-side apply would own the whole rule. So weights are changed by JSON
//! patches whose `test` operations name every backend they touch; when somebody rewrote the route in between,
//! nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::gateway_api::HTTPRoute;

/// The weights of a rule that names our slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleWeights {
    /// The rule's place in the route.
    pub rule: usize,
    /// Weight by Service name, ours only.
    pub weights: BTreeMap<String, i32>,
}

/// Why a route cannot carry a rollout. Each message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No rule leads to us.
    #[error(
        "HTTPRoute {route} leads to none of our slots: let a rule's backendRefs name {slots} (weights 100, 0, 0)"
    )]
    NotOurs {
        /// The route's name.
        route: String,
        /// The slots' Services.
        slots: String,
    },
    /// A rule leads to us and to somebody else.
    #[error(
        "rule {rule} of HTTPRoute {route} names {foreign} beside our slots: weights would not add up, move it to a rule of its own"
    )]
    Foreign {
        /// The route's name.
        route: String,
        /// The rule's place, from 0.
        rule: usize,
        /// The backends that are not ours.
        foreign: String,
    },
    /// A rule lacks a slot that a release will need.
    #[error("rule {rule} of HTTPRoute {route} does not name {missing}: add it with weight 0")]
    Missing {
        /// The route's name.
        route: String,
        /// The rule's place, from 0.
        rule: usize,
        /// The slots it lacks.
        missing: String,
    },
    /// A rule names one slot twice.
    #[error("rule {rule} of HTTPRoute {route} names {slot} twice: keep one of them")]
    Twice {
        /// The route's name.
        route: String,
        /// The rule's place, from 0.
        rule: usize,
        /// The slot's Service.
        slot: String,
    },
    /// A rule names a port our slots do not have.
    #[error("rule {rule} of HTTPRoute {route} names port {port} of {slot}: our slots have port {expected}")]
    Port {
        /// The route's name.
        route: String,
        /// The rule's place, from 0.
        rule: usize,
        /// The slot's Service.
        slot: String,
        /// The port the rule names, 0 for none.
        port: u16,
        /// `spec.traffic.port`.
        expected: u16,
    },
}

/// What the gateways say about a route's present generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Every parent took it and found its backends.
    Accepted,
    /// Not every parent has answered for this generation yet.
    Pending(Vec<String>),
    /// A parent answered for this generation: no.
    Refused(Vec<String>),
}

/// The weights of every rule that names one of `slots` (Service names).
pub fn weights(route: &HTTPRoute, slots: &[String]) -> Vec<RuleWeights> {
    let namespace = route.namespace().unwrap_or_default();
    let rules = route.spec.rules.iter().enumerate();
    rules
        .filter_map(|(rule, content)| {
            let weights: BTreeMap<String, i32> = content
                .backend_refs
                .iter()
                .filter_map(|backend| Some((backend.service(&namespace)?, backend.effective_weight())))
                .filter(|(name, _)| slots.iter().any(|slot| slot == name))
                .map(|(name, weight)| (name.to_owned(), weight))
                .collect();
            (!weights.is_empty()).then_some(RuleWeights { rule, weights })
        })
        .collect()
}

/// Checks that a route can carry a rollout: a rule leads to our slots, each such rule names all of them once, with
/// our port, and nobody else. Rules that lead elsewhere only are none of our business.
pub fn validate(route: &HTTPRoute, slots: &[String], port: u16) -> Result<(), Error> {
    let ours = weights(route, slots);
    let name = || route.name_any();
    if ours.is_empty() {
        return Err(Error::NotOurs {
            route: name(),
            slots: slots.join(", "),
        });
    }
    let namespace = route.namespace().unwrap_or_default();
    for RuleWeights { rule, weights } in ours {
        let mut seen = BTreeSet::new();
        let mut foreign = Vec::new();
        for backend in &route.spec.rules[rule].backend_refs {
            let slot = backend
                .service(&namespace)
                .filter(|name| weights.contains_key(*name));
            let Some(slot) = slot else {
                foreign.push(describe(backend));
                continue;
            };
            if !seen.insert(slot) {
                return Err(Error::Twice {
                    route: name(),
                    rule,
                    slot: slot.to_owned(),
                });
            }
            if backend.port != Some(port) {
                let found = backend.port.unwrap_or_default();
                return Err(Error::Port {
                    route: name(),
                    rule,
                    slot: slot.to_owned(),
                    port: found,
                    expected: port,
                });
            }
        }
        if !foreign.is_empty() {
            return Err(Error::Foreign {
                route: name(),
                rule,
                foreign: foreign.join(", "),
            });
        }
        let missing: Vec<_> = slots
            .iter()
            .filter(|slot| !weights.contains_key(*slot))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            return Err(Error::Missing {
                route: name(),
                rule,
                missing: missing.join(", "),
            });
        }
    }
    Ok(())
}

/// The patch that gives our slots the desired weights (by Service name) in every rule that names them. `None`
/// where they have them. Slots that `desired` does not name are left alone.
pub fn weights_patch(route: &HTTPRoute, desired: &BTreeMap<String, i32>) -> Option<json_patch::Patch> {
    let namespace = route.namespace().unwrap_or_default();
    let (mut tests, mut writes) = (Vec::new(), Vec::new());
    for (i, rule) in route.spec.rules.iter().enumerate() {
        for (j, backend) in rule.backend_refs.iter().enumerate() {
            let Some(&wanted) = backend.service(&namespace).and_then(|name| desired.get(name)) else {
                continue;
            };
            if backend.effective_weight() == wanted {
                continue;
            }
            let path = format!("/spec/rules/{i}/backendRefs/{j}");
            tests.push(json!({"op": "test", "path": format!("{path}/name"), "value": backend.name}));
            if let Some(weight) = backend.weight {
                tests.push(json!({"op": "test", "path": format!("{path}/weight"), "value": weight}));
            }
            let operation = if backend.weight.is_some() {
                "replace"
            } else {
                "add"
            };
            writes.push(json!({"op": operation, "path": format!("{path}/weight"), "value": wanted}));
        }
    }
    if writes.is_empty() {
        return None;
    }
    tests.append(&mut writes);
    serde_json::from_value(Value::Array(tests)).ok()
}

/// What the gateways say about the route's present generation. A status of an older generation says nothing, and
/// one that runs ahead of the data plane says little: the caller still has to look at fresh connections.
pub fn accepted(route: &HTTPRoute) -> Acceptance {
    let namespace = route.namespace().unwrap_or_default();
    let generation = route.metadata.generation;
    let statuses = route
        .status
        .as_ref()
        .map(|status| status.parents.as_slice())
        .unwrap_or_default();
    let (mut pending, mut refused) = (Vec::new(), Vec::new());
    if route.spec.parent_refs.is_empty() {
        refused.push("the route names no parent".to_owned());
    }
    for parent in &route.spec.parent_refs {
        let shown = parent.display(&namespace);
        let answers: Vec<_> = statuses
            .iter()
            .filter(|s| s.parent_ref.same(parent, &namespace))
            .collect();
        if answers.is_empty() {
            pending.push(format!("{shown}: no controller has answered"));
        }
        for answer in answers {
            for kind in ["Accepted", "ResolvedRefs"] {
                let condition = answer.conditions.iter().find(|condition| condition.type_ == kind);
                match condition {
                    Some(c) if c.observed_generation == generation && c.status == "True" => {}
                    Some(c) if c.observed_generation == generation && c.status == "False" => {
                        refused.push(format!("{shown}: {kind} is False ({}): {}", c.reason, c.message));
                    }
                    Some(_) => pending.push(format!("{shown}: {kind} is of an older generation or unknown")),
                    None => pending.push(format!("{shown}: {kind} is not reported")),
                }
            }
        }
    }
    match (refused.is_empty(), pending.is_empty()) {
        (false, _) => Acceptance::Refused(refused),
        (true, false) => Acceptance::Pending(pending),
        (true, true) => Acceptance::Accepted,
    }
}

fn describe(backend: &super::gateway_api::HttpBackendRef) -> String {
    let kind = backend.kind.as_deref().unwrap_or("Service");
    match &backend.namespace {
        Some(namespace) => format!("{kind} {namespace}/{}", backend.name),
        None => format!("{kind} {}", backend.name),
    }
}

#[cfg(test)]
#[path = "http_route_tests.rs"]
mod tests;
