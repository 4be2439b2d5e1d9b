//! One open socket: frames in, frames out. What is spoken on it is the business of [`Tongue`].

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::dial::{Phases, Stream};
use super::dialect::{Missed, Tongue};
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
    tongue: Tongue,
}

/// What came out of a socket.
#[derive(Debug)]
pub(super) enum Incoming {
    Frame(ServerFrame),
    End(End),
}

impl Socket {
    /// An accepted upgrade.
    pub(super) fn new(ws: WebSocketStream<Stream>, phases: Phases, tongue: Tongue, now: Instant) -> Self {
        Self {
            ws,
            outbox: VecDeque::new(),
            opened_at: now,
            phases,
            noticed: false,
            tongue,
        }
    }

    /// Queues a request; it leaves with the next poll.
    pub(super) fn ask(&mut self, request: Unsent) {
        self.tongue.ask(request, &mut self.outbox);
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

    /// When the step of a script that is waited for is overdue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.tongue.deadline()
    }

    /// The step of a script that is overdue.
    pub(super) fn overdue(&self, now: Instant) -> Option<Missed> {
        self.tongue.overdue(now)
    }

    /// It is of no use, and no welcome came on it.
    pub(super) fn ended_early(&mut self) {
        self.tongue.ended_early();
    }

    /// Writes what waits, then reads. After [`Incoming::End`] the socket is to be dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            let said = self.tongue.advance(Instant::now(), &mut self.outbox);
            // A failed write shows as the end of the reading side, which may still hold the close frame that explains it.
            let _ = self.poll_write(cx);
            if let Some(frame) = said {
                return Poll::Ready(Incoming::Frame(frame));
            }
            let message = match ready!(self.ws.poll_next_unpin(cx)) {
                Some(Ok(message)) => message,
                Some(Err(WsError::ConnectionClosed)) | None => {
                    return Poll::Ready(Incoming::End(End::Cut));
                }
                Some(Err(_)) => return Poll::Ready(Incoming::End(End::Cut)),
            };
            if let Message::Close(frame) = message {
                // The answer to the close frame is queued by now: give it a chance to leave.
                let _ = self.ws.poll_flush_unpin(cx);
                let code = frame.map_or(1005, |frame| frame.code.into());
                return Poll::Ready(Incoming::End(End::Closed { code }));
            }
            if let Some(frame) = self.tongue.hear(&message, &mut self.outbox) {
                return Poll::Ready(Incoming::Frame(frame));
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
        // What the last messages needed is not what the next hour needs.
        self.outbox = VecDeque::new();
        self.ws.poll_flush_unpin(cx)
    }
}
