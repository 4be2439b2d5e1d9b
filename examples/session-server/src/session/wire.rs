//! The session protocol's messages: JSON in text frames.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    drain::Notice,
    store::{Reply, Section, Snapshot},
};

/// Longest id or key, in bytes.
const MAX_NAME: usize = 128;

/// From the server.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ServerMessage<'a> {
    /// Always the first.
    Welcome {
        session: &'a str,
        epoch: u64,
        revision: &'a str,
        pod: &'a str,
        resumed: bool,
        seq: u64,
    },
    /// A numbered reply.
    Message(&'a Reply),
    /// The whole state.
    State { id: &'a str, state: &'a Snapshot },
    /// A drain is coming for this socket.
    #[serde(rename = "wsroll.notice")]
    Notice(&'a Notice),
    /// A message that was not applied.
    Error {
        id: &'a str,
        code: &'a str,
        text: &'a str,
    },
}

/// From the client.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ClientMessage {
    /// Says something.
    Say {
        id: String,
        text: String,
        #[serde(default)]
        ack: u64,
    },
    /// Sets a value.
    Set {
        id: String,
        section: Section,
        key: String,
        value: Value,
        #[serde(default)]
        ack: u64,
    },
    /// Asks for the state.
    State { id: String },
    /// Is not to be moved for so long from now, where an order heeds it (`whenIdle`); 0: it may be moved again.
    Busy {
        #[serde(rename = "untilMs")]
        until_ms: u64,
    },
    /// Has understood a notice.
    #[serde(rename = "wsroll.ack")]
    Ack { id: String },
}

// === impl ClientMessage ===

impl ClientMessage {
    /// Reads a message; the error is for the client's developer.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let message: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let names = match &message {
            Self::Say { id, .. } | Self::State { id } | Self::Ack { id } => [id.as_str(), "-"],
            Self::Set { id, key, .. } => [id.as_str(), key.as_str()],
            Self::Busy { .. } => ["-", "-"],
        };
        if names.iter().all(|name| (1..=MAX_NAME).contains(&name.len())) {
            Ok(message)
        } else {
            Err(format!("ids and keys have 1 to {MAX_NAME} bytes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_form() {
        let reply = Reply {
            seq: 18,
            id: "c-5".into(),
            text: "hi".into(),
        };
        let text = serde_json::to_string(&ServerMessage::Message(&reply)).unwrap();
        assert_eq!(text, r#"{"type":"message","seq":18,"id":"c-5","text":"hi"}"#);
        assert!(matches!(
            ClientMessage::parse(r#"{"type":"say","id":"c-5","text":"hi","ack":17,"new":1}"#),
            Ok(ClientMessage::Say { ack: 17, .. })
        ));
        assert!(matches!(
            ClientMessage::parse(r#"{"type":"wsroll.ack","id":"o-1"}"#),
            Ok(ClientMessage::Ack { .. })
        ));
    }

    #[test]
    fn a_client_may_say_that_it_is_busy() {
        assert!(matches!(
            ClientMessage::parse(r#"{"type":"busy","untilMs":9000}"#),
            Ok(ClientMessage::Busy { until_ms: 9000 })
        ));
        assert!(ClientMessage::parse(r#"{"type":"busy"}"#).is_err());
    }

    #[test]
    fn bad_messages_are_explained() {
        for bad in [
            "",
            "{}",
            r#"{"type":"shout","id":"1"}"#,
            r#"{"type":"say","text":"no id"}"#,
            r#"{"type":"say","id":"","text":"x"}"#,
            r#"{"type":"set","id":"1","section":"secrets","key":"k","value":1}"#,
        ] {
            assert!(ClientMessage::parse(bad).is_err(), "{bad}");
        }
    }
}
