//! What a session tells the one who drives it.

use std::time::Duration;

use serde_json::Value;

use super::dial::Phases;

/// Something happened to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A connection attempt begins; `attempt` counts from 1 within this outage.
    Dialing {
        /// Which attempt since the socket was lost.
        attempt: u32,
        /// Why the session connects.
        cause: Cause,
    },
    /// The upgrade went through. Nothing says yet that anybody is behind it.
    Accepted {
        /// The revision, where the response names one in the header `wsroll-revision`.
        revision: Option<String>,
    },
    /// The first message came.
    Welcomed(Welcomed),
    /// A numbered message, not seen before.
    Message {
        /// Its number.
        seq: u64,
    },
    /// An own request was answered.
    Answered {
        /// The request's number.
        request: u64,
        /// Since it was first handed to the session.
        after: Duration,
    },
    /// The state that was asked for.
    State {
        /// The request's number.
        request: u64,
        /// The service's answer.
        state: Value,
    },
    /// The service refused an own request.
    Refused {
        /// The request's number.
        request: u64,
        /// The service's code for it.
        code: String,
    },
    /// A number that was seen before came again, and was dropped.
    Duplicate,
    /// Numbers are missing.
    Gap {
        /// How many.
        missing: u64,
    },
    /// The session is restored: welcomed, and a message has come back on the new socket.
    Restored(Restored),
    /// A notice came.
    Noticed {
        /// The order's id.
        id: String,
        /// The session's place in time.
        after: Duration,
        /// Whether the session opens the new socket first.
        make_before_break: bool,
    },
    /// The socket is gone and the session did not ask for it.
    Disconnected {
        /// How it ended.
        end: End,
        /// Whether a notice or the ordered close code said so before.
        announced: bool,
    },
    /// An attempt to connect failed.
    AttemptFailed(Failure),
    /// There were too many failed attempts in a row; the session stays down until it is asked to reconnect.
    GaveUp,
}

/// Why a session connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It is new.
    First,
    /// Its socket was closed as announced.
    Announced,
    /// Its socket was cut, or closed by nobody's order.
    Unannounced,
    /// Its driver asked for it.
    Requested,
    /// A notice asked it to open the new socket first.
    Handover,
}

/// The first message of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcomed {
    /// The revision that answers.
    pub revision: String,
    /// The pod that answers.
    pub pod: String,
    /// How often the session was taken over so far.
    pub epoch: u64,
    /// Whether a session was asked for and found.
    pub resumed: bool,
    /// A session was asked for and not found.
    pub state_lost: bool,
    /// Why the session connected.
    pub cause: Cause,
    /// The times of this attempt.
    pub phases: Phases,
}

/// A session that is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Why it had to connect.
    pub cause: Cause,
    /// From the first dial until the first message came back. Waits before the first dial are planned and do not count.
    pub since_dial: Duration,
    /// From the loss of the socket until the first message came back; zero where the new socket was there before.
    pub downtime: Duration,
    /// How many attempts it took.
    pub attempts: u32,
    /// The times of the attempt that worked.
    pub phases: Phases,
}

/// How a socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a close frame.
    Closed {
        /// Its code; 1005 when it held none.
        code: u16,
    },
    /// Without one.
    Cut,
    /// It is open, but nothing answers.
    Unanswered,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The name does not resolve.
    Resolve,
    /// No TCP connection.
    Connect,
    /// The TLS handshake failed.
    Tls {
        /// What that means, and the remedy where there is one.
        reason: &'static str,
    },
    /// The upgrade was answered with another status.
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The answer to the upgrade is not a valid one.
    Handshake,
    /// No answer to the upgrade in time.
    Timeout,
    /// Accepted, but the first message did not come in time.
    Mute,
    /// Accepted, but a step of the script was not answered in time.
    Script {
        /// The step: `open[1].expect`.
        step: String,
    },
    /// Accepted, and closed before the first message.
    ClosedEarly {
        /// The close code; 1006 without a close frame.
        code: u16,
    },
}

// === impl End ===

impl End {
    /// The close code as RFC 6455 (section 7.1.5) has it: 1006 without a close frame.
    pub fn code(self) -> u16 {
        match self {
            Self::Closed { code } => code,
            Self::Cut | Self::Unanswered => 1006,
        }
    }
}

// === impl Failure ===

impl Failure {
    /// A closed set of names, for labels.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls { .. } => "tls",
            Self::Refused { .. } => "refused",
            Self::Handshake => "handshake",
            Self::Timeout => "timeout",
            Self::Mute => "mute",
            Self::Script { .. } => "script",
            Self::ClosedEarly { .. } => "closedEarly",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resolve => f.write_str("the name did not resolve"),
            Self::Connect => f.write_str("no TCP connection"),
            Self::Tls { reason } => write!(f, "the TLS handshake failed: {reason}"),
            Self::Refused { status } => write!(f, "the upgrade was answered with {status}"),
            Self::Handshake => f.write_str("the answer to the upgrade was not valid"),
            Self::Timeout => f.write_str("the upgrade got no answer in time"),
            Self::Mute => f.write_str("accepted, but no first message came in time"),
            Self::Script { step } => write!(
                f,
                "accepted, but the script's step {step} was not answered in time"
            ),
            Self::ClosedEarly { code } => write!(f, "closed with {code} before the first message"),
        }
    }
}
