//! Services that lie, babble and flood: a session comes to an end of a known kind, or goes on; it never takes the program with it.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::client::Session;
use super::config::{Endpoint, SessionConfig};
use super::event::Event;
use super::testkit::Service;
use super::wire::{ServerFrame, SessionState};
use crate::hostile::{any_json, deep, spoilt};

/// Whatever is waited for comes within this time.
const LIMIT: Duration = Duration::from_secs(20);

const WELCOME: &str = r#"{"type":"welcome","session":"s-1","epoch":1,"resumed":false,"seq":0}"#;

/// A service that answers an upgrade with these bytes.
async fn service(bytes: Vec<u8>) -> SessionConfig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let _ = stream.write_all(&bytes).await;
                let mut rest = [0; 4096];
                while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    let endpoint = Endpoint::new("ws://chat.example.com/ws", "t")
        .unwrap()
        .connect_to(&address)
        .unwrap();
    SessionConfig::new(endpoint)
}

async fn first_failure(config: SessionConfig) -> String {
    let mut session = Session::new(Arc::new(config), None, None, 7);
    let failing = async {
        loop {
            if let Event::AttemptFailed(failure) = session.next().await {
                return failure.to_string();
            }
        }
    };
    timeout(LIMIT, failing).await.expect("an end")
}

#[rstest]
#[case::another_protocol(b"SSH-2.0-hello\r\n".to_vec())]
#[case::a_wrong_accept_key(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n".to_vec())]
#[case::headers_without_end({ let mut b = b"HTTP/1.1 101 X\r\n".to_vec(); b.extend(b"x-a: b\r\n".repeat(100_000)); b })]
#[case::one_header_without_end({ let mut b = b"HTTP/1.1 101 X\r\nx: ".to_vec(); b.extend([b'x'].repeat(4_000_000)); b })]
#[case::a_redirect(b"HTTP/1.1 302 Found\r\nLocation: ws://169.254.169.254/\r\nContent-Length: 0\r\n\r\n".to_vec())]
#[case::zeros(vec![0; 100_000])]
#[tokio::test]
async fn what_is_no_upgrade_fails_the_attempt(#[case] bytes: Vec<u8>) {
    let failure = first_failure(service(bytes).await).await;
    assert!(!failure.is_empty());
}

/// Frames after a proper upgrade and welcome. What no session can come of ends the socket; the rest is ignored.
#[rstest]
#[case::a_message_over_the_limit(format!("\"{}\"", "x".repeat(2 * 1024 * 1024)), true)]
#[case::nested_without_end(deep(50_000), false)]
#[case::no_json("{".to_owned(), false)]
#[case::another_type(r#"{"type":7}"#.to_owned(), false)]
#[case::a_second_welcome(WELCOME.to_owned(), false)]
#[case::the_greatest_number(json!({"type": "message", "seq": u64::MAX}).to_string(), false)]
#[case::an_answer_to_nobody(json!({"type": "message", "seq": 1, "id": "c-99999999999999999999"}).to_string(), false)]
#[case::a_notice_for_a_thousand_years(json!({"type": "wsroll.notice", "id": "x", "closeCode": 1012,
    "makeBeforeBreak": true, "reconnect": {"afterMs": u64::MAX, "withinMs": u64::MAX}}).to_string(), false)]
#[case::a_hint_that_is_no_header(json!({"type": "wsroll.notice", "id": "\r\n", "reconnect":
    {"header": "authorization: x", "query": "\u{0}", "path": "//evil.example.com"}}).to_string(), false)]
#[tokio::test]
async fn any_frame_is_read_or_ends_the_socket(#[case] text: String, #[case] ends: bool) {
    let service = Service::start().await;
    let mut config = service.config();
    config.make_before_break = true;
    let mut session = Session::new(Arc::new(config), None, None, 7);
    let serve = async {
        let mut peer = service.accept().await;
        peer.welcome(1, false, 0).await;
        // The socket may be gone by then.
        peer.try_send(&text).await;
        peer.try_send(r#"{"type":"message","seq":1}"#).await;
        peer
    };
    let seen = async {
        loop {
            match session.next().await {
                Event::Disconnected { .. } => return true,
                Event::Message { seq: 1 } | Event::Duplicate => return false,
                _ => {}
            }
        }
    };
    let (_peer, ended) = timeout(LIMIT, async { tokio::join!(serve, seen) })
        .await
        .expect("an end");
    assert_eq!(ended, ends);
}

/// A million of the smallest messages: nothing is kept of them but a number.
#[tokio::test]
async fn a_flood_of_messages_is_drunk_and_not_kept() {
    const MANY: u64 = 100_000;
    let service = Service::start().await;
    let mut session = Session::new(Arc::new(service.config()), None, None, 7);
    let serve = async {
        let mut peer = service.accept().await;
        peer.welcome(1, false, 0).await;
        for seq in 1..=MANY {
            peer.message(seq, None).await;
        }
        peer
    };
    let read = async {
        let mut read = 0;
        while read < MANY {
            if let Event::Message { seq } = session.next().await {
                read = seq;
            }
        }
    };
    timeout(Duration::from_mins(2), async { tokio::join!(serve, read) })
        .await
        .expect("all of them");
}

fn frames() -> impl Strategy<Value = Value> {
    prop_oneof![
        spoilt(serde_json::from_str(WELCOME).unwrap_or_default()),
        spoilt(json!({"type": "message", "seq": 1, "id": "c-1"})),
        spoilt(json!({"type": "state", "id": "c-1", "state": {"history": [{"text": "a"}], "tier": "x"}})),
        spoilt(
            json!({"type": "wsroll.notice", "id": "o", "closeCode": 1012, "makeBeforeBreak": true,
            "reconnect": {"afterMs": 1, "withinMs": 2, "query": "a=b", "path": "/p", "header": "x-a: b"}})
        ),
        spoilt(json!({"type": "error", "id": "c-1", "code": "stale"})),
        any_json(),
    ]
}

proptest! {
    #[test]
    fn any_frame_is_of_the_protocol_or_unknown(frame in frames(), text in ".{0,100}") {
        let _ = ServerFrame::parse(&frame.to_string());
        let _ = ServerFrame::parse(&text);
        if let Ok(state) = serde_json::from_value::<SessionState>(frame) {
            let _ = state.texts().count();
        }
    }
}
