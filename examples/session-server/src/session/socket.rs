//! A WebSocket with bounded waits: every write and the closing handshake end in time.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::registry::Ending;
use crate::config::Limits;

/// Bytes in a socket's read and in its write buffer: small, since most sockets are idle most of the time.
const BUFFER: usize = 4096;
/// A close frame's reason has at most so many bytes.
const MAX_REASON: usize = 123;

/// The socket.
pub(super) struct Socket<S> {
    ws: WebSocketStream<S>,
    write_timeout: Duration,
    close_timeout: Duration,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message; the protocol has none.
    Binary,
    /// A ping or pong: the client is there.
    Sign,
    /// The client closes, with this code (1005 if it named none).
    Close(u16),
    /// The client broke the protocol or a bound; close with this code.
    Violation(u16),
    /// The socket is gone.
    Cut,
}

/// Why a message did not go out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The reader was too slow.
    Slow,
    /// The socket is gone.
    Cut,
}

// === impl Socket ===

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Wraps a connection that was upgraded; `early` is what the client sent already.
    pub(super) async fn new(io: S, early: Vec<u8>, limits: &Limits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_write_buffer_size(BUFFER + 16 * limits.max_message)
            .max_message_size(Some(limits.max_message))
            .max_frame_size(Some(limits.max_message));
        let ws = WebSocketStream::from_partially_read(io, early, Role::Server, Some(config)).await;
        Self {
            ws,
            write_timeout: limits.write_timeout,
            close_timeout: limits.close_timeout,
        }
    }

    /// The next frame. Cancel-safe.
    pub(super) async fn next(&mut self) -> Incoming {
        use tokio_tungstenite::tungstenite::Error;
        match self.ws.next().await {
            Some(Ok(Message::Text(text))) => Incoming::Text(text),
            Some(Ok(Message::Binary(_))) => Incoming::Binary,
            Some(Ok(Message::Close(frame))) => Incoming::Close(frame.map_or(1005, |frame| frame.code.into())),
            Some(Ok(_)) => Incoming::Sign,
            Some(Err(Error::Capacity(_))) => Incoming::Violation(1009),
            Some(Err(Error::Utf8(_))) => Incoming::Violation(1007),
            Some(Err(Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            ))) => Incoming::Cut,
            Some(Err(Error::Protocol(_))) => Incoming::Violation(1002),
            Some(Err(_)) | None => Incoming::Cut,
        }
    }

    /// Sends one message and flushes it.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<(), SendError> {
        // The messages are our own types, which always serialize.
        let text = serde_json::to_string(message).map_err(|_| SendError::Cut)?;
        self.flush(Message::text(text)).await
    }

    /// Asks the client for a sign.
    pub(super) async fn ping(&mut self) -> Result<(), SendError> {
        self.flush(Message::Ping(Bytes::new())).await
    }

    async fn flush(&mut self, message: Message) -> Result<(), SendError> {
        match time::timeout(self.write_timeout, self.ws.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SendError::Cut),
            Err(_) => Err(SendError::Slow),
        }
    }

    /// Closes from this side: everything sent before is flushed, then the client's half is awaited. What the client
    /// still says is read and dropped; it will say it again on its next socket, under the same ids.
    pub(super) async fn close(mut self, code: u16, reason: &str) -> Ending {
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: shorten(reason).into(),
        };
        // A reader that takes nothing will not take a close frame: do not wait for it as long as for a message.
        let sent = time::timeout(self.close_timeout, self.ws.close(Some(frame))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return Ending::CUT;
        }
        let clean = time::timeout(self.close_timeout, async {
            loop {
                match self.next().await {
                    Incoming::Close(_) => break true,
                    Incoming::Cut | Incoming::Violation(_) => break false,
                    Incoming::Text(_) | Incoming::Binary | Incoming::Sign => {}
                }
            }
        });
        let clean = clean.await.unwrap_or(false);
        if clean {
            self.finish().await;
        }
        Ending {
            code,
            clean,
            forced: false,
            by_client: false,
        }
    }

    /// Answers a close that the client began with `code`.
    pub(super) async fn answer_close(mut self, code: u16) -> Ending {
        self.finish().await;
        Ending {
            code,
            clean: true,
            forced: false,
            by_client: true,
        }
    }

    /// Flushes what the protocol still owes the client, and lets it end the connection first.
    async fn finish(&mut self) {
        let _ = time::timeout(self.close_timeout, async {
            let _ = self.ws.flush().await;
            while self.ws.next().await.is_some_and(|item| item.is_ok()) {}
        })
        .await;
    }
}

/// Cuts at a character boundary.
fn shorten(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn reasons_fit_into_a_control_frame() {
        assert_eq!(super::shorten("short"), "short");
        let long = format!("{}é", "x".repeat(122));
        assert_eq!(super::shorten(&long).len(), 122);
    }
}
