//! The dialect that needs nothing but WebSocket: requests travel as pings, and each pong is read as the answer that the session
//! protocol would have given.

use tokio_tungstenite::tungstenite::Message;

use crate::session::ledger::Unsent;
use crate::session::wire::ServerFrame;

/// Payload of the first ping; its pong is the welcome.
const HELLO: &[u8] = b"wsroll";

/// The other side of the session protocol, as far as pongs can play it.
#[derive(Debug)]
pub(in crate::session) struct Pings {
    /// The last number given to an answer.
    seq: u64,
    revision: String,
    greeted: bool,
}

impl Pings {
    pub(super) fn new(revision: Option<String>, seq: u64) -> Self {
        Self {
            seq,
            revision: revision.unwrap_or_default(),
            greeted: false,
        }
    }

    /// The first ping, once.
    pub(super) fn hello(&mut self) -> Option<Message> {
        let first = !std::mem::replace(&mut self.greeted, true);
        first.then(|| Message::Ping(HELLO.into()))
    }

    /// The ping that asks this.
    #[expect(clippy::unused_self, reason = "beside `answer`, which needs it")]
    pub(super) fn ask(&self, request: &Unsent) -> Message {
        let kind = if request.reads { "state" } else { "say" };
        Message::Ping(format!("{kind} {}", request.id).into())
    }

    /// What a pong answers; `None` for one that answers no ping of ours.
    pub(super) fn answer(&mut self, payload: &[u8]) -> Option<ServerFrame> {
        if payload == HELLO {
            return Some(ServerFrame::Welcome {
                session: "ping".to_owned(),
                epoch: 0,
                revision: self.revision.clone(),
                pod: String::new(),
                resumed: true,
                seq: self.seq,
            });
        }
        let (kind, id) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
        let id = id.to_owned();
        match kind {
            "state" => Some(ServerFrame::State {
                id,
                state: serde_json::Value::Null,
            }),
            "say" => {
                self.seq += 1;
                Some(ServerFrame::Message {
                    seq: self.seq,
                    id: Some(id),
                })
            }
            _ => None,
        }
    }
}
