//! Pins: routes of our own that lead whoever carries a pin's value to one slot, whatever the weights are.
//!
//! The rules are the user's, each match narrowed by one more term: a header for probes, a query parameter for the
//! reconnect hints of moved sessions. A more specific match wins over the user's own (the precedence rules of the Gateway API).
//! All of it is derived, so the same input always gives the same routes.

use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::gateway_api::{
    HTTPRoute, HttpBackendRef, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, MAX_MATCH_TERMS, MAX_MATCHES,
    MAX_MATCHES_PER_RULE, MAX_RULES, ValueMatch,
};
use crate::workload::labels::Parent;

/// The request header of probe pins.
pub const PROBE_HEADER: &str = "wsroll-pin";
/// The query parameter of reconnect hints.
pub const HINT_PARAMETER: &str = "wsroll";
/// The request header of reconnect hints.
pub const HINT_HEADER: &str = "x-wsroll-hint";
/// What the paths of reconnect hints begin with, before the value.
pub const HINT_PATH: &str = "/wsroll-";
/// Most routes of ours per rollout.
pub const MAX_ROUTES: usize = 8;

/// Who carries a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// Our probes, in the header [`PROBE_HEADER`]. The value is never sent to clients.
    Probe,
    /// Moved sessions, in the query parameter [`HINT_PARAMETER`].
    Hint,
    /// Moved sessions, by a path that begins with [`HINT_PATH`] and the value; the route takes it off again.
    HintPath,
    /// Moved sessions, in the header [`HINT_HEADER`].
    HintHeader,
}

/// A value that leads to one slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    /// Who carries it.
    pub carrier: Carrier,
    /// The random value.
    pub value: String,
    /// The slot's Service.
    pub service: String,
}

/// Why no pins can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A match that is full.
    #[error(
        "rule {rule} of HTTPRoute {route} has a match with {MAX_MATCH_TERMS} {kind} terms: pins need room for one more"
    )]
    Full {
        /// The route's name.
        route: String,
        /// The rule's place, from 0.
        rule: usize,
        /// `header` or `query`.
        kind: &'static str,
    },
    /// The user matches the term we would add.
    #[error("rule {rule} of HTTPRoute {route} matches {name} itself: wsroll needs that name")]
    Reserved {
        /// The route's name.
        route: String,
        /// The rule's place, from 0.
        rule: usize,
        /// The header or parameter.
        name: &'static str,
    },
    /// More than we are willing to make.
    #[error("pins would need {0} HTTPRoutes, more than {MAX_ROUTES}: use fewer rules that name our slots")]
    TooMany(usize),
}

/// A random pin value: 96 bits, letters and digits, safe in headers and queries.
pub fn random_value() -> String {
    use rand::Rng as _;
    let mut bytes = [0_u8; 12];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// The name of a rollout's first pins route.
pub fn route_name(rollout: &str) -> String {
    format!("{rollout}-pins")
}

/// The pins routes that the user's routes and the present pins ask for; usually one, more only where the routes
/// differ in parents or host names, or where one would grow beyond the Gateway API's limits. None without pins.
pub fn build(
    parent: &Parent<'_>,
    routes: &[HTTPRoute],
    slots: &[String],
    port: u16,
    pins: &[Pin],
) -> Result<Vec<HTTPRoute>, Error> {
    let mut pins = pins.to_vec();
    pins.sort();
    pins.dedup();
    let mut routes: Vec<_> = routes.iter().collect();
    routes.sort_by_key(|route| route.name_any());

    let mut groups: Vec<HttpRouteSpec> = Vec::new();
    for route in routes {
        let heading = HttpRouteSpec {
            rules: Vec::new(),
            ..explicit_parents(&route.spec)
        };
        let mut rules = pinned_rules(route, slots, port, &pins)?;
        match groups.iter_mut().find(|group| {
            HttpRouteSpec {
                rules: Vec::new(),
                ..(*group).clone()
            } == heading
        }) {
            Some(group) => group.rules.append(&mut rules),
            None => groups.push(HttpRouteSpec { rules, ..heading }),
        }
    }

    let specs: Vec<_> = groups.into_iter().flat_map(within_limits).collect();
    if specs.len() > MAX_ROUTES {
        return Err(Error::TooMany(specs.len()));
    }
    Ok(specs
        .into_iter()
        .enumerate()
        .map(|(n, spec)| named(parent, n, spec))
        .collect())
}

/// Whether a stored route says what the desired one says. Fields that the API server or the gateway filled in do
/// not count, missing and different ones do.
pub fn is_current(observed: &HTTPRoute, desired: &HTTPRoute) -> bool {
    let (Ok(observed_spec), Ok(desired_spec)) = (
        serde_json::to_value(&observed.spec),
        serde_json::to_value(&desired.spec),
    ) else {
        return false;
    };
    let holds = |stored: &dyn Fn(&str) -> Option<String>,
                 wanted: &std::collections::BTreeMap<String, String>| {
        wanted
            .iter()
            .all(|(name, value)| stored(name).as_ref() == Some(value))
    };
    contains(&observed_spec, &desired_spec)
        && holds(&|name| observed.labels().get(name).cloned(), desired.labels())
        && holds(
            &|name| observed.annotations().get(name).cloned(),
            desired.annotations(),
        )
}

/// The names of stored pins routes (found by label) that are not desired any more.
pub fn obsolete(observed: &[HTTPRoute], desired: &[HTTPRoute]) -> Vec<String> {
    let kept: Vec<_> = desired.iter().map(ResourceExt::name_any).collect();
    observed
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| !kept.contains(name))
        .collect()
}

fn pinned_rules(
    route: &HTTPRoute,
    slots: &[String],
    port: u16,
    pins: &[Pin],
) -> Result<Vec<HttpRouteRule>, Error> {
    let namespace = route.namespace().unwrap_or_default();
    let mut made = Vec::new();
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let ours = |name: &str| slots.iter().any(|slot| slot == name);
        if !rule
            .backend_refs
            .iter()
            .any(|backend| backend.service(&namespace).is_some_and(ours))
        {
            continue;
        }
        for pin in pins {
            let named = rule
                .backend_refs
                .iter()
                .find(|b| b.service(&namespace) == Some(pin.service.as_str()));
            let matches = narrowed(rule, pin).map_err(|problem| problem.at(route.name_any(), index))?;
            let mut other = rule.other.clone();
            other.remove("name"); // rule names are unique within a route
            for chunk in matches.chunks(MAX_MATCHES_PER_RULE) {
                let backend = HttpBackendRef {
                    group: Some(String::new()),
                    kind: Some("Service".to_owned()),
                    namespace: None,
                    name: pin.service.clone(),
                    port: Some(port),
                    weight: Some(1),
                    other: named.map(|backend| backend.other.clone()).unwrap_or_default(),
                };
                let (matches, other) = (chunk.to_vec(), other.clone());
                made.push(HttpRouteRule {
                    matches,
                    backend_refs: vec![backend],
                    other,
                });
            }
        }
    }
    Ok(made)
}

enum Problem {
    Full(&'static str),
    Reserved(&'static str),
}

impl Problem {
    fn at(self, route: String, rule: usize) -> Error {
        match self {
            Self::Full(kind) => Error::Full { route, rule, kind },
            Self::Reserved(name) => Error::Reserved { route, rule, name },
        }
    }
}

/// The rule's matches, each with the pin's term added.
fn narrowed(rule: &HttpRouteRule, pin: &Pin) -> Result<Vec<HttpRouteMatch>, Problem> {
    let everything = [HttpRouteMatch::default()];
    let matches = if rule.matches.is_empty() {
        &everything[..]
    } else {
        &rule.matches[..]
    };
    matches
        .iter()
        .map(|present| {
            let mut narrowed = present.clone();
            // What the API server fills in is written out, so that stored and desired read the same.
            narrowed
                .path
                .get_or_insert_with(|| json!({"type": "PathPrefix", "value": "/"}));
            let (terms, name, kind) = match pin.carrier {
                Carrier::Probe => (&mut narrowed.headers, PROBE_HEADER, "header"),
                Carrier::Hint => (&mut narrowed.query_params, HINT_PARAMETER, "query"),
                Carrier::HintHeader | Carrier::HintPath => (&mut narrowed.headers, HINT_HEADER, "header"),
            };
            if terms.iter().any(|term| term.name.eq_ignore_ascii_case(name)) {
                return Err(Problem::Reserved(name));
            }
            if terms.len() >= MAX_MATCH_TERMS {
                return Err(Problem::Full(kind));
            }
            let (name, value) = (name.to_owned(), pin.value.clone());
            terms.push(ValueMatch {
                kind: Some("Exact".to_owned()),
                name,
                value,
            });
            Ok(narrowed)
        })
        .collect()
}

/// Splits a group into specs that keep the Gateway API's limits.
fn within_limits(group: HttpRouteSpec) -> Vec<HttpRouteSpec> {
    let mut chunks: Vec<Vec<HttpRouteRule>> = Vec::new();
    for rule in group.rules {
        let matches = rule.matches.len();
        let fits = |chunk: &Vec<HttpRouteRule>| {
            let present: usize = chunk.iter().map(|rule| rule.matches.len()).sum();
            chunk.len() < MAX_RULES && present + matches <= MAX_MATCHES
        };
        match chunks.last_mut().filter(|chunk| fits(chunk)) {
            Some(chunk) => chunk.push(rule),
            None => chunks.push(vec![rule]),
        }
    }
    let spec = |rules| HttpRouteSpec {
        rules,
        parent_refs: group.parent_refs.clone(),
        hostnames: group.hostnames.clone(),
        other: group.other.clone(),
    };
    chunks.into_iter().map(spec).collect()
}

fn explicit_parents(spec: &HttpRouteSpec) -> HttpRouteSpec {
    let mut spec = spec.clone();
    for parent in &mut spec.parent_refs {
        parent
            .group
            .get_or_insert_with(|| "gateway.networking.k8s.io".to_owned());
        parent.kind.get_or_insert_with(|| "Gateway".to_owned());
    }
    spec
}

fn named(parent: &Parent<'_>, n: usize, spec: HttpRouteSpec) -> HTTPRoute {
    let first = route_name(parent.name);
    let name = if n == 0 {
        first
    } else {
        format!("{first}-{}", n + 1)
    };
    HTTPRoute {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(parent.namespace.to_owned()),
            labels: Some(parent.labels()),
            annotations: Some(parent.annotations()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// Whether `stored` holds all of `wanted`: every field of an object, every item of a list in its place.
fn contains(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, value)| stored.get(name).is_some_and(|present| contains(present, value))),
        (Value::Array(stored), Value::Array(wanted)) => {
            stored.len() == wanted.len() && stored.iter().zip(wanted).all(|(s, w)| contains(s, w))
        }
        _ => stored == wanted,
    }
}

#[cfg(test)]
#[path = "pins_tests.rs"]
mod tests;
