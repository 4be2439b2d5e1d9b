//! Plain HTTP, and handshakes that the application refuses.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stage::{Stage, exchange, request};

#[tokio::test]
async fn requests_and_bodies_pass_both_ways() {
    let stage = Stage::start(json!({})).await;
    let address = stage.sidecar.traffic_addr();
    let (status, head) = request(address, "GET", "/some/path?q=1", "t", "").await;
    assert_eq!(status, 200);
    assert!(head.starts_with("GET /some/path?q=1\n"), "{head}");
    assert!(head.contains("host: test\n"), "{head}");
    let (status, body) = request(address, "POST", "/body", "t", &"x".repeat(100_000)).await;
    assert_eq!((status, body.len()), (200, 100_000));
    assert_eq!(stage.sidecar.open(), 0);
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_streams_chunks() {
    let stage = Stage::start(json!({})).await;
    let mut stream = stage.tcp().await;
    for n in 0..3 {
        stream
            .write_all(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(b"5\r\nhello\r\n").await.unwrap();
        // The first chunk is back before the second is sent.
        let first = read_until(&mut stream, "5\r\nhello\r\n").await;
        assert!(first.starts_with("HTTP/1.1 200"), "request {n}: {first}");
        assert!(
            first.to_lowercase().contains("transfer-encoding: chunked"),
            "{first}"
        );
        stream.write_all(b"6\r\n world\r\n0\r\n\r\n").await.unwrap();
        read_until(&mut stream, "6\r\n world\r\n0\r\n\r\n").await;
    }
}

async fn read_until(stream: &mut tokio::net::TcpStream, end: &str) -> String {
    let mut got = String::new();
    while !got.ends_with(end) {
        let byte = tokio::time::timeout(crate::stage::LIMIT, stream.read_u8()).await;
        got.push(byte.unwrap_or_else(|_| panic!("{got}")).unwrap().into());
    }
    got
}

#[tokio::test]
async fn who_the_client_is_comes_from_the_proxies_that_are_believed() {
    for (hops, expected) in [(0, "127.0.0.1"), (1, "2.2.2.2"), (2, "1.1.1.1, 2.2.2.2")] {
        let stage = Stage::start(json!({"trustedHops": hops})).await;
        let head = "GET /headers HTTP/1.1\r\nHost: h\r\nConnection: close, X-Drop\r\nX-Drop: 1\r\n\
                    X-Forwarded-For: 9.9.9.9, 1.1.1.1, 2.2.2.2\r\nX-Forwarded-Proto: https\r\n\r\n";
        let answer = exchange(stage.tcp().await, head).await;
        assert!(
            answer.contains(&format!("x-forwarded-for: {expected}\n")),
            "{hops}: {answer}"
        );
        let proto = if hops == 0 { "http" } else { "https" };
        assert!(
            answer.contains(&format!("x-forwarded-proto: {proto}\n")),
            "{hops}: {answer}"
        );
        assert!(!answer.contains("x-drop"), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_to_head_keeps_its_length() {
    let stage = Stage::start(json!({})).await;
    let head = "HEAD /path HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let through = exchange(stage.tcp().await, head).await.to_lowercase();
    assert!(through.starts_with("http/1.1 200"), "{through}");
    assert!(through.contains("content-length: "), "{through}");
    assert!(through.ends_with("\r\n\r\n"), "{through}");
}

#[tokio::test]
async fn a_handshake_that_the_application_refuses_is_refused_in_its_words() {
    let stage = Stage::start(json!({})).await;
    let upgrade = "GET /refuse HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = stage.tcp().await;
    // The connection goes on, as HTTP.
    for _ in 0..2 {
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "not you").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    let report = stage.sessions().await;
    assert_eq!(
        (report["open"].as_u64(), report["totals"]["refused"].as_u64()),
        (Some(0), Some(0))
    );
}

#[tokio::test]
async fn an_upgrade_to_something_else_is_a_plain_request() {
    let stage = Stage::start(json!({})).await;
    let head = "GET /headers HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n";
    let answer = exchange(stage.tcp().await, head).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("h2c"), "{answer}");
}
