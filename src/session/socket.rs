//! One open socket: frames in, frames out. In the dialect [`Ping`](Dialect::Ping) requests travel as pings, and each pong is read
//! as the answer that the session protocol would have given.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::config::Dialect;
use super::dial::{Dialed, Phases, Stream};
use super::event::End;
use super::ledger::Unsent;
use super::wire::ServerFrame;

/// An accepted upgrade, read and written by polling.
#[derive(Debug)]
pub(super) struct Socket {
    ws: WebSocketStream<Stream>,
    outbox: VecDeque<Message>,
    pub(super) opened_at: Instant,
    pub(super) phases: Phases,
    /// A notice came on this socket.
    pub(super) noticed: bool,
    /// What is known of the service, where pings stand for requests.
    pings: Option<Pings>,
}

/// The other side of the session protocol, as far as pongs can play it.
#[derive(Debug)]
struct Pings {
    /// The last number given to an answer.
    seq: u64,
    revision: String,
}

/// Payload of the first ping; its pong is the welcome.
const HELLO: &[u8] = b"wsroll";

/// What came out of a socket.
#[derive(Debug)]
pub(super) enum Incoming {
    Frame(ServerFrame),
    End(End),
}

impl Socket {
    /// An accepted upgrade. `last` is the last number that the session has received on any socket.
    pub(super) fn new(dialed: Dialed, dialect: Dialect, last: u64, now: Instant) -> Self {
        let pings = (dialect == Dialect::Ping).then(|| Pings {
            seq: last,
            revision: dialed.revision.unwrap_or_default(),
        });
        let hello = pings.as_ref().map(|_| Message::Ping(HELLO.into()));
        Self {
            ws: dialed.socket,
            outbox: hello.into_iter().collect(),
            opened_at: now,
            phases: dialed.phases,
            noticed: false,
            pings,
        }
    }

    /// Queues a request; it leaves with the next poll.
    pub(super) fn ask(&mut self, request: Unsent) {
        if self.pings.is_none() {
            self.send(request.text);
            return;
        }
        let kind = if request.reads { "state" } else { "say" };
        let payload = format!("{kind} {}", request.id);
        self.outbox.push_back(Message::Ping(payload.into()));
    }

    /// Queues a text frame; it leaves with the next poll.
    pub(super) fn send(&mut self, text: String) {
        self.outbox.push_back(Message::text(text));
    }

    /// Queues a close frame; the socket ends when the other side answers it.
    pub(super) fn close(&mut self) {
        self.outbox.push_back(Message::Close(Some(CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        })));
    }

    /// Writes what waits, then reads. After [`Incoming::End`] the socket is to be dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        // A failed write shows as the end of the reading side, which may still hold the close frame that explains it.
        let _ = self.poll_write(cx);
        loop {
            let message = match ready!(self.ws.poll_next_unpin(cx)) {
                Some(Ok(message)) => message,
                Some(Err(WsError::ConnectionClosed)) | None => {
                    return Poll::Ready(Incoming::End(End::Cut));
                }
                Some(Err(_)) => return Poll::Ready(Incoming::End(End::Cut)),
            };
            match message {
                Message::Text(text) if self.pings.is_none() => {
                    return Poll::Ready(Incoming::Frame(ServerFrame::parse(&text)));
                }
                Message::Close(frame) => {
                    // The answer to the close frame is queued by now: give it a chance to leave.
                    let _ = self.ws.poll_flush_unpin(cx);
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    return Poll::Ready(Incoming::End(End::Closed { code }));
                }
                Message::Pong(payload) => {
                    if let Some(frame) = self.pings.as_mut().and_then(|pings| pings.answer(&payload)) {
                        return Poll::Ready(Incoming::Frame(frame));
                    }
                }
                Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Frame(_) => {}
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        while !self.outbox.is_empty() {
            ready!(self.ws.poll_ready_unpin(cx))?;
            if let Some(message) = self.outbox.pop_front() {
                self.ws.start_send_unpin(message)?;
            }
        }
        self.ws.poll_flush_unpin(cx)
    }
}

// === impl Pings ===

impl Pings {
    /// What a pong answers; `None` for one that answers no ping of ours.
    fn answer(&mut self, payload: &[u8]) -> Option<ServerFrame> {
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
