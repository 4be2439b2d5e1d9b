//! Sessions over polling: counted, drained in the words of their protocol, and led to the pod that has them.

use serde_json::json;
use tokio::net::TcpStream;

use crate::stage::{Stage, exchange, order, say, to_the_end};

fn settings() -> serde_json::Value {
    json!({"session": {"query": "sid"}, "affinity": true})
}

/// One request; head and body of the answer.
async fn ask(stage: &Stage, method: &str, query: &str, cookie: &str, body: &str) -> (String, String) {
    let request = format!(
        "{method} /eio?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: {cookie}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let stream = TcpStream::connect(stage.sidecar.traffic_addr()).await.unwrap();
    let answer = exchange(stream, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

/// A handshake: the session's id, and the cookie.
async fn begin(stage: &Stage, cookie: &str) -> (String, String) {
    let (head, body) = ask(stage, "GET", "", cookie, "").await;
    let sid = body.split('"').nth(3).unwrap().to_owned();
    let cookie = head
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap_or("");
    (
        format!("&sid={sid}"),
        cookie.split(';').next().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn a_session_is_counted_from_its_first_request_and_its_waiting_poll_is_closed_in_turn() {
    let stage = Stage::start(settings()).await;
    let (sid, _) = begin(&stage, "").await;
    assert_eq!(stage.sidecar.open(), 0, "nobody knows yet whose it is");
    assert_eq!(ask(&stage, "POST", &sid, "", "40").await.1, "ok");
    assert_eq!(stage.sidecar.open(), 1);
    let (waiting, ()) = tokio::join!(ask(&stage, "GET", &sid, "", ""), async {
        while stage.application.seen.heads.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        stage.order(&order("o")).await;
    });
    assert!(waiting.0.starts_with("http/1.1 200"), "{waiting:?}");
    assert_eq!(waiting.1, "1", "engine.io's close");
    assert!(
        waiting.0.contains("set-cookie: wsroll-affinity=; ") && waiting.0.contains("max-age=0"),
        "{}",
        waiting.0
    );
    let report = stage
        .until("done", |report| report["drain"]["state"] == "done")
        .await;
    assert_eq!(
        (&report["open"], &report["drain"]["closedClean"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(report["totals"]["closed"], json!({}), "no socket was closed");
    // The application was told by the client's own word.
    while stage.application.seen.texts.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        stage.application.seen.texts.lock().unwrap().as_slice(),
        ["40", "1"]
    );
    // A late request is no new session.
    assert_eq!(ask(&stage, "GET", &sid, "", "").await.1, "1");
    assert_eq!(stage.sessions().await["totals"]["accepted"], 1);
}

#[tokio::test]
async fn who_does_not_wait_is_told_at_its_next_poll() {
    let stage = Stage::start(settings()).await;
    let (sid, _) = begin(&stage, "").await;
    ask(&stage, "POST", &sid, "", "40").await;
    stage.order(&order("o")).await;
    assert_eq!(ask(&stage, "GET", &sid, "", "").await.1, "1");
    stage
        .until("done", |report| report["drain"]["closedClean"] == 1)
        .await;
}

#[tokio::test]
async fn a_session_that_upgrades_is_one_session() {
    let stage = Stage::start(settings()).await;
    let (sid, _) = begin(&stage, "").await;
    ask(&stage, "POST", &sid, "", "40").await;
    let mut socket = stage
        .connect(&format!("/eio?EIO=4&transport=websocket{sid}"))
        .await;
    say(&mut socket, "2probe").await;
    ask(&stage, "POST", &sid, "", "last").await;
    let report = stage.sessions().await;
    assert_eq!(
        (&report["open"], &report["totals"]["accepted"]),
        (&json!(1), &json!(1))
    );
    let (_, events) = stage
        .call("GET", "/wsroll/v1/events?after=0", &serde_json::Value::Null)
        .await;
    assert_eq!(events["events"].as_array().unwrap().len(), 1, "{events}");
    stage.order(&order("o")).await;
    assert_eq!(to_the_end(&mut socket).await.1, 1012);
    stage.until("empty", |report| report["open"] == 0).await;
}

#[tokio::test]
async fn a_session_that_the_application_does_not_know_is_none() {
    let stage = Stage::start(settings()).await;
    assert!(
        ask(&stage, "GET", "&sid=nobody", "", "")
            .await
            .0
            .starts_with("http/1.1 400")
    );
    assert_eq!(stage.sidecar.open(), 0);
}

#[tokio::test]
async fn requests_find_the_pod_that_has_the_session() {
    let (a, b) = (Stage::start(settings()).await, Stage::start(settings()).await);
    let (sid, cookie) = begin(&a, "").await;
    assert!(cookie.starts_with("wsroll-affinity=127.0.0.1:"), "{cookie}");
    // The gateway sends it to the other pod.
    assert_eq!(ask(&b, "POST", &sid, &cookie, "hello").await.1, "ok");
    assert_eq!(a.application.seen.texts.lock().unwrap().as_slice(), ["hello"]);
    assert!(b.application.seen.heads.lock().unwrap().is_empty());
    assert_eq!((a.sidecar.open(), b.sidecar.open()), (1, 0));
    assert!(
        !a.application
            .seen
            .heads
            .lock()
            .unwrap()
            .join("")
            .contains("x-wsroll-led")
    );
    // Its socket too: the pod in between counts it, since it must not end before it.
    let path = format!("/eio?EIO=4&transport=websocket{sid}");
    let mut socket = b.connect_as(&path, &[("cookie", &cookie)]).await;
    say(&mut socket, "through both").await;
    assert_eq!((a.sidecar.open(), b.sidecar.open()), (1, 1));
    assert_eq!(
        (
            &a.sessions().await["totals"]["accepted"],
            &b.sessions().await["totals"]["accepted"]
        ),
        (&json!(1), &json!(0))
    );
    a.order(&order("o")).await;
    assert_eq!(to_the_end(&mut socket).await, (vec![], 1012, "o".to_owned()));
    b.until("empty", |report| report["open"] == 0).await;
}

#[tokio::test]
async fn nothing_is_led_by_what_nobody_signed() {
    let (a, b) = (Stage::start(settings()).await, Stage::start(settings()).await);
    let (sid, cookie) = begin(&a, "").await;
    let forged = format!("{cookie}0");
    for cookie in ["", "wsroll-affinity=127.0.0.1:1", forged.as_str()] {
        let (head, _) = ask(&b, "POST", &sid, cookie, "x").await;
        assert!(head.starts_with("http/1.1 400"), "{cookie}: {head}");
    }
    assert!(a.application.seen.texts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_pod_that_is_being_emptied_binds_nobody_and_one_that_is_gone_lets_go() {
    let (a, b) = (Stage::start(settings()).await, Stage::start(settings()).await);
    let (sid, cookie) = begin(&a, "").await;
    a.order(&order("o")).await;
    assert_eq!(begin(&a, "").await.1, "");
    a.sidecar.stop();
    // Whoever still comes with its cookie gets rid of it.
    let until = async {
        loop {
            let (head, _) = ask(&b, "POST", &sid, &cookie, "x").await;
            if head.starts_with("http/1.1 503") {
                return head;
            }
            tokio::task::yield_now().await;
        }
    };
    let head = tokio::time::timeout(crate::stage::LIMIT, until).await.unwrap();
    assert!(head.contains("set-cookie: wsroll-affinity=; "), "{head}");
}
