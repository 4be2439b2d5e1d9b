//! Orders that are none: nothing begins, and whoever asks is told what is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use serde_json::{Value, json};
use support::{Backend, Dial, drain, request, sessions};

const ORDERS: &str = "/wsroll/v1/drain";
/// Rounds over all bad values.
const ROUNDS: usize = 250;

fn order() -> Value {
    json!({"id": "o", "reason": "rollout", "ratePerSecond": 20, "leaseSeconds": 30})
}

fn bad() -> Vec<Value> {
    let mut all = vec![json!(null), json!([]), json!("x"), json!({}), json!(7)];
    for (field, values) in [
        (
            "id",
            json!(["", "a b", "a/b", "x".repeat(201), 7, null, {}, [[[[]]]]]),
        ),
        ("ratePerSecond", json!([0, -1, 1e300, "x", null, [], 10_001])),
        ("leaseSeconds", json!([0, -1, u64::MAX, 1.5, "30", null, {}])),
        ("deadlineMs", json!([-1, u64::MAX, "x", {}])),
        (
            "closeCode",
            json!([0, 1000, 1005, 1006, 1015, 70_000, -1, "1012"]),
        ),
        (
            "select",
            json!([{"count": -1}, {"fraction": 2}, {"none": 1}, [], 7]),
        ),
        ("mode", json!(["now", 7, {}])),
        ("onDeadline", json!(["never", 7])),
        (
            "reconnect",
            json!([{"minMs": 5, "maxMs": 1}, {"maxMs": u64::MAX}, {"hint": {"url": "x"}}, 7]),
        ),
    ] {
        for value in values.as_array().unwrap() {
            let mut order = order();
            order[field] = value.clone();
            all.push(order);
        }
    }
    all
}

#[tokio::test]
async fn malformed_orders_begin_nothing() {
    let backend = Backend::memory();
    let server = backend.server().await;
    let _client = Dial::user("u").connect(&server).await;
    let bad = bad();
    let mut sent = 0;
    for _ in 0..ROUNDS {
        for order in &bad {
            let (status, body) = drain(&server, "PUT", ORDERS, Some(order)).await;
            assert!((400..500).contains(&status), "{order} got {status} {body}");
            assert!(body["error"].is_string(), "{order} got {body}");
            sent += 1;
        }
    }
    assert!(sent >= 10_000, "{sent}");
    let report = sessions(&server).await;
    assert_eq!(
        (report["open"].as_u64(), report.get("drain")),
        (Some(1), None),
        "{report}"
    );
    let port = server.drain_addr().unwrap();
    assert_eq!(
        request(port, "PUT", ORDERS, None, Some(order().to_string()))
            .await
            .0,
        401
    );
}
