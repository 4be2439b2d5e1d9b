//! Whoever can reach the sidecar's ports and means it ill: orders that are none, frames that are none, requests that never end.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::stage::{LIMIT, Stage, TOKEN, order, request, say};

/// Orders that are bad, however they look.
const MALFORMED: usize = 10_000;

/// A value that the field cannot have.
fn bad_value(field: &'static str) -> BoxedStrategy<Value> {
    let wrong_type = prop_oneof![
        // What an object has beyond its fields is ignored: there it is not wrong.
        Just(if field == "reconnect" {
            json!("x")
        } else {
            json!({"a": {"b": []}})
        }),
        Just(json!([[[[]]]])),
        any::<bool>().prop_map(Value::from),
    ];
    let out_of_bounds = match field {
        "id" => prop_oneof!["[ /?#%\u{0}-\u{1f}]{1,40}", "[a-z]{201,400}", Just(String::new())]
            .prop_map(Value::from)
            .boxed(),
        "ratePerSecond" => prop_oneof![
            Just(json!(0)),
            (-1e300..-1e-300).prop_map(Value::from),
            Just(json!(1e300))
        ]
        .boxed(),
        "leaseSeconds" => prop_oneof![
            Just(json!(0)),
            any::<i64>().prop_map(|n| json!(-n.saturating_abs())),
            (86_401_u64..).prop_map(Value::from)
        ]
        .boxed(),
        "deadlineMs" => prop_oneof![
            (604_800_001_u64..).prop_map(Value::from),
            Just(json!(-1)),
            Just(json!(1.5))
        ]
        .boxed(),
        "closeCode" => prop_oneof![
            (0_u16..1001).prop_map(Value::from),
            (1002_u16..1008).prop_map(Value::from),
            (5000_u64..).prop_map(Value::from)
        ]
        .boxed(),
        "select" => prop_oneof![
            Just(json!({"count": -1})),
            Just(json!({"fraction": 1.5})),
            Just(json!({"none": {}})),
            Just(json!({"all": {}, "count": 1}))
        ]
        .boxed(),
        "reconnect" => prop_oneof![
            Just(json!({"minMs": 5, "maxMs": 1})),
            Just(json!({"maxMs": u64::MAX})),
            Just(json!({"hint": {"query": "a b"}})),
            Just(json!({"hint": {"header": "x: y\r\nz: w"}})),
            Just(json!({"hint": {"url": "ws://evil"}}))
        ]
        .boxed(),
        _ => "[a-z]{0,9}x".prop_map(Value::from).boxed(),
    };
    prop_oneof![1 => wrong_type, 3 => out_of_bounds].boxed()
}

const FIELDS: [&str; 8] = [
    "id",
    "ratePerSecond",
    "leaseSeconds",
    "deadlineMs",
    "closeCode",
    "select",
    "mode",
    "reconnect",
];

/// Bodies of orders, none of which may begin.
fn malformed() -> impl Strategy<Value = Vec<u8>> {
    let field = prop::sample::select(FIELDS.to_vec());
    let spoilt = field.prop_flat_map(|field| {
        bad_value(field).prop_map(move |value| {
            let mut order = order("o");
            order[field] = value;
            order.to_string().into_bytes()
        })
    });
    let cut = (0..100_usize).prop_map(|end| {
        let order = order("o").to_string().into_bytes();
        order[..end.min(order.len() - 1)].to_vec()
    });
    prop_oneof![
        6 => spoilt,
        1 => cut,
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (1..3_000_usize).prop_map(|levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into_bytes()),
        1 => Just(br#"{"id":"o","ratePerSecond":1e999,"leaseSeconds":60}"#.to_vec()),
        1 => prop::sample::select(vec!["id", "ratePerSecond", "leaseSeconds"]).prop_map(|missing| {
            let mut order = order("o");
            order.as_object_mut().unwrap().remove(missing);
            order.to_string().into_bytes()
        }),
    ]
}

/// One connection that is kept.
struct Line(TcpStream);

impl Line {
    /// Puts an order; the answer's status and its body.
    async fn put(&mut self, body: &[u8]) -> (u16, String) {
        let head = format!(
            "PUT /wsroll/v1/drain HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(LIMIT, self.0.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(answer).unwrap().to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            String::from_utf8(body).unwrap(),
        )
    }
}

#[tokio::test]
async fn ten_thousand_malformed_orders_begin_nothing() {
    let stage = Stage::start(json!({})).await;
    let mut clients = stage.connect_many(5, "/ws").await;
    let mut line = Line(TcpStream::connect(stage.sidecar.drain_addr()).await.unwrap());
    let mut runner = TestRunner::new_with_rng(
        Cases::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    for n in 0..MALFORMED {
        let body = malformed().new_tree(&mut runner).unwrap().current();
        let (status, answer) = line.put(&body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        assert!(
            (400..500).contains(&status),
            "order {n} {shown} got {status} {answer}"
        );
        assert!(
            answer.contains("error") && answer.len() < 2_000,
            "order {n} {shown} got {answer}"
        );
    }
    let report = stage.sessions().await;
    assert_eq!(
        (report["open"].as_u64(), report.get("drain")),
        (Some(5), None),
        "{report}"
    );
    for client in &mut clients {
        say(client, "still here").await;
    }
    assert_eq!(
        stage.order(&order("o")).await["state"],
        "active",
        "a sound one is still taken"
    );
}

#[tokio::test]
async fn an_order_that_is_too_large_or_never_ends_is_refused() {
    let stage = Stage::start(json!({})).await;
    let port = stage.sidecar.drain_addr();
    let large = format!("{}{}", " ".repeat(65_600), order("o"));
    // Whoever is refused in the middle of a body may see the connection's end before the answer.
    let (status, _) = request(port, "PUT", "/wsroll/v1/drain", TOKEN, &large).await;
    assert_eq!(status, 413);
    let mut stream = TcpStream::connect(port).await.unwrap();
    let head = format!(
        "PUT /wsroll/v1/drain HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 500\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("an end");
    assert!(
        String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408"),
        "{answer:?}"
    );
    assert_eq!(stage.sessions().await.get("drain"), None);
}

/// More connections than the drain port serves, none of which says anything: the operator's turn comes when their time is over.
#[tokio::test]
async fn the_silent_do_not_keep_the_drain_port() {
    let stage = Stage::start(json!({})).await;
    let mut silent = Vec::new();
    for _ in 0..80 {
        let mut stream = TcpStream::connect(stage.sidecar.drain_addr()).await.unwrap();
        stream.write_all(b"GET /wsroll").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(
        timeout(LIMIT, stage.sessions()).await.expect("an answer")["open"],
        0
    );
}

/// Bytes that are no frames are between the two ends: they pass as they are, or end that session; nobody else's.
#[tokio::test]
async fn frames_that_are_none_harm_nobody_else() {
    let stage = Stage::start(json!({"notices": [{"declaredByQuery": "notice=1", "format": "Json"}]})).await;
    let mut good = stage.connect_many(3, "/ws").await;
    let mut runner = TestRunner::new_with_rng(
        Cases::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let chunk = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..4_000),
        // A frame of 2^63 bytes, a control frame of that size, a close with half a code, a pong that looks like ours.
        Just([&[0x82, 0xff][..], &[0x7f; 8], &[0; 4], &[1; 100]].concat()),
        Just([&[0x89, 0xff][..], &[0xff; 8], &[0; 4], &[1; 100]].concat()),
        Just(vec![0x88, 0x81, 0, 0, 0, 0, 3]),
        Just([&[0x8a, 0x86, 0, 0, 0, 0][..], b"wsroll"].concat()),
        Just(vec![0x81, 0x80]),
    ];
    for n in 0..300 {
        let mut stream = stage.tcp().await;
        let path = ["/ws", "/ws?notice=1"][n % 2];
        let upgrade = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        for _ in 0..3 {
            let bytes = chunk.new_tree(&mut runner).unwrap().current();
            let _ = stream.write_all(&bytes).await;
        }
    }
    for client in &mut good {
        say(client, "hello").await;
    }
    stage
        .until("only the good are left", |report| report["open"] == 3)
        .await;
    assert_eq!(
        stage.metric("wsroll_sidecar_pending_bytes").await,
        0,
        "nothing is kept of the others"
    );
    for client in &mut good {
        say(client, "still here").await;
    }
}

/// Half a frame, and then nothing: an order closes that session in time all the same.
#[tokio::test]
async fn an_order_reaches_a_session_in_the_middle_of_a_frame() {
    let stage = Stage::start(json!({})).await;
    let mut stream = stage.tcp().await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    stream.write_all(&[0x82, 0xff, 0x7f, 0, 0, 0]).await.unwrap();
    stage.until("open", |report| report["open"] == 1).await;
    stage.order(&order("o")).await;
    stage.until("closed", |report| report["open"] == 0).await;
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
    assert!(end.await.is_ok(), "the socket ends");
}
