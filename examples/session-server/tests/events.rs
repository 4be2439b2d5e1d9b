//! Who came and who went, as the drain port tells it; busy clients; hints; and a server that is slow to restore.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use session_server::{
    Server,
    store::{MemoryStore, Store},
};
use support::{Backend, Dial, drain, eventually, sessions};
use tokio::time::sleep;

const EVENTS: &str = "/wsroll/v1/events";
const ORDERS: &str = "/wsroll/v1/drain";

async fn telling(backend: &Backend) -> Server {
    Server::start(backend.config().with_identity_key("key"))
        .await
        .unwrap()
}

async fn page(server: &Server, after: u64) -> Value {
    let (status, body) = drain(server, "GET", &format!("{EVENTS}?after={after}"), None).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// The events, each as `(kind, how, resumed)`, by session.
fn by_session(page: &Value) -> BTreeMap<String, Vec<[Value; 3]>> {
    let mut sessions = BTreeMap::<_, Vec<_>>::new();
    for event in page["events"].as_array().unwrap() {
        let told = ["kind", "how", "resumed"].map(|field| event[field].clone());
        let session = event["session"].as_str().unwrap().to_owned();
        sessions.entry(session).or_default().push(told);
    }
    sessions
}

fn order(changes: &Value) -> Value {
    let mut order =
        json!({"id": "r1-w1-u", "ratePerSecond": 50, "leaseSeconds": 30, "reconnect": {"maxMs": 100}});
    for (key, value) in changes.as_object().unwrap() {
        order[key] = value.clone();
    }
    order
}

async fn put(server: &Server, changes: &Value) {
    let (status, body) = drain(server, "PUT", ORDERS, Some(&order(changes))).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn without_the_key_no_events_are_told() {
    let server = Backend::memory().server().await;
    assert_eq!(drain(&server, "GET", EVENTS, None).await.0, 404);
    let server = telling(&Backend::memory()).await;
    assert_eq!(
        drain(&server, "GET", &format!("{EVENTS}?after=x"), None).await.0,
        400
    );
    assert_eq!(page(&server, 0).await["next"], 0);
}

#[tokio::test]
async fn every_session_of_a_drain_is_told_where_it_went_and_where_it_came() {
    let backend = Backend::memory();
    let (old, new) = (telling(&backend).await, telling(&backend).await);
    let mut clients = Vec::new();
    for n in 0..20 {
        let dial = Dial::user(&format!("user-{n}"));
        let dial = if n % 2 == 0 { dial.notices() } else { dial };
        clients.push(dial.connect(&old).await);
    }
    put(&old, &json!({})).await;
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.until_closed().await.1, 1012);
        let dial = Dial::user(&format!("user-{n}")).resume(&client.session, 0);
        *client = dial.connect(&new).await;
        assert!(client.resumed);
    }
    eventually("all are told", async || page(&old, 0).await["next"] == 40).await;
    let (left, came) = (page(&old, 0).await, page(&new, 0).await);
    let (left, came) = (by_session(&left), by_session(&came));
    assert_eq!((left.len(), came.len()), (20, 20));
    for (session, told) in left {
        assert_eq!(session.len(), 16);
        let arrived = [json!("arrived"), Value::Null, Value::Null];
        let moved = [json!("released"), json!("moved"), Value::Null];
        assert_eq!(told, [arrived, moved]);
        let arrived = [json!("arrived"), Value::Null, json!(true)];
        assert_eq!(came[&session], [arrived], "the same hash on the other pod");
    }
    let last = page(&old, 39).await;
    assert_eq!(
        (&last["events"][0]["order"], &last["lost"]),
        (&json!("r1-w1-u"), &json!(0))
    );
}

#[tokio::test]
async fn going_by_oneself_is_told_apart() {
    let backend = Backend::memory();
    let (server, other) = (telling(&backend).await, telling(&backend).await);
    Dial::user("ann").connect(&server).await.leave().await;
    drop(Dial::user("bob").connect(&server).await);
    // Takes its session elsewhere.
    let client = Dial::user("eve").connect(&server).await;
    let _moved = Dial::user("eve").resume(&client.session, 0).connect(&other).await;
    eventually("all are told", async || page(&server, 0).await["next"] == 6).await;
    let told = page(&server, 0).await;
    let mut how: Vec<_> = by_session(&told)
        .into_values()
        .map(|events| events[1][1].as_str().unwrap().to_owned())
        .collect();
    how.sort();
    assert_eq!(how, ["cut", "left", "left"]);
    assert!(
        told["events"]
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e["order"].is_null())
    );
}

#[tokio::test]
async fn a_closed_deadline_is_force() {
    let server = telling(&Backend::memory()).await;
    let mut client = Dial::user("ann").connect(&server).await;
    put(
        &server,
        &json!({"mode": "leave", "deadlineMs": 50, "onDeadline": "close"}),
    )
    .await;
    assert_eq!(client.until_closed().await.1, 1012);
    eventually("it is told", async || page(&server, 1).await["next"] == 2).await;
    assert_eq!(page(&server, 1).await["events"][0]["how"], "forced");
}

#[tokio::test]
async fn when_idle_spares_who_is_busy_until_it_is_not() {
    let server = Backend::memory().server().await;
    let mut busy = Dial::user("ann").connect(&server).await;
    let mut idle = Dial::user("bob").connect(&server).await;
    busy.send(json!({"type": "busy", "untilMs": 600_000})).await;
    // It has been read when its next message is answered.
    busy.say("c-1", "working").await;
    put(&server, &json!({"mode": "whenIdle"})).await;
    assert_eq!(idle.until_closed().await.1, 1012);
    let report = sessions(&server).await;
    assert_eq!(
        (&report["open"], &report["drain"]["busy"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(report["drain"]["state"], "active");
    assert_eq!(busy.say("c-2", "still here").await["seq"], 2);
    busy.send(json!({"type": "busy", "untilMs": 0})).await;
    assert_eq!(busy.until_closed().await.1, 1012);
    eventually("it is done", async || {
        sessions(&server).await["drain"]["state"] == "done"
    })
    .await;
}

#[tokio::test]
async fn ask_spares_nobody_and_neither_does_a_closed_deadline() {
    for changes in [
        json!({}),
        json!({"mode": "whenIdle", "deadlineMs": 50, "onDeadline": "close"}),
    ] {
        let server = Backend::memory().server().await;
        let mut busy = Dial::user("ann").connect(&server).await;
        busy.send(json!({"type": "busy", "untilMs": 600_000})).await;
        busy.say("c-1", "working").await;
        put(&server, &changes).await;
        assert_eq!(busy.until_closed().await.1, 1012);
    }
}

#[tokio::test]
async fn busy_ends_by_itself() {
    let server = Backend::memory().server().await;
    let mut busy = Dial::user("ann").connect(&server).await;
    busy.send(json!({"type": "busy", "untilMs": 300})).await;
    busy.say("c-1", "working").await;
    put(&server, &json!({"mode": "whenIdle"})).await;
    assert_eq!(busy.until_closed().await.1, 1012);
}

#[tokio::test]
async fn every_kind_of_hint_goes_into_its_own_field_of_the_notice() {
    for (hint, field, value) in [
        (json!({"query": "wsroll=a"}), "query", "wsroll=a"),
        (json!({"path": "/v2/ws"}), "path", "/v2/ws"),
        (json!({"header": "wsroll-hint: a"}), "header", "wsroll-hint: a"),
    ] {
        let server = Backend::memory().server().await;
        let mut client = Dial::user("ann").notices().connect(&server).await;
        put(&server, &json!({"reconnect": {"maxMs": 100, "hint": hint}})).await;
        let notice = client.receive().await;
        let told = notice["reconnect"].as_object().unwrap();
        let hints: Vec<_> = ["query", "path", "header"]
            .into_iter()
            .filter(|name| told.get(*name).is_some_and(|v| !v.is_null()))
            .collect();
        assert_eq!(hints, [field]);
        assert_eq!(told[field], value);
    }
}

#[tokio::test]
async fn the_report_tells_the_oldest_session_and_refusals() {
    let server = Backend::memory().faulty("refuse=100%").await;
    let report = sessions(&server).await;
    assert_eq!(
        (&report["oldestMs"], &report["totals"]["refused"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(Dial::user("ann").refused(&server).await, 503);
    assert_eq!(sessions(&server).await["totals"]["refused"], 1);

    let server = Backend::memory().server().await;
    let old = Dial::user("ann").connect(&server).await;
    sleep(Duration::from_millis(30)).await;
    let _new = Dial::user("bob").connect(&server).await;
    assert!(sessions(&server).await["oldestMs"].as_u64().unwrap() >= 30);
    old.leave().await;
    eventually("only the younger one counts", async || server.open() == 1).await;
}

#[tokio::test]
async fn a_server_that_is_slow_to_restore_makes_them_wait_and_then_refuses() {
    let store = Store::Memory(MemoryStore::new(Duration::from_mins(1)));
    let backend = |faults: &str| {
        let mut config = Backend::memory().config();
        config.store = store.clone();
        config.faults = faults.parse().unwrap();
        config
    };
    let quick = Server::start(backend("")).await.unwrap();
    let slow = Server::start(backend("restore-per-second=0.5")).await.unwrap();
    // Who is new is welcome at once.
    Dial::user("new").connect(&slow).await;
    let mut resumed = Vec::new();
    for n in 0..5 {
        let dial = Dial::user(&format!("user-{n}"));
        let client = dial.connect(&quick).await;
        resumed.push(dial.resume(&client.session, 0).open(&slow).await.is_ok());
    }
    // Turns come every 2 s, and nobody waits for more than 5 s longer than the first.
    assert_eq!(resumed, [true, true, true, false, false]);
    assert_eq!(sessions(&slow).await["totals"]["refused"], 2);
    assert_eq!(
        sessions(&slow).await["totals"]["resumed"],
        0,
        "they wait for their turn"
    );
    eventually("the first is restored", async || {
        sessions(&slow).await["totals"]["resumed"] == 1
    })
    .await;
}
