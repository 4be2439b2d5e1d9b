//! The account of sessions: who came, who went, as keyed hashes.

use serde_json::{Value, json};
use wsroll::drain::identity::{IdentityKey, hash};

use crate::stage::{Stage, order, say, to_the_end};

#[tokio::test]
async fn arrivals_and_releases_are_told_by_hash() {
    let stage = Stage::start(json!({"session": {"query": "sid"}})).await;
    let mut moved = stage.connect("/ws?sid=alice").await;
    let mut left = stage.connect("/ws?sid=bob").await;
    let mut nobody = stage.connect("/ws").await;
    say(&mut nobody, "hello").await;
    left.close(None).await.unwrap();
    to_the_end(&mut left).await;
    stage.until("left", |report| report["open"] == 2).await;
    stage.order(&order("o-1")).await;
    assert_eq!(to_the_end(&mut moved).await.1, 1012);
    to_the_end(&mut nobody).await;
    stage
        .until("done", |report| report["drain"]["state"] == "done")
        .await;

    let (status, report) = stage.call("GET", "/wsroll/v1/events?after=0", &Value::Null).await;
    assert_eq!(
        (status, &report["lost"], &report["next"]),
        (200, &json!(0), &json!(4))
    );
    let key = IdentityKey::new("identity-key");
    let (alice, bob) = (hash(&key, "alice"), hash(&key, "bob"));
    let told: Vec<_> = report["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or("").to_owned();
            (text("kind"), text("session"), text("how"), text("order"))
        })
        .collect();
    let row = |kind: &str, session: &str, how: &str, order: &str| {
        (
            kind.to_owned(),
            session.to_owned(),
            how.to_owned(),
            order.to_owned(),
        )
    };
    assert_eq!(
        told,
        [
            row("arrived", &alice, "", ""),
            row("arrived", &bob, "", ""),
            row("released", &bob, "left", ""),
            row("released", &alice, "moved", "o-1"),
        ]
    );
    let (_, rest) = stage.call("GET", "/wsroll/v1/events?after=3", &Value::Null).await;
    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    assert_eq!(rest["instance"], report["instance"]);
    assert_eq!(
        stage
            .call("GET", "/wsroll/v1/events?after=x", &Value::Null)
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn without_an_identity_there_are_no_events() {
    let stage = Stage::start(json!({})).await;
    assert_eq!(
        stage
            .call("GET", "/wsroll/v1/events?after=0", &Value::Null)
            .await
            .0,
        404
    );
}
