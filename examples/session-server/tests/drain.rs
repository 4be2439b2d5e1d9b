//! Drain orders over real sockets and the real drain port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use session_server::{Config, Exit, Server, config::Limits};
use support::{Backend, Client, DRAIN_TOKEN, Dial, drain, eventually, request, sessions};
use tokio::time::Instant;

on_all_stores!(
    a_drain_tells_everybody_and_closes_each_in_turn,
    a_client_that_opens_its_new_socket_first_is_closed_by_the_move,
);

const ORDERS: &str = "/wsroll/v1/drain";

fn order(changes: &Value) -> Value {
    let mut order = json!({"id": "r1-1-1-uid", "reason": "rollout", "select": {"all": {}}, "mode": "ask",
        "ratePerSecond": 20, "leaseSeconds": 30, "deadlineMs": 60_000, "onDeadline": "wait",
        "reconnect": {"minMs": 0, "maxMs": 300, "hint": {"query": "wsroll=x7Qp"}}, "closeCode": 1012});
    for (key, value) in changes.as_object().unwrap() {
        order[key] = value.clone();
    }
    order
}

async fn put(server: &Server, order: &Value) -> Value {
    let (status, body) = drain(server, "PUT", ORDERS, Some(order)).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn crowd(server: &Server, dial: impl Fn(Dial) -> Dial, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..count {
        clients.push(dial(Dial::user(&format!("user-{n}"))).connect(server).await);
    }
    clients
}

/// Reads every client to its end at the same time; gives what each got, with the time of its close since `start`.
async fn all_closed(clients: Vec<Client>, start: Instant) -> Vec<(Vec<Value>, u16, String, Duration)> {
    let readers = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let (messages, code, reason) = client.until_closed().await;
            (messages, code, reason, start.elapsed())
        })
    });
    let mut ends = Vec::new();
    for reader in readers.collect::<Vec<_>>() {
        ends.push(reader.await.unwrap());
    }
    ends.sort_by_key(|(.., at)| *at);
    ends
}

async fn a_drain_tells_everybody_and_closes_each_in_turn(backend: &Backend) {
    let (old, new) = (backend.server().await, backend.server().await);
    let mut clients = crowd(&old, Dial::notices, 40).await;
    for client in &mut clients {
        client.say("c-1", "before").await;
    }
    let ids: Vec<_> = clients.iter().map(|client| client.session.clone()).collect();
    let before = sessions(&old).await;
    assert_eq!(
        (&before["open"], &before["accepting"], &before["drain"]),
        (&json!(40), &json!(true), &Value::Null)
    );

    let start = Instant::now();
    let progress = put(&old, &order(&json!({}))).await;
    assert_eq!(
        (&progress["state"], &progress["eligible"]),
        (&json!("active"), &json!(40))
    );
    let ends = all_closed(clients, start).await;
    let mut per_second = BTreeMap::<u64, usize>::new();
    for (k, (messages, code, reason, at)) in ends.iter().enumerate() {
        let [notice] = &messages[..] else {
            panic!("one notice each: {messages:?}")
        };
        assert_eq!(notice["type"], "wsroll.notice");
        assert_eq!(
            (&notice["v"], &notice["id"], &notice["reason"]),
            (&json!(1), &json!("r1-1-1-uid"), &json!("rollout"))
        );
        assert_eq!(
            notice["reconnect"],
            json!({"afterMs": 300, "withinMs": 0, "url": null, "query": "wsroll=x7Qp"})
        );
        assert_eq!(
            (&notice["closeCode"], &notice["makeBeforeBreak"]),
            (&json!(1012), &json!(false))
        );
        assert!(ids.iter().any(|id| notice["resume"]["token"] == **id));
        assert_eq!((*code, reason.as_str()), (1012, "r1-1-1-uid"));
        // Never before its place; how late depends on the machine.
        let place = Duration::from_millis(300 + 50 * k as u64);
        assert!(
            *at + Duration::from_millis(20) >= place,
            "number {k} closed after {at:?}"
        );
        *per_second.entry(at.as_secs()).or_default() += 1;
    }
    let after = async || {
        let report = sessions(&old).await;
        report["open"] == 0 && report["drain"]["state"] == "done"
    };
    eventually("the pod reports that it is empty", after).await;
    let report = sessions(&old).await;
    assert_eq!(report["totals"]["closed"], json!({"1012": 40}));
    assert_eq!(report["totals"]["accepted"], 40);
    for (counter, count) in [
        ("eligible", 40),
        ("notified", 40),
        ("closedClean", 40),
        ("closedForced", 0),
        ("busy", 0),
    ] {
        assert_eq!(report["drain"][counter], count, "{counter}: {report}");
    }
    for (n, id) in ids.iter().enumerate() {
        let client = Dial::user(&format!("user-{n}")).resume(id, 1).connect(&new).await;
        assert_eq!((client.resumed, client.seq), (true, 1));
    }
    let report = sessions(&new).await;
    assert_eq!(
        (&report["totals"]["resumed"], &report["totals"]["stateLost"]),
        (&json!(40), &json!(0))
    );
}

async fn a_client_that_opens_its_new_socket_first_is_closed_by_the_move(backend: &Backend) {
    let (old, new) = (backend.server().await, backend.server().await);
    let mut client = Dial::user("ann").notices().overlap().connect(&old).await;
    let start = Instant::now();
    put(&old, &order(&json!({}))).await;
    let notice = client.receive().await;
    assert_eq!(notice["makeBeforeBreak"], true);
    client
        .send(json!({"type": "wsroll.ack", "id": "r1-1-1-uid"}))
        .await;
    // The old socket works until the new one is there, also after its place.
    tokio::time::sleep_until(start + Duration::from_millis(600)).await;
    assert_eq!(client.say("c-1", "still here").await["seq"], 1);
    let mut moved = Dial::user("ann").resume(&client.session, 1).connect(&new).await;
    assert_eq!(client.until_closed().await.1, 1012);
    assert_eq!(moved.say("c-2", "x").await["seq"], 2);
    eventually("all is counted", async || {
        let drain = sessions(&old).await["drain"].clone();
        drain["acked"] == 1 && drain["closedClean"] == 1 && drain["state"] == "done"
    })
    .await;
}

#[tokio::test]
async fn clients_that_declared_nothing_get_only_the_paced_close() {
    let server = Backend::memory().server().await;
    let clients = crowd(&server, |dial| dial, 3).await;
    put(&server, &order(&json!({"closeCode": 4000}))).await;
    for (messages, code, ..) in all_closed(clients, Instant::now()).await {
        assert_eq!((messages, code), (vec![], 4000));
    }
    eventually("all are counted", async || {
        sessions(&server).await["drain"]["closedClean"] == 3
    })
    .await;
    assert_eq!(sessions(&server).await["drain"]["notified"], 0);
}

#[tokio::test]
async fn sessions_that_come_late_are_drained_as_well_and_a_share_leaves_the_rest() {
    let server = Backend::memory().server().await;
    let _early = crowd(&server, |dial| dial, 10).await;
    put(&server, &order(&json!({"select": {"fraction": 0.3}}))).await;
    eventually("three have gone", async || {
        let report = sessions(&server).await;
        report["open"] == 7 && report["drain"]["state"] == "done"
    })
    .await;
    put(&server, &order(&json!({"id": "second", "select": {"count": 2}}))).await;
    eventually("two more", async || sessions(&server).await["open"] == 5).await;
    put(&server, &order(&json!({"id": "third", "ratePerSecond": 1000}))).await;
    eventually("all have gone", async || server.open() == 0).await;
    let mut late = Dial::user("late").notices().connect(&server).await;
    assert_eq!(late.until_closed().await.1, 1012);
    eventually("counted with the order", async || {
        sessions(&server).await["drain"]["eligible"] == 6
    })
    .await;
}

#[tokio::test]
async fn a_repeated_order_renews_and_changes_the_rate_and_nothing_else() {
    let server = Backend::memory().server().await;
    let clients = crowd(&server, Dial::notices, 30).await;
    let slow = order(&json!({"ratePerSecond": 0.1}));
    put(&server, &slow).await;
    put(&server, &slow).await;
    eventually("the first is told", async || {
        sessions(&server).await["drain"]["notified"] == 1
    })
    .await;
    let progress = put(&server, &order(&json!({"ratePerSecond": 200}))).await;
    assert_eq!(
        (&progress["eligible"], &progress["ratePerSecond"]),
        (&json!(30), &json!(200.0))
    );
    for (messages, code, ..) in all_closed(clients, Instant::now()).await {
        assert_eq!((messages.len(), code), (1, 1012));
    }
}

#[tokio::test]
async fn an_order_that_is_not_renewed_pauses_and_a_renewal_resumes_it() {
    let server = Backend::memory().server().await;
    let readers = tokio::spawn(all_closed(crowd(&server, |dial| dial, 40).await, Instant::now()));
    let brief = order(&json!({"leaseSeconds": 1, "reconnect": {"maxMs": 0}}));
    put(&server, &brief).await;
    eventually("it pauses", async || {
        sessions(&server).await["drain"]["state"] == "paused"
    })
    .await;
    // 20 may go in the second that the lease holds; those whose turn had come are still closing.
    let left = server.open();
    assert!((15..40).contains(&left), "{left} are left");
    assert_eq!(sessions(&server).await["drain"]["leaseExpiresMs"], 0);
    put(&server, &order(&json!({"ratePerSecond": 1000}))).await;
    eventually("it ends", async || {
        sessions(&server).await["drain"]["state"] == "done"
    })
    .await;
    assert!(readers.await.unwrap().iter().all(|(_, code, ..)| *code == 1012));
}

#[tokio::test]
async fn a_cancelled_order_lets_the_rest_stay_and_is_not_started_again() {
    let server = Backend::memory().server().await;
    let mut clients = crowd(&server, Dial::notices, 5).await;
    put(&server, &order(&json!({"ratePerSecond": 0.1}))).await;
    eventually("one is told", async || {
        sessions(&server).await["drain"]["notified"] == 1
    })
    .await;
    assert_eq!(
        drain(&server, "DELETE", "/wsroll/v1/drain/other", None).await.0,
        404
    );
    assert_eq!(
        drain(&server, "DELETE", "/wsroll/v1/drain/r1-1-1-uid", None)
            .await
            .0,
        200
    );
    assert_eq!(
        drain(&server, "DELETE", "/wsroll/v1/drain/r1-1-1-uid", None)
            .await
            .0,
        200,
        "again"
    );
    assert_eq!(
        drain(&server, "PUT", ORDERS, Some(&order(&json!({})))).await.0,
        409
    );
    eventually("the one who was told has gone", async || server.open() == 4).await;
    assert_eq!(sessions(&server).await["drain"]["state"], "cancelled");
    let mut answers = 0;
    for client in &mut clients {
        client
            .send(json!({"type": "say", "id": "c-1", "text": "x"}))
            .await;
        answers += usize::from(client.until_reply_or_closed("c-1").await);
    }
    assert_eq!(answers, 4);
}

#[tokio::test]
async fn bad_orders_and_wrong_tokens_change_nothing() {
    let server = Backend::memory().server().await;
    let _client = Dial::user("ann").connect(&server).await;
    let address = server.drain_addr().unwrap();
    let call = async |method: &str, path: &str, token: Option<&str>, body: &str| {
        request(address, method, path, token, Some(body.to_owned())).await
    };
    let good = order(&json!({})).to_string();
    for token in [None, Some(""), Some("wrong"), Some("drain-tokem")] {
        assert_eq!(call("GET", "/wsroll/v1/sessions", token, "").await.0, 401);
        assert_eq!(call("PUT", ORDERS, token, &good).await.0, 401);
        assert_eq!(call("DELETE", "/wsroll/v1/drain/x", token, "").await.0, 401);
    }
    let ours = Some(DRAIN_TOKEN);
    assert_eq!(call("GET", "/wsroll/v2/sessions", ours, "").await.0, 404);
    assert_eq!(call("GET", "/", ours, "").await.0, 404);
    assert_eq!(call("POST", "/wsroll/v1/sessions", ours, "").await.0, 405);
    assert_eq!(call("PUT", ORDERS, ours, &"x".repeat(100_000)).await.0, 413);
    for (bad, word) in [
        ("{", "drain order"),
        (r#"{"id":"x"}"#, "ratePerSecond"),
        (&order(&json!({"ratePerSecond": 0})).to_string(), "ratePerSecond"),
        (&order(&json!({"closeCode": 1000})).to_string(), "closeCode"),
        (&order(&json!({"select": {"half": {}}})).to_string(), "select"),
    ] {
        let (status, body) = call("PUT", ORDERS, ours, bad).await;
        let reason = body["error"].as_str().unwrap();
        assert!(
            status == 400 && (reason.contains(word) || reason.contains("unknown variant")),
            "{bad}: {body}"
        );
    }
    let report = sessions(&server).await;
    assert_eq!((&report["open"], &report["drain"]), (&json!(1), &Value::Null));
}

#[tokio::test]
async fn at_the_deadline_the_rest_is_closed_by_force_or_stays() {
    let server = Backend::memory().server().await;
    let clients = crowd(&server, Dial::notices, 4).await;
    put(&server, &order(&json!({"mode": "leave", "deadlineMs": 300}))).await;
    eventually("the deadline passes", async || {
        sessions(&server).await["drain"]["state"] == "deadline"
    })
    .await;
    assert_eq!(server.open(), 4);
    put(
        &server,
        &order(&json!({"id": "close", "mode": "leave", "deadlineMs": 100, "onDeadline": "close"})),
    )
    .await;
    for (messages, code, ..) in all_closed(clients, Instant::now()).await {
        assert_eq!((messages, code), (vec![], 1012));
    }
    eventually("counted as forced", async || {
        sessions(&server).await["drain"]["closedForced"] == 4
    })
    .await;
}

#[tokio::test]
async fn sigterm_without_an_order_says_1001_to_all_at_once() {
    let server = Backend::memory().server().await;
    let clients = crowd(&server, Dial::notices, 5).await;
    let ending = {
        let server = server.clone();
        tokio::spawn(async move { server.shutdown().await })
    };
    for (messages, code, ..) in all_closed(clients, Instant::now()).await {
        assert_eq!((messages, code), (vec![], 1001));
    }
    assert_eq!(ending.await.unwrap(), Exit::Clean);
    assert!(
        Dial::user("ann").open(&server).await.is_err(),
        "the listener is closed"
    );
}

#[tokio::test]
async fn sigterm_under_an_order_lets_the_drain_go_on_within_the_grace() {
    let limits = Limits {
        shutdown_grace: Duration::from_secs(3),
        close_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = Server::start(Config {
        limits,
        ..Backend::memory().config()
    })
    .await
    .unwrap();
    let clients = crowd(&server, Dial::notices, 100).await;
    put(&server, &order(&json!({"ratePerSecond": 10}))).await;
    let start = Instant::now();
    let ending = {
        let server = server.clone();
        tokio::spawn(async move { server.shutdown().await })
    };
    let ends = all_closed(clients, start).await;
    assert!(ends.iter().all(|(_, code, ..)| *code == 1012));
    let early = ends
        .iter()
        .filter(|(.., at)| *at < Duration::from_millis(1200))
        .count();
    assert!(
        (5..=13).contains(&early),
        "{early} closed in the first 1.2 s: not paced"
    );
    assert_eq!(ending.await.unwrap(), Exit::Clean);
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_close_is_cut_in_time() {
    let limits = Limits {
        close_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(Config {
        limits,
        ..Backend::memory().config()
    })
    .await
    .unwrap();
    let _deaf = Dial::user("ann").connect(&server).await;
    put(&server, &order(&json!({}))).await;
    eventually("it is gone", async || server.open() == 0).await;
    assert_eq!(sessions(&server).await["drain"]["closedForced"], 1);
}
