//! A tiny service for tests: one socket at a time, played by hand over a real TCP connection.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::config::{Endpoint, SessionConfig};

/// Longer than anything that a test waits for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Accepts sockets on a port of its own.
pub(crate) struct Service {
    listener: TcpListener,
}

/// The service's end of one socket.
pub(crate) struct Peer {
    ws: WebSocketStream<TcpStream>,
    /// Path and query of the upgrade.
    pub(crate) target: String,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    pub(crate) fn config(&self) -> SessionConfig {
        let endpoint = Endpoint::new("ws://chat.example.com/ws", "wsroll-test/0")
            .unwrap()
            .connect_to(&self.address())
            .unwrap();
        SessionConfig::new(endpoint)
    }

    /// The next upgrade, accepted.
    #[allow(clippy::result_large_err)] // the signature is tungstenite's
    pub(crate) async fn accept(&self) -> Peer {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("a connection")
            .unwrap();
        let mut target = String::new();
        let note = |request: &Request, response: Response| {
            target = request.uri().to_string();
            Ok(response)
        };
        let ws = tokio_tungstenite::accept_hdr_async(tcp, note).await.unwrap();
        Peer { ws, target }
    }

    /// The next connection, cut without an answer.
    pub(crate) async fn cut(&self) {
        drop(
            timeout(PATIENCE, self.listener.accept())
                .await
                .expect("a connection"),
        );
    }
}

impl Peer {
    pub(crate) async fn send(&mut self, frame: Value) {
        self.ws.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Sends a text as it is, to whoever still reads.
    pub(crate) async fn try_send(&mut self, text: &str) {
        let _ = self.ws.send(Message::text(text)).await;
    }

    pub(crate) async fn welcome(&mut self, epoch: u64, resumed: bool, seq: u64) {
        self.send(
            json!({"type": "welcome", "session": "s-1", "epoch": epoch, "revision": "v1",
            "pod": "p", "resumed": resumed, "seq": seq}),
        )
        .await;
    }

    pub(crate) async fn message(&mut self, seq: u64, id: Option<&str>) {
        self.send(json!({"type": "message", "seq": seq, "id": id, "text": ""}))
            .await;
    }

    pub(crate) async fn notice(&mut self, after_ms: u64, make_before_break: bool) {
        self.send(json!({"type": "wsroll.notice", "v": 1, "id": "order-1",
            "reconnect": {"afterMs": after_ms, "withinMs": 0, "query": "wsroll=hint"},
            "closeCode": 1012, "makeBeforeBreak": make_before_break}))
            .await;
    }

    /// The next frame, read as JSON; `None` when the socket ends.
    pub(crate) async fn receive(&mut self) -> Option<Value> {
        loop {
            let message = timeout(PATIENCE, self.ws.next()).await.expect("a frame");
            match message {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).ok(),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Reads, and so answers pings, until the client leaves; how many messages came.
    pub(crate) async fn read_to_end(mut self) -> usize {
        let mut messages = 0;
        while let Some(Ok(message)) = timeout(PATIENCE, self.ws.next()).await.expect("an end") {
            messages += usize::from(message.is_text() || message.is_binary());
        }
        messages
    }

    pub(crate) async fn close(mut self, code: u16) {
        let frame = CloseFrame {
            code: code.into(),
            reason: "".into(),
        };
        let _ = self.ws.close(Some(frame)).await;
        while let Some(Ok(_)) = self.ws.next().await {}
    }
}
