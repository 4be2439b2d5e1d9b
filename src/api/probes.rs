//! `spec.probes`: what probe clients dial, as whom, and what they say.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Span;

/// Probe clients that play a user's session through the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probes {
    /// Where users connect: `ws://` or `wss://`, host and path as users write them. No credentials.
    #[schemars(length(min = 6, max = 2048))]
    #[x_kube(
        validation = Rule::new("self.startsWith('ws://') || self.startsWith('wss://')").message("a probe URL starts with ws:// or wss://"),
        validation = Rule::new("!self.contains('@')").message("a probe URL carries no credentials: use probes.tokenFrom")
    )]
    pub url: String,
    /// `host:port` to dial instead of the URL's host, which is still the one that is asked for: the gateway as seen from inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 260))]
    #[x_kube(validation = Rule::new("self.matches('^[^\\\\s/:]+:[0-9]{1,5}$')").message("connectTo is host:port"))]
    pub connect_to: Option<String>,
    /// What the probes speak.
    #[serde(default)]
    pub dialect: ProbeDialect,
    /// How many probe sessions are held per revision.
    #[serde(default = "default_probe_sessions")]
    #[schemars(range(min = 1, max = 200))]
    pub sessions: u32,
    /// How often each probe session reconnects: the sampling rate of the verdict.
    #[serde(default = "default_recycle")]
    pub recycle: Span,
    /// Request headers of the probes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 32))]
    pub headers: BTreeMap<String, String>,
    /// Subprotocols that the probes offer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub subprotocols: Vec<String>,
    /// The bearer token of the probes' user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_from: Option<TokenFrom>,
}

/// What probes speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbeDialect {
    /// The session protocol of the example service: sessions resume, and their state is compared.
    #[default]
    Session,
    /// Nothing but WebSocket itself, for a service of any protocol: an upgrade whose ping is answered counts as restored; state is not looked at.
    Ping,
}

/// Where the probes' bearer token is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenFrom {
    /// A key of a Secret in the namespace of the rollout.
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

const fn default_probe_sessions() -> u32 {
    20
}

const fn default_recycle() -> Span {
    Span::secs(10)
}
