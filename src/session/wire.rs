//! The session protocol of `examples/session-server`, as the client sees it: JSON text frames.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ledger::Section;

/// What the service sends. Unknown types are ignored, so that a service may say more.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type")]
pub enum ServerFrame {
    /// Always the first message of a socket.
    #[serde(rename = "welcome")]
    Welcome {
        /// The session's id.
        session: String,
        /// How often the session was taken over.
        #[serde(default)]
        epoch: u64,
        /// The revision that answers.
        #[serde(default)]
        revision: String,
        /// The pod that answers.
        #[serde(default)]
        pod: String,
        /// Whether the session that was asked for was found.
        resumed: bool,
        /// The number of the last message sent to this session.
        #[serde(default)]
        seq: u64,
    },
    /// A numbered message.
    #[serde(rename = "message")]
    Message {
        /// Its number, without gaps within a session.
        seq: u64,
        /// The request it answers.
        id: Option<String>,
    },
    /// The session's state, as asked for.
    #[serde(rename = "state")]
    State {
        /// The request it answers.
        id: String,
        /// The state.
        state: Value,
    },
    /// A drain order reached this session.
    #[serde(rename = "wsroll.notice")]
    Notice(Notice),
    /// A request was refused.
    #[serde(rename = "error")]
    Error {
        /// The request.
        id: Option<String>,
        /// Why.
        #[serde(default)]
        code: String,
    },
    /// Anything else.
    #[serde(other)]
    Unknown,
}

/// A drain notice, version 1 of the drain protocol; only what a client acts on. `reconnect.url` is left out on purpose:
/// a client that holds a token does not follow a service to another host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// The order's id.
    pub id: String,
    /// When and how to reconnect.
    #[serde(default)]
    pub reconnect: Reconnect,
    /// The code with which the pod will close.
    pub close_code: Option<u16>,
    /// Whether a second socket may be opened before the first is closed.
    #[serde(default)]
    pub make_before_break: bool,
}

/// The session's place in time, and what leads it to the right revision.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reconnect {
    /// Milliseconds from the notice to the place.
    pub after_ms: u64,
    /// Milliseconds after that within which to connect.
    pub within_ms: u64,
    /// A query to append to the URL: `name=value`.
    pub query: Option<String>,
    /// Put before the URL's path.
    pub path: Option<String>,
    /// A request header: `name: value`.
    pub header: Option<String>,
}

/// What the client sends.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
pub enum ClientFrame<'a> {
    /// Appends to the history; applied once by id.
    #[serde(rename = "say")]
    Say {
        /// The request's id.
        id: String,
        /// What is said.
        text: &'a str,
        /// The last number received.
        ack: u64,
    },
    /// Sets one key of a section; applied once by id.
    #[serde(rename = "set")]
    Set {
        /// The request's id.
        id: String,
        /// Where.
        section: Section,
        /// The key.
        key: &'a str,
        /// The value.
        value: &'a Value,
    },
    /// Asks for the state.
    #[serde(rename = "state")]
    State {
        /// The request's id.
        id: String,
    },
    /// Acknowledges a notice.
    #[serde(rename = "wsroll.ack")]
    Ack {
        /// The order's id.
        id: &'a str,
    },
}

/// The parts of a state that survive a move.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct SessionState {
    /// What was said, oldest first; bounded by the service.
    pub history: Vec<Value>,
    /// Agent context.
    pub context: serde_json::Map<String, Value>,
    /// Tool states.
    pub tools: serde_json::Map<String, Value>,
    /// User preferences.
    pub preferences: serde_json::Map<String, Value>,
    /// The user's tier.
    pub tier: String,
}

// === impl ServerFrame ===

impl ServerFrame {
    /// Reads a text frame; what is no JSON of this protocol is [`ServerFrame::Unknown`].
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or(Self::Unknown)
    }
}

// === impl ClientFrame ===

impl ClientFrame<'_> {
    /// The text frame.
    pub fn to_text(&self) -> String {
        // Maps with string keys and plain values always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

// === impl SessionState ===

impl SessionState {
    /// The said texts, oldest first: an entry is a text, or an object with a `text`.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.history
            .iter()
            .filter_map(|entry| entry.as_str().or_else(|| entry.get("text")?.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_notice_with_all_its_fields() {
        let text = r#"{"type":"wsroll.notice","v":1,"id":"a","reason":"rollout","deadlineMs":30000,
            "reconnect":{"afterMs":1730,"withinMs":250,"url":null,"query":"wsroll=x7Qp"},
            "resume":{"token":"t","expiresMs":900000},"closeCode":1012,"makeBeforeBreak":false}"#;
        let ServerFrame::Notice(notice) = ServerFrame::parse(text) else {
            panic!("not a notice");
        };
        assert_eq!(notice.reconnect.after_ms, 1730);
        assert_eq!(notice.reconnect.query.as_deref(), Some("wsroll=x7Qp"));
        assert_eq!(notice.close_code, Some(1012));
    }

    #[test]
    fn reads_a_notice_with_the_least_fields() {
        let frame = ServerFrame::parse(r#"{"type":"wsroll.notice","id":"a"}"#);
        assert!(matches!(frame, ServerFrame::Notice(n) if !n.make_before_break));
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        for text in ["", "hello", "{}", r#"{"type":"new.thing","x":1}"#, "[1]"] {
            assert_eq!(ServerFrame::parse(text), ServerFrame::Unknown);
        }
    }

    #[test]
    fn says_with_id_and_ack() {
        let frame = ClientFrame::Say {
            id: "c-5".into(),
            text: "hi",
            ack: 17,
        };
        assert_eq!(
            frame.to_text(),
            r#"{"type":"say","id":"c-5","text":"hi","ack":17}"#
        );
    }
}
