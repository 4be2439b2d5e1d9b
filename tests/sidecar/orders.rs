//! The drain port: keys, bad orders, health.

use serde_json::{Value, json};
use wsroll::drain::identity::{IdentityKey, mac};

use crate::stage::{Stage, TOKEN, order, request, to_the_end};

#[tokio::test]
async fn every_resource_asks_for_its_key() {
    let stage = Stage::start(json!({})).await;
    let port = stage.sidecar.drain_addr();
    for (method, path) in [
        ("GET", "/wsroll/v1/sessions"),
        ("PUT", "/wsroll/v1/drain"),
        ("DELETE", "/wsroll/v1/drain/x"),
        ("GET", "/wsroll/v1/events"),
        ("GET", "/wsroll/v1/prestop"),
    ] {
        for token in ["", "wrong", "drain-toke", "drain-token2"] {
            assert_eq!(
                request(port, method, path, token, "").await.0,
                401,
                "{method} {path} {token}"
            );
        }
    }
    assert_eq!(
        request(port, "GET", "/wsroll/v1/prestop", TOKEN, "").await.0,
        401,
        "it has a key of its own"
    );
    assert_eq!(
        request(port, "GET", "/healthz", "", "").await,
        (200, "ok".to_owned())
    );
    assert_eq!(
        request(port, "GET", "/wsroll/v2/sessions", TOKEN, "").await.0,
        404
    );
    assert_eq!(request(port, "GET", "/", TOKEN, "").await.0, 404);
    assert_eq!(request(port, "POST", "/wsroll/v1/drain", TOKEN, "").await.0, 405);
}

#[tokio::test]
async fn a_bad_order_is_refused_with_the_fields_name_and_starts_nothing() {
    let stage = Stage::start(json!({})).await;
    let _clients = stage.connect_many(3, "/ws").await;
    for (field, value) in [
        ("id", json!("a b")),
        ("ratePerSecond", json!(0)),
        ("leaseSeconds", json!("x")),
        ("select", json!({"none": 1})),
        ("mode", json!("now")),
        ("onDeadline", json!(7)),
        ("closeCode", json!(1000)),
        ("reconnect", json!({"minMs": 5, "maxMs": 1})),
    ] {
        let mut bad = order("o");
        bad[field] = value;
        let (status, answer) = stage.call("PUT", "/wsroll/v1/drain", &bad).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"].as_str().unwrap().starts_with(field), "{answer}");
    }
    let report = stage.sessions().await;
    assert_eq!((&report["open"], &report["drain"]), (&json!(3), &Value::Null));
    let huge = json!({"id": "x".repeat(100_000)});
    assert_eq!(stage.call("PUT", "/wsroll/v1/drain", &huge).await.0, 413);
}

#[tokio::test]
async fn the_report_has_what_the_operator_reads() {
    let stage = Stage::start(json!({"pingIntervalMs": 60000})).await;
    let _clients = stage.connect_many(2, "/ws").await;
    let report = stage.sessions().await;
    assert_eq!(
        (&report["open"], &report["dormant"], &report["accepting"]),
        (&json!(2), &json!(0), &json!(true))
    );
    assert_eq!(
        (&report["revision"], &report["totals"]["accepted"]),
        (&json!("7f9c"), &json!(2))
    );
    assert!(
        report["oldestMs"].is_u64() && report["instance"].is_string(),
        "{report}"
    );
    // Only the application knows whether a session was resumed.
    assert!(report["totals"]["resumed"].is_null(), "{report}");
}

#[tokio::test]
async fn the_same_order_again_is_the_same_order() {
    let stage = Stage::start(json!({})).await;
    let mut clients = stage.connect_many(3, "/ws").await;
    let mut slow = order("o");
    slow["ratePerSecond"] = json!(0.1);
    for _ in 0..3 {
        assert_eq!(stage.order(&slow).await["eligible"], 3);
    }
    slow["ratePerSecond"] = json!(100);
    assert_eq!(stage.order(&slow).await["ratePerSecond"], 100.0);
    for client in &mut clients {
        assert_eq!(to_the_end(client).await.1, 1012);
    }
}

#[tokio::test]
async fn the_pre_stop_hook_drains_and_answers_when_it_is_done() {
    let stage =
        Stage::start(json!({"shutdown": {"ratePerSecond": 5.0, "withinMs": 1000, "closeCode": 1001}})).await;
    let clients = stage.connect_many(40, "/ws").await;
    let ends: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { to_the_end(&mut client).await.1 }))
        .collect();
    let key = hex::encode(mac(&IdentityKey::new(TOKEN), "prestop:", ""));
    let (status, answer) = request(stage.sidecar.drain_addr(), "GET", "/wsroll/v1/prestop", &key, "").await;
    let report: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &report["drain"]["ratePerSecond"]), (200, &json!(40.0)));
    for end in ends {
        assert_eq!(end.await.unwrap(), 1001);
    }
}

#[tokio::test]
async fn the_pre_stop_hook_hastens_an_order_that_is_at_work() {
    let stage = Stage::start(json!({"shutdown": {"ratePerSecond": 200.0, "withinMs": 3000}})).await;
    let clients = stage.connect_many(20, "/ws").await;
    let mut slow = order("o");
    slow["ratePerSecond"] = json!(0.1);
    stage.order(&slow).await;
    let ends: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { to_the_end(&mut client).await }))
        .collect();
    let key = hex::encode(mac(&IdentityKey::new(TOKEN), "prestop:", ""));
    let (status, answer) = request(stage.sidecar.drain_addr(), "GET", "/wsroll/v1/prestop", &key, "").await;
    let report: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (status, &report["drain"]["id"], &report["open"]),
        (200, &json!("o"), &json!(0))
    );
    for end in ends {
        assert_eq!(end.await.unwrap(), (vec![], 1012, "o".to_owned()));
    }
}
