//! One open socket: frames in, frames out.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::dial::{Dialed, Phases, Stream};
use super::event::End;
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
}

/// What came out of a socket.
#[derive(Debug)]
pub(super) enum Incoming {
    Frame(ServerFrame),
    End(End),
}

impl Socket {
    pub(super) fn new(dialed: Dialed, now: Instant) -> Self {
        Self {
            ws: dialed.socket,
            outbox: VecDeque::new(),
            opened_at: now,
            phases: dialed.phases,
            noticed: false,
        }
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
                Message::Text(text) => {
                    return Poll::Ready(Incoming::Frame(ServerFrame::parse(&text)));
                }
                Message::Close(frame) => {
                    // The answer to the close frame is queued by now: give it a chance to leave.
                    let _ = self.ws.poll_flush_unpin(cx);
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    return Poll::Ready(Incoming::End(End::Closed { code }));
                }
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
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
