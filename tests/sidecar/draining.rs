//! Drains: everybody is asked in turn, and told in the words it declared.

use std::collections::BTreeMap;

use futures_util::SinkExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::stage::{Client, LIMIT, Stage, next, order, say, to_the_end};

#[tokio::test]
async fn everybody_leaves_once_in_its_turn_and_announced() {
    let stage = Stage::start(json!({})).await;
    let clients = stage.connect_many(60, "/ws").await;
    let start = Instant::now();
    let ends = clients.into_iter().map(|mut client| async move {
        let end = to_the_end(&mut client).await;
        (Instant::now(), end)
    });
    let ends = tokio::spawn(join_all(ends));
    let mut slow = order("r1-1-1-pod");
    slow["ratePerSecond"] = json!(30);
    stage.order(&slow).await;
    let mut seconds = BTreeMap::<u64, usize>::new();
    for (at, end) in ends.await.unwrap() {
        assert_eq!(end, (vec![], 1012, "r1-1-1-pod".to_owned()));
        *seconds.entry(at.duration_since(start).as_secs()).or_default() += 1;
    }
    // A socket's close may be seen late by a busy test, so a second may hold one or two of its neighbour's.
    assert!(seconds.values().all(|count| *count <= 33), "{seconds:?}");
    let report = stage
        .until("done", |report| report["drain"]["state"] == "done")
        .await;
    let drain = &report["drain"];
    assert_eq!(
        (drain["eligible"].as_u64(), drain["closedClean"].as_u64()),
        (Some(60), Some(60))
    );
    assert_eq!(
        (drain["notified"].as_u64(), drain["closedForced"].as_u64()),
        (Some(0), Some(0))
    );
    assert_eq!(
        (report["open"].as_u64(), &report["totals"]["closed"]),
        (Some(0), &json!({"1012": 60}))
    );
    while stage.application.seen.closes.lock().unwrap().len() < 60 {
        tokio::task::yield_now().await;
    }
    assert!(
        stage
            .application
            .seen
            .closes
            .lock()
            .unwrap()
            .iter()
            .all(|code| *code == 1001)
    );
}

#[tokio::test]
async fn only_who_declared_a_notice_gets_one_and_its_acknowledgement_stays_here() {
    let text = "{\"move\":{afterMs},\"to\":\"{query}\",\"id\":\"{id}\"}";
    let stage = Stage::start(json!({"notices": [
        {"declaredByQuery": "notice=1"}, {"subprotocol": "own", "format": "Text", "template": text}]}))
    .await;
    let mut silent = stage.connect("/ws").await;
    let mut json = stage.connect("/ws?notice=1").await;
    let mut own = stage
        .connect_as("/ws", &[("sec-websocket-protocol", "own")])
        .await;
    let mut asked = order("o-1");
    asked["reconnect"] = json!({"minMs": 300, "maxMs": 300, "hint": {"query": "wsroll=x7Qp"}});
    stage.order(&asked).await;

    let Message::Text(notice) = next(&mut json).await else {
        panic!()
    };
    let notice: Value = serde_json::from_str(&notice).unwrap();
    assert_eq!(
        (&notice["type"], &notice["id"], &notice["v"]),
        (&json!("wsroll.notice"), &json!("o-1"), &json!(1))
    );
    assert_eq!(
        (&notice["reconnect"]["afterMs"], &notice["reconnect"]["query"]),
        (&json!(300), &json!("wsroll=x7Qp"))
    );
    json.send(Message::text(r#"{"type":"wsroll.ack","id":"o-1"}"#))
        .await
        .unwrap();
    // The session goes on until its close.
    say(&mut json, "still here").await;
    assert_eq!(to_the_end(&mut json).await, (vec![], 1012, "o-1".to_owned()));
    let filled = "{\"move\":300,\"to\":\"wsroll=x7Qp\",\"id\":\"o-1\"}".to_owned();
    assert_eq!(to_the_end(&mut own).await, (vec![filled], 1012, "o-1".to_owned()));
    assert_eq!(to_the_end(&mut silent).await, (vec![], 1012, "o-1".to_owned()));
    let report = stage
        .until("done", |report| report["drain"]["state"] == "done")
        .await;
    assert_eq!(
        (&report["drain"]["notified"], &report["drain"]["acked"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        stage.application.seen.texts.lock().unwrap().as_slice(),
        ["still here"]
    );
}

#[tokio::test]
async fn the_notice_and_the_close_wait_for_the_end_of_a_message() {
    let stage = Stage::start(json!({"notices": [{"declaredByQuery": "notice"}]})).await;
    let mut client = stage.connect("/raw?notice").await.into_inner();
    let mut application = stage.application.raw().await;
    // The first of two fragments, and half of the second one's frame.
    application
        .write_all(&[0x01, 2, b'a', b'b', 0x80, 3, b'c'])
        .await
        .unwrap();
    let mut got = [0; 7];
    client.read_exact(&mut got).await.unwrap();
    stage.order(&order("o")).await;
    stage
        .until("told", |report| report["drain"]["notified"] == 1)
        .await;
    application.write_all(b"de").await.unwrap();
    let mut rest = Vec::new();
    let reading = async {
        let mut byte = [0];
        while !rest.ends_with(b"\x03\xf4o") {
            client.read_exact(&mut byte).await.unwrap();
            rest.push(byte[0]);
        }
    };
    timeout(LIMIT, reading).await.unwrap();
    assert_eq!(&rest[..2], b"de", "the message ends first");
    assert_eq!(&rest[2..3], &[0x81], "then the notice");
    assert_eq!(&rest[rest.len() - 5..], b"\x88\x03\x03\xf4o", "then the close");
}

#[tokio::test]
async fn messages_in_flight_reach_the_application_until_the_client_closes() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/raw").await.into_inner();
    let mut application = stage.application.raw().await;
    stage.order(&order("o")).await;
    let mut close = [0; 5];
    client.read_exact(&mut close).await.unwrap();
    assert_eq!(&close, b"\x88\x03\x03\xf4o");
    // Sent before the close was read; the answer to it comes in pieces.
    let message = *b"\x81\x82\0\0\0\0hi";
    client.write_all(&message).await.unwrap();
    let mut got = [0; 8];
    application.read_exact(&mut got).await.unwrap();
    assert_eq!(got, message);
    for byte in *b"\x88\x82\0\0\0\0\x03\xf4" {
        client.write_all(&[byte]).await.unwrap();
    }
    let mut last = Vec::new();
    let reading = async {
        while last.len() < 8 {
            last.push(application.read_u8().await.unwrap());
        }
    };
    timeout(LIMIT, reading).await.unwrap();
    assert_eq!(last[..2], [0x88, 0x82], "a close of our own, masked");
    let code: Vec<u8> = last[6..]
        .iter()
        .zip(&last[2..6])
        .map(|(byte, key)| byte ^ key)
        .collect();
    assert_eq!(code, 1001u16.to_be_bytes());
    assert_eq!(
        client.read(&mut got).await.unwrap(),
        0,
        "the sidecar ends the connection"
    );
    stage
        .until("clean", |report| report["drain"]["closedClean"] == 1)
        .await;
}

#[tokio::test]
async fn without_a_renewal_it_pauses_and_a_renewal_goes_on() {
    let stage = Stage::start(json!({})).await;
    let mut clients = stage.connect_many(30, "/ws").await;
    let mut slow = order("o");
    slow["ratePerSecond"] = json!(5);
    slow["leaseSeconds"] = json!(1);
    slow["reconnect"] = json!({"minMs": 0, "maxMs": 0});
    stage.order(&slow).await;
    let reading = tokio::spawn(async move { join_all(clients.iter_mut().map(to_the_end)).await });
    let report = stage
        .until("paused", |report| report["drain"]["state"] == "paused")
        .await;
    let left = report["open"].as_u64().unwrap();
    assert!((20..30).contains(&left), "{report}");
    for _ in 0..20 {
        assert_eq!(stage.sessions().await["open"], left);
    }
    slow["ratePerSecond"] = json!(500);
    slow["leaseSeconds"] = json!(60);
    assert_eq!(stage.order(&slow).await["state"], "active");
    stage
        .until("done", |report| report["drain"]["state"] == "done")
        .await;
    assert!(reading.await.unwrap().iter().all(|end| end.1 == 1012));
}

#[tokio::test]
async fn cancelled_the_rest_stays_and_the_id_is_spent() {
    let stage = Stage::start(json!({})).await;
    let mut clients = stage.connect_many(20, "/ws").await;
    let mut slow = order("o");
    slow["ratePerSecond"] = json!(2);
    stage.order(&slow).await;
    let (status, progress) = stage.call("DELETE", "/wsroll/v1/drain/o", &Value::Null).await;
    assert_eq!((status, &progress["state"]), (200, &json!("cancelled")));
    let open = stage
        .until("settled", |report| report["open"].as_u64() >= Some(18))
        .await["open"]
        .clone();
    assert_eq!(stage.call("PUT", "/wsroll/v1/drain", &slow).await.0, 409);
    assert_eq!(
        stage
            .call("DELETE", "/wsroll/v1/drain/other", &Value::Null)
            .await
            .0,
        404
    );
    let mut heard = 0;
    for client in &mut clients {
        if alive(client).await {
            heard += 1;
        }
    }
    assert_eq!(json!(heard), open);
}

async fn alive(client: &mut Client) -> bool {
    client.send(Message::text("there?")).await.is_ok() && matches!(next(client).await, Message::Text(_))
}

#[tokio::test]
async fn some_are_meant_and_the_others_stay() {
    let stage = Stage::start(json!({})).await;
    let _clients = stage.connect_many(40, "/ws").await;
    for (id, select, left) in [
        ("a", json!({"count": 10}), 30),
        ("b", json!({"fraction": 0.5}), 15),
    ] {
        let mut some = order(id);
        some["select"] = select;
        stage.order(&some).await;
        // The clients do not read: what they have left is seen when the time for their answer is over.
        let report = stage.until("asked", |report| report["open"] == left).await;
        assert_eq!(
            report["drain"]["eligible"],
            40 - left - if id == "b" { 10 } else { 0 }
        );
    }
}

#[tokio::test]
async fn busy_sessions_are_skipped_until_they_are_idle() {
    let stage = Stage::start(json!({"idleForMs": 700})).await;
    let mut busy = stage.connect("/raw").await.into_inner();
    let mut application = stage.application.raw().await;
    // In the middle of a message: busy however long it takes.
    application.write_all(&[0x81, 4, b'a']).await.unwrap();
    let mut head = [0; 3];
    busy.read_exact(&mut head).await.unwrap();
    let mut idle = stage.connect_many(3, "/ws").await;
    let mut when_idle = order("o");
    when_idle["mode"] = json!("whenIdle");
    stage.order(&when_idle).await;
    assert_eq!(stage.sessions().await["open"], 4, "all had data just now");
    for client in &mut idle {
        assert_eq!(to_the_end(client).await.1, 1012);
    }
    let report = stage.until("one left", |report| report["open"] == 1).await;
    assert_eq!(
        (&report["drain"]["busy"], &report["drain"]["state"]),
        (&json!(1), &json!("active"))
    );
    application.write_all(b"bcd").await.unwrap();
    let mut rest = [0; 8];
    timeout(LIMIT, busy.read_exact(&mut rest)).await.unwrap().unwrap();
    assert_eq!(&rest, b"bcd\x88\x03\x03\xf4o");
}

#[tokio::test]
async fn left_alone_nobody_goes_before_the_deadline() {
    let stage = Stage::start(json!({"notices": [{"declaredByQuery": "notice"}]})).await;
    let mut clients = vec![stage.connect("/ws?notice").await, stage.connect("/ws").await];
    let mut leave = order("o");
    leave["mode"] = json!("leave");
    leave["deadlineMs"] = json!(600);
    leave["onDeadline"] = json!("close");
    stage.order(&leave).await;
    for client in &mut clients {
        say(client, "before").await;
    }
    for client in &mut clients {
        assert_eq!(to_the_end(client).await, (vec![], 1012, "o".to_owned()));
    }
    let report = stage
        .until("done", |report| report["drain"]["state"] == "done")
        .await;
    assert_eq!(
        (&report["drain"]["closedForced"], &report["drain"]["notified"]),
        (&json!(2), &json!(0))
    );
}

#[tokio::test]
async fn sessions_that_come_while_all_are_meant_are_meant_too() {
    let stage = Stage::start(json!({})).await;
    stage.order(&order("o")).await;
    let mut late = stage.connect("/ws").await;
    assert_eq!(to_the_end(&mut late).await.1, 1012);
    let report = stage
        .until("done", |report| report["drain"]["state"] == "done")
        .await;
    assert_eq!(report["drain"]["eligible"], 1);
}

#[tokio::test]
async fn codes_of_a_subprotocol_come_before_the_orders() {
    let stage = Stage::start(json!({"closeCodes": [{"subprotocol": "x", "client": 4005}]})).await;
    let mut own = stage.connect_as("/ws", &[("sec-websocket-protocol", "x")]).await;
    stage.order(&order("o")).await;
    assert_eq!(to_the_end(&mut own).await.1, 4005);
}
