//! The wire types of the drain protocol, version 1.
//!
//! Unknown fields are ignored when reading, so that either side may be newer. A counter that a pod does not
//! report stays `None`: *unknown is not zero*. This file imports nothing of the other rooms, so that it can be
//! copied into an implementation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The port on which a pod serves the protocol when `WSROLL_PORT` does not say otherwise.
pub const DEFAULT_PORT: u16 = 9911;

/// `GET` here answers with a [`SessionsReport`].
pub const SESSIONS_PATH: &str = "/wsroll/v1/sessions";

/// `PUT` a [`DrainOrder`] here; `DELETE {DRAIN_PATH}/{id}` cancels it.
pub const DRAIN_PATH: &str = "/wsroll/v1/drain";

/// `GET {EVENTS_PATH}?after=N` answers with an [`EventsReport`]. Optional: `404` where it is not implemented.
pub const EVENTS_PATH: &str = "/wsroll/v1/events";

/// The most events in one answer.
pub const MAX_EVENTS: usize = 1_000;

/// More sessions than any process has: a pod that claims more tells nothing.
pub const MAX_SESSIONS: u64 = 100_000_000;

/// The close code of a drain when the order does not name one: "service restart" (RFC 6455 registry).
pub const SERVICE_RESTART: u16 = 1012;

/// What a pod says about its sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsReport {
    /// Random per process. Another value than before means that the sessions counted before were cut, not
    /// drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The revision the pod was started as (`WSROLL_REVISION`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Sessions open now: sockets, and polling sessions seen within 60 s.
    pub open: u64,
    /// Of them, sessions whose client has been silent for two ping intervals: closed without spending budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dormant: Option<u64>,
    /// Age of the oldest open session, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// Whether the pod takes new connections. A draining pod stays ready and accepting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepting: Option<bool>,
    /// Counters since the process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
    /// The running or the last order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainProgress>,
}

/// Counters since the process started. Absent is unknown, never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Upgrades accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u64>,
    /// Upgrades refused because the pod could not serve them (`503`, no application, over a limit).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// Sessions that came back and found their state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<u64>,
    /// Sessions that asked to resume and could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_failed: Option<u64>,
    /// Sessions whose state was not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_lost: Option<u64>,
    /// Closed sockets by WebSocket close code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<BTreeMap<String, u64>>,
}

/// How far a drain order has come on one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainProgress {
    /// The order's id.
    pub id: String,
    /// What the order is doing.
    pub state: DrainState,
    /// Sessions the order covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eligible: Option<u64>,
    /// Sessions that were sent a notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notified: Option<u64>,
    /// Notices the clients acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<u64>,
    /// Sessions closed in their turn, or that left by themselves after a notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_clean: Option<u64>,
    /// Sessions closed because of the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_forced: Option<u64>,
    /// Sessions the application keeps for now (`whenIdle`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<u64>,
    /// Sessions closed at once because their client had been silent for two ping intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dormant: Option<u64>,
    /// The rate in force, sessions per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<f64>,
    /// Milliseconds until the order's lease runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_ms: Option<u64>,
}

/// What a drain order is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainState {
    /// Sessions are being moved.
    Active,
    /// The lease ran out: nothing moves and the deadline's clock stands still until a renewal.
    Paused,
    /// Nothing is left to move.
    #[serde(alias = "complete", alias = "completed")]
    Done,
    /// The order was deleted.
    #[serde(alias = "canceled")]
    Cancelled,
    /// A state this version does not know.
    #[serde(other)]
    Unknown,
}

/// Sessions that a pod released and that arrived at it, oldest first: so every drained session can be accounted for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventsReport {
    /// As in [`SessionsReport`]: another value means that numbers started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What to ask for next, as `after`.
    pub next: u64,
    /// Events after `after` that were dropped before they were read.
    #[serde(default)]
    pub lost: u64,
    /// At most [`MAX_EVENTS`]; more are there where `next` is not the last number.
    pub events: Vec<SessionEvent>,
}

/// One session came, or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionEvent {
    /// Its number, rising by one from 1.
    pub n: u64,
    /// What happened.
    pub kind: SessionEventKind,
    /// The session's identity as [`identity_hash`](crate::drain::identity::hash) makes it: 16 hexadecimal digits, the same on every
    /// pod of a rollout. Never the identity itself.
    pub session: String,
    /// How long ago, milliseconds before this answer: nobody's clock has to be right.
    pub ago_ms: u64,
    /// The order under which it was released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// How it went, for a released one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<ReleasedHow>,
    /// Whether an arriving one found its state; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<bool>,
}

/// What happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionEventKind {
    /// Its socket, or its polling, ended here.
    Released,
    /// It was opened here.
    Arrived,
    /// One this version does not know.
    #[serde(other)]
    Other,
}

/// How a session was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReleasedHow {
    /// The client left by itself, without an order.
    Left,
    /// In its turn, by an order: told or closed.
    Moved,
    /// Closed at a deadline.
    Forced,
    /// Closed at once under an order: its client had been silent for two ping intervals.
    Dormant,
    /// Cut without a close frame, by whichever side.
    Cut,
    /// A way this version does not know.
    #[serde(other)]
    Other,
}

/// How the operator asks a pod to let go of its sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainOrder {
    /// `<release>-<attempt>-<wave>-<podUID>`, URL-safe. The same id again renews the lease and updates the
    /// running order.
    pub id: String,
    /// Why the sessions have to move.
    pub reason: Reason,
    /// Which of the pod's sessions.
    #[serde(default)]
    pub select: Select,
    /// How politely.
    #[serde(default)]
    pub mode: Mode,
    /// Sessions per second on this pod; may be fractional.
    pub rate_per_second: f64,
    /// An order not renewed within this many seconds pauses.
    pub lease_seconds: u32,
    /// Milliseconds from the order's start to its deadline, not counting pauses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What happens to sessions that are still there at the deadline.
    #[serde(default)]
    pub on_deadline: OnDeadline,
    /// When, and where to, clients are told to reconnect.
    #[serde(default)]
    pub reconnect: Reconnect,
    /// The WebSocket close code of sessions closed in their turn.
    #[serde(default = "default_close_code")]
    pub close_code: u16,
}

/// Why sessions have to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// To a new revision.
    Rollout,
    /// Back from a revision that was rejected.
    Rollback,
    /// The pod is one too many.
    ScaleDown,
    /// The node is being emptied.
    NodeDrain,
    /// Sessions are spread more evenly.
    Rebalance,
    /// An exercise.
    Drill,
    /// A reason this version does not know.
    #[serde(other)]
    Other,
}

/// Which of a pod's sessions an order covers; they are taken in random order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Select {
    /// Every session.
    All {},
    /// So many sessions.
    Count(u64),
    /// This share of the sessions, 0 to 1.
    Fraction(f64),
}

/// How politely sessions are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// A notice, then a close in turn.
    #[default]
    Ask,
    /// The application may say *busy until*; such sessions are skipped until then.
    WhenIdle,
    /// Nothing is sent or closed before the deadline.
    Leave,
}

/// What happens to sessions that are still there at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnDeadline {
    /// They are left alone.
    #[default]
    Wait,
    /// They are closed, through the same rate.
    Close,
}

/// When, and where to, clients are told to reconnect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconnect {
    /// The least time between a notice and its reconnect, milliseconds.
    #[serde(default)]
    pub min_ms: u64,
    /// The most time between a notice and its reconnect, milliseconds.
    #[serde(default)]
    pub max_ms: u64,
    /// How a client names the revision it should land on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
}

/// How a client names, at its reconnect, the revision it should land on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hint {
    /// Appended to the URL's query, `name=value`.
    Query(String),
    /// Put before the path of the URL, as it stands: `/wsroll-x7Qp` makes `/wsroll-x7Qp/chat` of `/chat`. The gateway takes it off
    /// again. A prefix, since only the client knows its own path.
    Path(String),
    /// A request header, `name: value`.
    Header(String),
}

/// The notice a pod sends to a client that declared that it understands notices (JSON framing).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Always `wsroll.notice`.
    #[serde(rename = "type")]
    pub kind: NoticeKind,
    /// The protocol's version, 1.
    pub v: u32,
    /// The order's id.
    pub id: String,
    /// Why.
    pub reason: Reason,
    /// Milliseconds until the session is closed at the latest, where there is a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// When, and where to, this client should reconnect.
    pub reconnect: NoticeReconnect,
    /// What to present at the reconnect, where the application has such a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// The code with which the pod will close the session.
    #[serde(default = "default_close_code")]
    pub close_code: u16,
    /// Whether the client should open its new socket before it lets go of this one.
    #[serde(default)]
    pub make_before_break: bool,
}

/// The `type` of a [`Notice`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoticeKind {
    /// A drain notice.
    #[default]
    #[serde(rename = "wsroll.notice")]
    Notice,
}

/// A session's own place in the spread reconnects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoticeReconnect {
    /// Milliseconds to wait before the reconnect.
    #[serde(default)]
    pub after_ms: u64,
    /// The client adds a random time up to this, milliseconds.
    #[serde(default)]
    pub within_ms: u64,
    /// Another URL than the one the session was opened with.
    #[serde(default)]
    pub url: Option<String>,
    /// Appended to the URL's query.
    #[serde(default)]
    pub query: Option<String>,
    /// Put before the URL's path: `/wsroll-x7Qp` and `/ws` make `/wsroll-x7Qp/ws`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A request header for the reconnect, `name: value`; browsers cannot send one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

/// What a client presents at its reconnect.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume {
    /// Opaque to the client, and never logged.
    pub token: String,
    /// Milliseconds until the token is worthless.
    pub expires_ms: u64,
}

/// The client's answer to a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Always `wsroll.ack`.
    #[serde(rename = "type")]
    pub kind: AckKind,
    /// The notice's id.
    pub id: String,
}

/// The `type` of an [`Ack`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckKind {
    /// An acknowledged notice.
    #[default]
    #[serde(rename = "wsroll.ack")]
    Ack,
}

/// Why an order is a bad one (the reason of a `400`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOrder {
    /// The id cannot stand in a URL's path.
    #[error("id must be 1 to 200 characters of [A-Za-z0-9._-]")]
    Id,
    /// The rate is no positive number.
    #[error("ratePerSecond must be a number above 0 and at most 10000")]
    Rate,
    /// No lease.
    #[error("leaseSeconds must be at least 1")]
    Lease,
    /// The fraction is not one.
    #[error("select.fraction must be between 0 and 1")]
    Fraction,
    /// The window ends before it begins.
    #[error("reconnect.minMs must not be above reconnect.maxMs")]
    Window,
    /// The close code may not be sent by an endpoint, or says that all is over (1000).
    #[error("closeCode must be 1001, 1008, 1011, 1012, 1013 or 3000 to 4999")]
    CloseCode,
}

// === impl Select ===

impl Default for Select {
    fn default() -> Self {
        Self::All {}
    }
}

// === impl Resume ===

impl std::fmt::Debug for Resume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resume")
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

// === impl DrainOrder ===

impl DrainOrder {
    /// Checks what a pod has to check before it starts on an order: never a partial start.
    pub fn check(&self) -> Result<(), BadOrder> {
        let url_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.id.is_empty() || self.id.len() > 200 || !self.id.chars().all(url_safe) {
            return Err(BadOrder::Id);
        }
        if !(self.rate_per_second > 0.0 && self.rate_per_second <= 10_000.0) {
            return Err(BadOrder::Rate);
        }
        if self.lease_seconds == 0 {
            return Err(BadOrder::Lease);
        }
        if matches!(self.select, Select::Fraction(share) if !(0.0..=1.0).contains(&share)) {
            return Err(BadOrder::Fraction);
        }
        if self.reconnect.min_ms > self.reconnect.max_ms {
            return Err(BadOrder::Window);
        }
        if !matches!(self.close_code, 1001 | 1008 | 1011..=1013 | 3000..=4999) {
            return Err(BadOrder::CloseCode);
        }
        Ok(())
    }
}

fn default_close_code() -> u16 {
    SERVICE_RESTART
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
