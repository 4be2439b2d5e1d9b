//! The client against real sockets: one pod per test, served by axum on the loopback.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, put};

use super::*;
use crate::drain::protocol::{Mode, OnDeadline, Reason, Reconnect, Select};

const TOKEN: &str = "s3cret";

async fn pod(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn client() -> DrainClient {
    DrainClient::new(Duration::from_millis(500)).unwrap()
}

fn order() -> DrainOrder {
    DrainOrder {
        id: "r-1-1-u".into(),
        reason: Reason::Rollout,
        select: Select::All {},
        mode: Mode::Ask,
        rate_per_second: 4.5,
        lease_seconds: 30,
        deadline_ms: Some(1000),
        on_deadline: OnDeadline::Wait,
        reconnect: Reconnect::default(),
        close_code: 1012,
    }
}

fn known(headers: &HeaderMap) -> bool {
    headers
        .get("authorization")
        .is_some_and(|value| value == format!("Bearer {TOKEN}").as_str())
}

#[tokio::test]
async fn reads_sessions_with_the_token() {
    let serve = get(|headers: HeaderMap| async move {
        if known(&headers) {
            (StatusCode::OK, r#"{"open":12}"#)
        } else {
            (StatusCode::UNAUTHORIZED, "")
        }
    });
    let pod = pod(Router::new().route(SESSIONS_PATH, serve)).await;
    assert_eq!(
        client()
            .sessions(pod, &Token::new("s3cret\n"))
            .await
            .unwrap()
            .open,
        12
    );
    let error = client().sessions(pod, &Token::new("other")).await.unwrap_err();
    assert_eq!(error.category(), "unauthorized");
}

#[tokio::test]
async fn orders_and_cancels() {
    let serve = put(|body: Bytes| async move {
        let order: DrainOrder = serde_json::from_slice(&body).unwrap();
        format!(r#"{{"id":"{}","state":"active","eligible":3}}"#, order.id)
    });
    let router = Router::new().route(DRAIN_PATH, serve).route(
        "/wsroll/v1/drain/{id}",
        delete(|| async { StatusCode::NOT_FOUND }),
    );
    let pod = pod(router).await;
    let progress = client()
        .order(pod, &Token::new(TOKEN), &order())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((progress.id.as_str(), progress.eligible), ("r-1-1-u", Some(3)));
    client()
        .cancel(pod, &Token::new(TOKEN), "r-1-1-u")
        .await
        .expect("an unknown order is as good as cancelled");
}

#[tokio::test]
async fn a_refusal_carries_the_pods_reason() {
    let pod = pod(Router::new().route(
        DRAIN_PATH,
        put(|| async { (StatusCode::BAD_REQUEST, "closeCode\nis odd") }),
    ))
    .await;
    let error = client()
        .order(pod, &Token::new(TOKEN), &order())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the pod refused the order: closeCode is odd");
}

#[tokio::test]
async fn a_bad_order_is_never_sent() {
    let bad = DrainOrder {
        rate_per_second: 0.0,
        ..order()
    };
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    assert_eq!(
        client()
            .order(nobody, &Token::new(TOKEN), &bad)
            .await
            .unwrap_err()
            .category(),
        "refused"
    );
}

#[tokio::test]
async fn no_protocol_no_pod_no_sense_and_too_much_sense() {
    let other = pod(Router::new()).await;
    assert_eq!(
        client()
            .sessions(other, &Token::new(TOKEN))
            .await
            .unwrap_err()
            .category(),
        "no_protocol"
    );

    let gone: SocketAddr = "127.0.0.1:1".parse().unwrap();
    assert_eq!(
        client()
            .sessions(gone, &Token::new(TOKEN))
            .await
            .unwrap_err()
            .category(),
        "unreachable"
    );

    let babbling = pod(Router::new().route(SESSIONS_PATH, get(|| async { "hello" }))).await;
    assert_eq!(
        client()
            .sessions(babbling, &Token::new(TOKEN))
            .await
            .unwrap_err()
            .category(),
        "bad_answer"
    );

    let endless = pod(Router::new().route(SESSIONS_PATH, get(|| async { "x".repeat(MAX_ANSWER + 1) }))).await;
    assert_eq!(
        client()
            .sessions(endless, &Token::new(TOKEN))
            .await
            .unwrap_err()
            .category(),
        "bad_answer"
    );
}

fn event(n: u64, session: &str) -> String {
    format!(r#"{{"n":{n},"kind":"arrived","session":"{session}","agoMs":5}}"#)
}

async fn events(answer: String, after: u64) -> Result<Option<EventsReport>, Error> {
    let serve = get(move |headers: HeaderMap, uri: axum::http::Uri| async move {
        let asked = uri.query() == Some(&format!("after={after}"));
        let status = if known(&headers) && asked {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        };
        (status, answer)
    });
    let pod = pod(Router::new().route(EVENTS_PATH, serve)).await;
    client().events(pod, &Token::new(TOKEN), after).await
}

#[tokio::test]
async fn reads_a_page_of_events() {
    let answer = format!(
        r#"{{"instance":"i","next":42,"events":[{},{}]}}"#,
        event(41, "74aae192643f597a"),
        event(42, "9b1c0f6e5d4a3b2c"),
    );
    let report = events(answer, 40).await.unwrap().unwrap();
    assert_eq!((report.events.len(), report.next, report.lost), (2, 42, 0));
}

#[tokio::test]
async fn a_pod_may_offer_no_events() {
    let pod = pod(Router::new()).await;
    assert_eq!(client().events(pod, &Token::new(TOKEN), 0).await.unwrap(), None);
}

#[tokio::test]
async fn events_outside_the_protocol_are_not_believed() {
    let hash = "74aae192643f597a";
    let page = |next: u64, events: &[String]| format!(r#"{{"next":{next},"events":[{}]}}"#, events.join(","));
    let many: Vec<_> = (1..=1_001).map(|n| event(n, hash)).collect();
    for (answer, why) in [
        (page(2, &[event(2, hash), event(2, hash)]), "rise"),
        (page(1, &[event(2, hash)]), "rise"),
        (page(1, &[event(1, "alice")]), "hash"),
        (page(1_001, &many), "more than 1000"),
        (r#"{"events":[]}"#.to_owned(), "next"),
        (" ".repeat(MAX_EVENTS_ANSWER + 1), "more than 524288 bytes"),
    ] {
        let error = events(answer, 0).await.unwrap_err();
        assert_eq!(error.category(), "bad_answer");
        assert!(error.to_string().contains(why), "{error} does not say {why}");
    }
    let full = events(page(1_000, &many[..1_000]), 0).await.unwrap().unwrap();
    assert_eq!(full.events.len(), 1_000, "more than other answers may have");
}

#[tokio::test]
async fn follows_no_redirect_with_the_token() {
    let redirect = get(|| async { (StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]) });
    let pod = pod(Router::new().route(SESSIONS_PATH, redirect)).await;
    assert_eq!(
        client()
            .sessions(pod, &Token::new(TOKEN))
            .await
            .unwrap_err()
            .category(),
        "bad_answer"
    );
}

#[tokio::test]
async fn a_silent_pod_is_given_up_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = DrainClient::new(Duration::from_millis(50))
        .unwrap()
        .sessions(listener.local_addr().unwrap(), &Token::new(TOKEN))
        .await
        .unwrap_err();
    assert_eq!(error.category(), "unreachable");
    assert!(!format!("{error:?}").contains(TOKEN));
}
