//! Limits: on heads, on time, on connections, and on what a slow reader makes the sidecar keep.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::stage::{LIMIT, Stage, exchange, say};

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let stage = Stage::start(json!({"limits": {"handshakeTimeoutMs": 300}})).await;
    let mut stream = stage.tcp().await;
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    // Drop by drop does not help: the time is for the whole head.
    let drops = async {
        while stream.write_all(b"X-A: b\r\n").await.is_ok() {
            if timeout(Duration::from_millis(50), stream.read_to_end(&mut rest))
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    timeout(LIMIT, drops).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("200"), "{rest:?}");
    assert!(stage.application.seen.heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn heads_have_a_limit() {
    for (limit, size) in [(2048, 3000), (16_384, 20_000)] {
        let stage = Stage::start(json!({"limits": {"headerBytes": limit}})).await;
        let big = format!(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Big: {}\r\n\r\n",
            "x".repeat(size)
        );
        let answer = exchange(stage.tcp().await, &big).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{limit}: {answer}");
        assert!(stage.application.seen.heads.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn over_the_limit_of_connections_clients_are_told_to_come_back() {
    let stage = Stage::start(json!({"limits": {"connections": 2}})).await;
    let clients = stage.connect_many(2, "/ws").await;
    assert_eq!(stage.sessions().await["accepting"], false);
    let answer = exchange(stage.tcp().await, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("Retry-After: 1\r\n") && answer.ends_with("too many connections\n"),
        "{answer}"
    );
    let report = stage.sessions().await;
    assert_eq!(
        (report["open"].as_u64(), report["totals"]["refused"].as_u64()),
        (Some(2), Some(1))
    );
    drop(clients);
    stage
        .until("accepting again", |report| report["accepting"] == true)
        .await;
    say(&mut stage.connect("/ws").await, "hello").await;
}

#[tokio::test]
async fn an_application_that_never_answers_a_handshake_is_not_waited_for() {
    // A listener that nobody accepts from takes the connection and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut application = crate::stage::Application::start().await;
    application.address = silent.local_addr().unwrap();
    let stage = Stage::before(application, json!({"limits": {"handshakeTimeoutMs": 300}})).await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = exchange(stage.tcp().await, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_application_and_not_the_sidecar() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/raw").await.into_inner();
    let mut application = stage.application.raw().await;
    let message = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &vec![7; 65_536]].concat();
    let mut sent = 0;
    // What the sockets' own buffers hold is some megabytes; then writing stops.
    while let Ok(written) = timeout(Duration::from_secs(1), application.write_all(&message)).await {
        written.unwrap();
        sent += message.len();
        assert!(sent < 100_000_000, "the sidecar takes everything");
    }
    let passed = stage.metric("wsroll_sidecar_application_sent_bytes_total").await;
    let pending = stage.metric("wsroll_sidecar_pending_bytes").await;
    assert!(pending > 0 && pending <= 65_536, "{pending} of {passed}");
    // It reads again: everything comes, and nothing is kept.
    let mut got = vec![0; 1 << 16];
    let mut total = 0;
    while total < sent {
        total += timeout(LIMIT, client.read(&mut got)).await.unwrap().unwrap();
    }
    assert_eq!(stage.metric("wsroll_sidecar_pending_bytes").await, 0);
}
