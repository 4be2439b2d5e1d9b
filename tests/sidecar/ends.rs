//! How sessions end when one of the two ends is gone.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use futures_util::SinkExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::stage::{Application, Stage, request, say, to_the_end};

#[tokio::test]
async fn when_the_application_dies_its_clients_are_told_of_a_restart_and_the_next_one_serves() {
    let stage = Stage::start(json!({})).await;
    let mut clients = stage.connect_many(5, "/ws").await;
    stage.application.kill();
    for client in &mut clients {
        assert_eq!(to_the_end(client).await.1, 1012);
    }
    let report = stage.until("empty", |report| report["open"] == 0).await;
    assert_eq!(report["totals"]["closed"], json!({"1012": 5}));
    let closed =
        r#"wsroll_sidecar_sessions_closed_total{code="1012",initiator="application_died",clean="true"}"#;
    assert_eq!(stage.metric(closed).await, 5);

    // While it restarts, upgrades are refused in words.
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = crate::stage::exchange(stage.tcp().await, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: 1\r\n"), "{answer}");
    assert_eq!(
        request(stage.sidecar.traffic_addr(), "GET", "/", "", "").await.0,
        503
    );
    assert_eq!(stage.sessions().await["totals"]["refused"], 1);

    let again = Application::start_at(stage.application.address).await;
    say(&mut stage.connect("/ws").await, "hello").await;
    assert_eq!(again.seen.texts.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn one_connection_that_the_application_cuts_is_told_as_well() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/ws").await;
    client.send(Message::text("die")).await.unwrap();
    assert_eq!(to_the_end(&mut client).await.1, 1012);
    assert_eq!(stage.application.seen.closes.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn what_the_application_said_before_it_died_arrives_before_the_close() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/raw").await;
    let mut application = stage.application.raw().await;
    application.write_all(&[0x81, 2, b'h', b'i']).await.unwrap();
    drop(application);
    assert_eq!(
        to_the_end(&mut client).await,
        (vec!["hi".to_owned()], 1012, String::new())
    );
}

#[tokio::test]
async fn in_the_middle_of_a_frame_nothing_can_be_said() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/raw").await.into_inner();
    let mut application = stage.application.raw().await;
    application.write_all(&[0x81, 9, b'h', b'i']).await.unwrap();
    drop(application);
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, [0x81, 9, b'h', b'i']);
}

#[tokio::test]
async fn a_client_that_is_cut_off_is_told_to_the_application() {
    let stage = Stage::start(json!({})).await;
    let clients = stage.connect_many(3, "/ws").await;
    drop(clients);
    let report = stage.until("empty", |report| report["open"] == 0).await;
    assert_eq!(report["totals"]["closed"], json!({"1006": 3}));
    let told = || stage.application.seen.closes.lock().unwrap().clone();
    while told().len() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(told(), [1001, 1001, 1001]);
}

#[tokio::test]
async fn the_application_is_closed_in_its_own_way_where_the_settings_say_so() {
    let stage =
        Stage::start(json!({"closeCodes": [{"subprotocol": "stomp", "client": 4005, "application": 4006}]}))
            .await;
    let client = stage
        .connect_as("/ws", &[("sec-websocket-protocol", "stomp")])
        .await;
    drop(client);
    stage.until("empty", |report| report["open"] == 0).await;
    while stage.application.seen.closes.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.application.seen.closes.lock().unwrap().as_slice(), [4006]);
}

#[tokio::test]
async fn silent_clients_are_pinged_and_the_answers_are_not_for_the_application() {
    let stage = Stage::start(json!({"pingIntervalMs": 300})).await;
    let mut answering = stage.connect("/raw").await;
    let mut application = stage.application.raw().await;
    // Reading answers pings.
    let reader = tokio::spawn(async move { to_the_end(&mut answering).await });
    let _silent = stage.connect("/raw").await;
    let report = stage.until("dormant", |report| report["dormant"] == 1).await;
    assert_eq!(report["open"], 2);
    // The first thing that the application sees of the one that answers is our close, whatever pongs came before.
    stage.order(&crate::stage::order("o")).await;
    assert_eq!(reader.await.unwrap().1, 1012);
    let mut head = [0; 2];
    application.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0], 0x88, "a close frame");
    let report = stage.until("empty", |report| report["open"] == 0).await;
    assert_eq!(report["drain"]["dormant"], 1);
}

#[tokio::test]
async fn pongs_of_the_clients_own_reach_the_application() {
    let stage = Stage::start(json!({"pingIntervalMs": 250})).await;
    let mut client = stage.connect("/raw").await.into_inner();
    let mut application = stage.application.raw().await;
    // Our ping, unmasked.
    let mut ping = [0; 8];
    client.read_exact(&mut ping).await.unwrap();
    assert_eq!(&ping, b"\x89\x06wsroll");
    let own = *b"\x8a\x86\0\0\0\0mine!!";
    let answer = *b"\x8a\x86\0\0\0\0wsroll";
    for byte in own.into_iter().chain(answer).chain(own) {
        client.write_all(&[byte]).await.unwrap();
    }
    let mut got = [0; 24];
    application.read_exact(&mut got).await.unwrap();
    assert_eq!(got[..12], own);
    assert_eq!(got[12..], own);
}

#[tokio::test]
async fn sockets_that_nobody_uses_end() {
    let stage = Stage::start(json!({"limits": {"idleTimeoutMs": 300}})).await;
    let mut client = stage.connect("/ws").await;
    assert_eq!(to_the_end(&mut client).await.1, 1001);
    stage.until("empty", |report| report["open"] == 0).await;
}

#[tokio::test]
async fn asked_to_end_it_lets_sessions_go_first() {
    let stage = Stage::start(json!({"shutdown": {"ratePerSecond": 500.0, "withinMs": 1000}})).await;
    let clients = stage.connect_many(20, "/ws").await;
    let ends: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { to_the_end(&mut client).await.1 }))
        .collect();
    assert_eq!(stage.sidecar.shutdown().await, wsroll::proxy::Exit::Clean);
    for end in ends {
        assert_eq!(end.await.unwrap(), 1012);
    }
}
