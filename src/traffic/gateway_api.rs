//! Thin types for the few fields of the Gateway API's HTTPRoute that are read or written here.
//!
//! Whatever else a route holds is kept in `other`, so that a copied rule keeps everything, fields of newer
//! versions included. Shapes follow `gateway.networking.k8s.io/v1` (gateway-api 1.5).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most rules of one HTTPRoute.
pub const MAX_RULES: usize = 16;
/// Most matches of one rule.
pub const MAX_MATCHES_PER_RULE: usize = 64;
/// Most matches of all rules of one HTTPRoute.
pub const MAX_MATCHES: usize = 128;
/// Most header matches, and most query matches, of one match.
pub const MAX_MATCH_TERMS: usize = 16;
/// The weight of a backend that names none.
pub const DEFAULT_WEIGHT: i32 = 1;

/// What a route is made of.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    status = "HttpRouteStatus",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// The Gateways (or their listeners) the route attaches to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Host names; none means any that the listener takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Rules, each with matches and backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<HttpRouteRule>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A Gateway or Service that a route attaches to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// Default `gateway.networking.k8s.io`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Default `Gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Default: the route's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The parent's name.
    pub name: String,
    /// A listener of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// A port of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One rule of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// A request that fits any of these follows the rule; none means every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpRouteMatch>,
    /// Backends, chosen by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<HttpBackendRef>,
    /// Everything else (name, filters, timeouts …), kept as it is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One way a request can fit a rule; all its terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// The path; absent means the prefix `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Value>,
    /// Header terms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Query terms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueMatch>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A header or query term.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueMatch {
    /// `Exact` (default) or `RegularExpression`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The header's or parameter's name.
    pub name: String,
    /// The value to fit.
    pub value: String,
}

/// A backend of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpBackendRef {
    /// Default: the core group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Default `Service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Default: the route's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The backend's name.
    pub name: String,
    /// The Service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share of new requests, as a proportion of the rule's sum; absent means [`DEFAULT_WEIGHT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Everything else (filters …), kept as it is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What gateways say about a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteStatus {
    /// One entry per parent and controller.
    #[serde(default)]
    pub parents: Vec<RouteParentStatus>,
}

/// What one gateway controller says about a route at one parent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent, as the route names it.
    pub parent_ref: ParentReference,
    /// Who says so.
    #[serde(default)]
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs` and others.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

// === impl ParentReference ===

impl ParentReference {
    /// Whether both name the same parent, once defaults are filled in.
    pub fn same(&self, other: &Self, route_namespace: &str) -> bool {
        let key = |parent: &Self| {
            (
                parent
                    .group
                    .clone()
                    .unwrap_or_else(|| "gateway.networking.k8s.io".to_owned()),
                parent.kind.clone().unwrap_or_else(|| "Gateway".to_owned()),
                parent
                    .namespace
                    .clone()
                    .unwrap_or_else(|| route_namespace.to_owned()),
                parent.name.clone(),
                parent.section_name.clone(),
                parent.port,
            )
        };
        key(self) == key(other)
    }

    /// `namespace/name`, with the listener where one is named.
    pub fn display(&self, route_namespace: &str) -> String {
        let namespace = self.namespace.as_deref().unwrap_or(route_namespace);
        match &self.section_name {
            Some(section) => format!("{namespace}/{} ({section})", self.name),
            None => format!("{namespace}/{}", self.name),
        }
    }
}

// === impl HttpBackendRef ===

impl HttpBackendRef {
    /// The Service of the route's own namespace that this names, if it names one.
    pub fn service(&self, route_namespace: &str) -> Option<&str> {
        let core = self.group.as_deref().is_none_or(str::is_empty);
        let service = self.kind.as_deref().is_none_or(|kind| kind == "Service");
        let here = self
            .namespace
            .as_deref()
            .is_none_or(|namespace| namespace == route_namespace);
        (core && service && here).then_some(self.name.as_str())
    }

    /// The weight in force.
    pub fn effective_weight(&self) -> i32 {
        self.weight.unwrap_or(DEFAULT_WEIGHT)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_not_ours_survive() {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "chat", "namespace": "prod"},
            "spec": {
                "parentRefs": [{"name": "gateway", "namespace": "infra", "sectionName": "web", "novel": 1}],
                "hostnames": ["chat.example.com"], "useDefaultGateways": "All",
                "rules": [{
                    "name": "ws", "timeouts": {"request": "0s"}, "filters": [{"type": "RequestHeaderModifier"}],
                    "matches": [{"path": {"type": "PathPrefix", "value": "/ws"}, "method": "GET",
                        "headers": [{"name": "a", "value": "b"}]}],
                    "backendRefs": [{"name": "chat-a", "port": 8080, "weight": 1, "filters": []}],
                }],
            },
        });
        let parsed: HTTPRoute = serde_json::from_value(route.clone()).unwrap();
        assert_eq!(serde_json::to_value(&parsed).unwrap(), route);
    }

    #[test]
    fn backends_elsewhere_are_not_services_here() {
        let backend = |change: Value| -> HttpBackendRef {
            let mut backend = json!({"name": "chat-a"});
            json_patch::merge(&mut backend, &change);
            serde_json::from_value(backend).unwrap()
        };
        assert_eq!(backend(json!({})).service("prod"), Some("chat-a"));
        assert_eq!(
            backend(json!({"group": "", "kind": "Service", "namespace": "prod"})).service("prod"),
            Some("chat-a")
        );
        for elsewhere in [
            json!({"namespace": "other"}),
            json!({"kind": "TraefikService"}),
            json!({"group": "x.io"}),
        ] {
            assert_eq!(backend(elsewhere).service("prod"), None);
        }
    }
}
