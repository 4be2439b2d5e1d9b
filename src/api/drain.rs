//! How live sessions leave a pod: the `drain` part of the spec. Every comment here is what `kubectl explain` shows.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Span;

/// How live sessions are asked to leave a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.via == 'Sidecar' || !has(self.sidecar)").message("drain.sidecar needs drain.via: Sidecar"))]
#[x_kube(validation = Rule::new("self.via != 'Sidecar' || !has(self.sessionsFrom)").message("drain.sessionsFrom is for applications without the protocol: the sidecar counts by itself"))]
#[x_kube(validation = Rule::new("self.via != 'Signal' || self.mode == 'Ask'").message("drain.mode WhenIdle and Leave need somebody to ask: use drain.via Protocol or Sidecar"))]
pub struct Drain {
    /// Who lets sessions go: the application by the drain protocol, a sidecar in front of it, or the application on SIGTERM.
    #[serde(default)]
    pub via: Via,
    /// How politely sessions are asked.
    #[serde(default)]
    pub mode: DrainMode,
    /// How many sessions may be moved per second.
    #[serde(default)]
    pub budget: Budget,
    /// How long a pod may take to become empty, counted from its first order. The clock stands still while the operator is away.
    #[serde(default = "default_drain_deadline")]
    pub deadline: Span,
    /// What happens to sessions that are still there at the deadline.
    #[serde(default)]
    pub on_deadline: OnDeadline,
    /// What the sessions are told.
    #[serde(default)]
    pub notice: Notice,
    /// Where a session's identity is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionIdentity>,
    /// A metric that counts the sessions of an application without the protocol (`via: Signal`); without it they are unknown, and only deadlines free a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_from: Option<SessionsFrom>,
    /// The sidecar that lets sessions go for the application (`via: Sidecar`). Frozen per revision: a change takes effect with the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
}

/// Who lets sessions go.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
    strum::IntoStaticStr,
)]
pub enum Via {
    /// The protocol where the pods answer it; else the release waits until `via: Signal` or `via: Sidecar` is chosen, or `promote` accepts the signal.
    #[default]
    Auto,
    /// The application speaks the drain protocol.
    Protocol,
    /// A sidecar that wsroll adds to the pods speaks it; the application stays as it is.
    Sidecar,
    /// The application's own SIGTERM handler: one pod at a time, by deletion.
    Signal,
}

/// How politely sessions are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrainMode {
    /// A notice, then a close in turn.
    #[default]
    Ask,
    /// Sessions that are busy are skipped until they are not, at most until the deadline.
    WhenIdle,
    /// Nothing is sent or closed before the deadline: sessions leave by themselves, and newer releases wait for a free slot.
    Leave,
}

/// How many sessions may be moved per second, over all pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.connectsPerSecond) && has(self.overDuration))").message("give connectsPerSecond or overDuration, not both"))]
pub struct Budget {
    /// First connects of drained sessions per second, never exceeded in any aligned second. wsroll runs at 0.9 of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connects_per_second: Option<u32>,
    /// Spread the move of all sessions over this time, at most 50 per second. 15m where neither field is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_duration: Option<Span>,
    /// Slow down when reconnects become slow or are refused, and recover step by step: the budget is then the most, not the pace.
    #[serde(default = "default_adaptive")]
    pub adaptive: bool,
}

/// What happens to sessions that are still there at a deadline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDeadline {
    /// They stay, and a condition says so.
    #[default]
    Wait,
    /// They are closed, at the rate of the budget.
    Close,
}

/// What sessions are told when they are asked to move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// The close code that ends a moved session. 1012 means `service restart`; 1000 would tell clients to stay away.
    #[serde(default = "default_close_code")]
    #[schemars(range(min = 1001, max = 4999))]
    #[x_kube(validation = Rule::new("self == 1001 || self == 1012 || self == 1013 || self >= 3000").message("a close code that an endpoint may send: 1001, 1012, 1013 or 3000 to 4999"))]
    pub close_code: u16,
    /// The most time between a session's notice and its place.
    #[serde(default = "default_reconnect_window")]
    pub reconnect_window: Span,
    /// How a session's next connection is led to the right revision.
    #[serde(default)]
    pub hint: HintKind,
}

/// How a session's next connection is led to the right revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HintKind {
    /// A query parameter `wsroll=…` that clients append to their URL; the pins route matches it.
    Query,
    /// A path prefix `/wsroll-…` that clients put before their URL's path; the pins route matches it and takes it off again.
    Path,
    /// A request header `x-wsroll-hint` that clients send; browsers cannot.
    Header,
    /// No hint: sessions move in a window, or once, at the last step.
    #[default]
    None,
}

/// Where a session's identity is, so that its return can be told and its polling requests belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionIdentity {
    /// Exactly one of query, header and cookie.
    pub id_from: IdFrom,
}

/// One place in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.query), has(self.header), has(self.cookie)].filter(x, x).size() == 1").message("give exactly one of query, header and cookie"))]
pub struct IdFrom {
    /// Name of a query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub query: Option<String>,
    /// Name of a request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub header: Option<String>,
    /// Name of a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub cookie: Option<String>,
}

/// A gauge in the Prometheus text format on the pods themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsFrom {
    /// The port of the metrics.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The path of the metrics.
    #[serde(default = "default_metrics_path")]
    #[schemars(length(min = 1, max = 256))]
    pub path: String,
    /// Name of the gauge; its series are added up.
    #[schemars(length(min = 1, max = 256))]
    pub metric: String,
}

/// The sidecar in front of an application that is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Its image; absent: the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Notices, by subprotocol; none: sessions are closed in their turn without a notice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub notices: Vec<SidecarNotice>,
    /// Close codes, by subprotocol, where `drain.notice.closeCode` and 1001 do not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub close_codes: Vec<CloseCodes>,
    /// Proxies in front of the pods whose `X-Forwarded-For` entries are believed: the gateway is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub trusted_hops: Option<u8>,
    /// Limits; absent ones have safe defaults.
    #[serde(default)]
    pub limits: Limits,
    /// Send a ping when a client was silent for so long; a client that is silent for two of them is dormant. Absent: none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping_interval: Option<Span>,
    /// Requests and limits of the container, as in a pod; absent: 10m CPU and 32Mi memory are requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub resources: Option<serde_json::Value>,
}

/// A notice in an application's own framing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarNotice {
    /// For sockets of this subprotocol; absent: for those without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub subprotocol: Option<String>,
    /// Only for clients whose URL carries this query parameter (`name` or `name=value`): an unknown message breaks many clients. Absent: the
    /// subprotocol itself declares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub declared_by_query: Option<String>,
    /// What is sent.
    #[serde(default)]
    pub format: NoticeFormat,
    /// For `Text`: the message, with `{afterMs}`, `{query}`, `{path}`, `{reason}`, `{closeCode}`, `{id}` replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub template: Option<String>,
}

/// How a notice is framed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NoticeFormat {
    /// The drain protocol's own JSON message.
    #[default]
    Json,
    /// The text of `template`.
    Text,
}

/// Close codes of one subprotocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloseCodes {
    /// The subprotocol.
    #[schemars(length(min = 1, max = 128))]
    pub subprotocol: String,
    /// Toward the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1001, max = 4999))]
    pub client: Option<u16>,
    /// Toward the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1001, max = 4999))]
    pub application: Option<u16>,
}

/// What one sidecar takes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections at one time; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u32>,
    /// Bytes of a request's head; absent: 16384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub header_bytes: Option<u32>,
    /// How long a client may take for a request's head, and the application for its answer to an upgrade; absent: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_timeout: Option<Span>,
    /// How long a socket may be silent in both directions; absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Span>,
}

// === defaults ===

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

const fn default_drain_deadline() -> Span {
    Span::secs(1800)
}

const fn default_adaptive() -> bool {
    true
}

const fn default_close_code() -> u16 {
    1012
}

const fn default_reconnect_window() -> Span {
    Span::secs(5)
}

fn default_metrics_path() -> String {
    "/metrics".to_owned()
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            via: Via::default(),
            mode: DrainMode::default(),
            budget: Budget::default(),
            deadline: default_drain_deadline(),
            on_deadline: OnDeadline::default(),
            notice: Notice::default(),
            session: None,
            sessions_from: None,
            sidecar: None,
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            connects_per_second: None,
            over_duration: None,
            adaptive: default_adaptive(),
        }
    }
}

impl Default for Notice {
    fn default() -> Self {
        Self {
            close_code: default_close_code(),
            reconnect_window: default_reconnect_window(),
            hint: HintKind::default(),
        }
    }
}
