//! `spec.probes`: what probe clients dial, as whom, and what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Span;
use super::script::{ProbeScript, Ready};

/// Probe clients that play a user's session through the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.dialect) && self.dialect == 'Script') == has(self.script)").message("probes.script belongs to probes.dialect Script: set both, or neither"),
    validation = Rule::new("!has(self.tls) || self.url.startsWith('wss://')").message("probes.tls needs a probes.url that starts with wss://: change the URL, or remove tls"),
    validation = Rule::new("!(has(self.tokenIn) && self.tokenIn != 'Header') || has(self.tokenFrom)").message("probes.tokenIn says where a token goes, and there is none: set probes.tokenFrom, or remove tokenIn"),
    validation = Rule::new("!has(self.otherTokenFrom) || has(self.tokenFrom)").message("probes.otherTokenFrom is somebody else's token beside probes.tokenFrom, which is not set: set it, or remove otherTokenFrom")
)]
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
    /// What probes say and hear, where the dialect is `Script`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ProbeScript>,
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
    /// The token of another user of the service, who must never see the probes' sessions. Absent: a forged token is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_token_from: Option<TokenFrom>,
    /// Where the token goes.
    #[serde(default, skip_serializing_if = "TokenPlace::is_header")]
    pub token_in: TokenPlace,
    /// The name of the URL's parameter where `tokenIn` is `Query`.
    #[serde(
        default = "default_token_parameter",
        skip_serializing_if = "is_default_token_parameter"
    )]
    #[schemars(length(min = 1, max = 64))]
    pub token_parameter: String,
    /// Whom probes trust, and as whom they show themselves, where the URL is `wss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ProbeTls>,
    /// How long probes wait between attempts to reconnect.
    #[serde(default, skip_serializing_if = "ProbeProfiles::is_default")]
    pub profiles: ProbeProfiles,
}

/// What probes speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbeDialect {
    /// The session protocol of the example service: sessions resume, and their state is compared.
    #[default]
    Session,
    /// Nothing but WebSocket itself, for a service of any protocol: an upgrade whose ping is answered counts as restored; state is not looked at.
    Ping,
    /// A service that sends back what it is sent.
    Echo,
    /// Socket.IO 5 over Engine.IO 4, with connection state recovery where the server offers it.
    SocketIo,
    /// GraphQL over WebSocket, as the library graphql-ws speaks it.
    GraphqlTransportWs,
    /// STOMP 1.2, to a broker that gives receipts.
    Stomp,
    /// What `probes.script` says.
    Script,
}

/// Where the probes' bearer token is: exactly one of `secretKeyRef` and `login`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.login)").message("a token is from exactly one of secretKeyRef and login; keep one of them"))]
pub struct TokenFrom {
    /// A key of a Secret in the namespace of the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// A request that is answered with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<TokenLogin>,
}

/// An HTTP request that is answered with JSON, in which a token is. Redirects are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.body) && has(self.bodyFrom))").message("a login has one of body and bodyFrom, or neither; keep one of them"))]
pub struct TokenLogin {
    /// `http://` or `https://`, as the operator reaches it. No credentials.
    #[schemars(length(min = 8, max = 2048))]
    #[x_kube(
        validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')").message("a login's URL starts with http:// or https://"),
        validation = Rule::new("!self.contains('@')").message("a login's URL carries no credentials: use bodyFrom")
    )]
    pub url: String,
    /// The method.
    #[serde(default)]
    pub method: LoginMethod,
    /// Request headers; no credentials.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 1024)))]
    pub headers: BTreeMap<String, String>,
    /// The request's body; no credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub body: Option<String>,
    /// The request's body, from a key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_from: Option<SecretSource>,
    /// The JSON path (RFC 9535) of the token in the answer: `$.access_token`.
    #[schemars(length(min = 1, max = 256))]
    pub token_path: String,
    /// How long a token is used; one that the service answers with 401 is replaced at once.
    #[serde(default = "default_refresh")]
    pub refresh: Span,
}

/// The method of a login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoginMethod {
    /// With a body.
    #[default]
    #[serde(rename = "POST")]
    Post,
    /// Without one.
    #[serde(rename = "GET")]
    Get,
    /// With a body.
    #[serde(rename = "PUT")]
    Put,
}

/// Where a token goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenPlace {
    /// The header `Authorization: Bearer …` of the upgrade.
    #[default]
    Header,
    /// A parameter of the URL, named `tokenParameter`. Proxies may log it.
    Query,
    /// Nowhere but where a script says `${token}`.
    Script,
}

/// TLS of the probes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeTls {
    /// The certificates (PEM) that are trusted, instead of the operator's own roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<SecretSource>,
    /// A Secret of type `kubernetes.io/tls`: the client certificate that probes show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<SecretName>,
    /// The name that the service's certificate must be for; absent: the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,
}

/// A Secret in the namespace of the rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where bytes are that not everybody is to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// A key of a Secret in the namespace of the rollout.
    pub secret_key_ref: SecretKeyRef,
}

/// Delays of reconnects, each jittered to between half of it and all; the last one repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProbeProfiles {
    /// After an announced close; the first attempt is made at once.
    #[schemars(length(min = 1, max = 4))]
    pub graceful: Vec<Span>,
    /// After a cut, a refused attempt, or a close that nothing announced.
    #[schemars(length(min = 1, max = 4))]
    pub emergency: Vec<Span>,
    /// Where the client itself lets go; the first attempt is made at once.
    #[schemars(length(min = 1, max = 4))]
    pub rolling: Vec<Span>,
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

// === impl ProbeDialect ===

impl ProbeDialect {
    /// The ready-made script of this dialect, if it is one.
    pub fn ready(self) -> Option<Ready> {
        match self {
            Self::Echo => Some(Ready::Echo),
            Self::SocketIo => Some(Ready::SocketIo),
            Self::GraphqlTransportWs => Some(Ready::GraphqlTransportWs),
            Self::Stomp => Some(Ready::Stomp),
            Self::Session | Self::Ping | Self::Script => None,
        }
    }
}

// === impl TokenPlace ===

impl TokenPlace {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde takes")]
    fn is_header(&self) -> bool {
        *self == Self::Header
    }
}

// === impl ProbeProfiles ===

impl ProbeProfiles {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for ProbeProfiles {
    fn default() -> Self {
        let spans = |ms: [u64; 4]| ms.map(|ms| Span(Duration::from_millis(ms))).to_vec();
        Self {
            graceful: spans([1_000, 2_000, 4_000, 8_000]),
            emergency: spans([500, 1_000, 2_000, 4_000]),
            rolling: spans([100, 500, 1_000, 2_000]),
        }
    }
}

fn default_token_parameter() -> String {
    "token".to_owned()
}

fn is_default_token_parameter(name: &String) -> bool {
    name == "token"
}

const fn default_refresh() -> Span {
    Span::secs(300)
}

const fn default_recycle() -> Span {
    Span::secs(10)
}
