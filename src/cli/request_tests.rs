//! Each test plays the API server (and the operator behind it) on paused time.

use http::{Method, Request as HttpRequest, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock::{self, Handle};

use super::*;

type Server = Handle<HttpRequest<Body>, Response<Body>>;

fn rollout(status: &Value) -> Value {
    json!({"apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout", "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {"template": {}, "traffic": {"port": 8080, "routes": [{"name": "chat"}]}, "probes": {"url": "ws://x/ws"}},
        "status": status})
}

fn moving() -> Value {
    json!({"phase": "Moving", "state": {"moving": {"step": 1, "since": "2026-11-22T08:00:00Z"}}})
}

fn answered(nonce: &Value, accepted: bool) -> Value {
    let mut status = moving();
    status["lastRequest"] = json!({"nonce": nonce, "verb": "promote", "accepted": accepted, "message": "on to 50 %",
        "at": "2026-11-22T08:00:01Z"});
    status
}

fn asked(wait: Duration) -> (Server, JoinHandle<Result<Option<RequestResult>, Error>>) {
    let (service, server) = mock::pair();
    let target = Target {
        name: "chat".into(),
        namespace: None,
    };
    let rollout = target.with(Client::new(service, "prod"));
    (
        server,
        tokio::spawn(async move { ask(&rollout, Verb::Promote, Some("jane"), wait).await }),
    )
}

async fn expect(server: &mut Server, method: Method, code: u16, answer: &Value) -> Value {
    let next = tokio::time::timeout(Duration::from_secs(5), server.next_request());
    let (request, send) = next.await.expect("no call came").expect("the client is gone");
    assert_eq!(*request.method(), method);
    assert!(
        request
            .uri()
            .path()
            .ends_with("/namespaces/prod/websocketrollouts/chat")
    );
    let body = request.into_body().collect_bytes().await.unwrap();
    let answer = Body::from(answer.to_string().into_bytes());
    send.send_response(Response::builder().status(code).body(answer).unwrap());
    serde_json::from_slice(&body).unwrap_or_default()
}

/// Plays a patch, and returns the request in the annotation.
async fn patched(server: &mut Server) -> Value {
    let metadata = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "chat"}});
    let body = expect(server, Method::PATCH, 200, &metadata).await;
    serde_json::from_str(
        body["metadata"]["annotations"]["wsroll.dev/request"]
            .as_str()
            .unwrap(),
    )
    .unwrap()
}

fn failure(code: u16, details: &Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "NotFound", "code": code,
        "details": details})
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_answer_to_its_own_request() {
    let (mut server, asked) = asked(Duration::from_secs(10));
    expect(&mut server, Method::GET, 200, &rollout(&moving())).await;
    let request = patched(&mut server).await;
    assert_eq!(
        (&request["verb"], &request["by"]),
        (&json!("promote"), &json!("jane"))
    );
    expect(
        &mut server,
        Method::GET,
        200,
        &rollout(&answered(&json!("another"), false)),
    )
    .await;
    expect(
        &mut server,
        Method::GET,
        200,
        &rollout(&answered(&request["nonce"], true)),
    )
    .await;
    assert_eq!(asked.await.unwrap().unwrap().unwrap().message, "on to 50 %");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_error() {
    let (mut server, asked) = asked(Duration::from_secs(10));
    expect(&mut server, Method::GET, 200, &rollout(&moving())).await;
    let request = patched(&mut server).await;
    expect(
        &mut server,
        Method::GET,
        200,
        &rollout(&answered(&request["nonce"], false)),
    )
    .await;
    assert_eq!(
        asked.await.unwrap().unwrap_err().to_string(),
        "promote was refused: on to 50 %"
    );
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_away_is_named() {
    let (mut server, asked) = asked(Duration::from_secs(1));
    expect(&mut server, Method::GET, 200, &rollout(&moving())).await;
    patched(&mut server).await;
    let waiting = tokio::spawn(async move {
        loop {
            expect(&mut server, Method::GET, 200, &rollout(&moving())).await;
        }
    });
    let error = asked.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("did not answer within 1s"), "{error}");
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn without_waiting_it_only_asks() {
    let (mut server, asked) = asked(Duration::ZERO);
    expect(&mut server, Method::GET, 200, &rollout(&moving())).await;
    patched(&mut server).await;
    assert_eq!(asked.await.unwrap().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_missing_rollout_is_told_from_a_missing_definition() {
    for (details, expected) in [
        (
            json!({"name": "chat"}),
            "there is no WebSocketRollout chat in namespace prod",
        ),
        (
            Value::Null,
            "install the definition with `wsroll crd | kubectl apply -f -`",
        ),
    ] {
        let (mut server, asked) = asked(Duration::ZERO);
        expect(&mut server, Method::GET, 404, &failure(404, &details)).await;
        let error = asked.await.unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[rstest::rstest]
#[case(json!({"phase": "Healthy", "state": {"healthy": {"since": "2026-11-22T08:00:00Z"}}}), Verb::Promote, Some("nothing to promote"))]
#[case(json!({"phase": "Healthy", "state": {"healthy": {"since": "2026-11-22T08:00:00Z"}}}), Verb::Abort, Some("nothing to abort"))]
#[case(json!({"phase": "Healthy", "state": {"healthy": {"since": "2026-11-22T08:00:00Z"}}}), Verb::Retry, Some("nothing to retry"))]
#[case(json!({"phase": "Soaking", "state": {"soaking": {"since": "2026-11-22T08:00:00Z", "until": "2026-11-24T08:00:00Z"}}}), Verb::Abort, None)]
#[case(json!({"phase": "Moving", "state": {"moving": {"step": 0, "since": "2026-11-22T08:00:00Z"}}}), Verb::Pause, None)]
#[case(Value::Null, Verb::Promote, Some("no operator has seen chat yet"))]
fn what_can_only_be_refused_is_not_asked(
    #[case] status: Value,
    #[case] verb: Verb,
    #[case] expected: Option<&str>,
) {
    let rollout: WebSocketRollout = serde_json::from_value(rollout(&status)).unwrap();
    match (pointless(&rollout, verb), expected) {
        (None, None) => {}
        (Some(reason), Some(expected)) => assert!(reason.contains(expected), "{reason}"),
        (reason, _) => panic!("{reason:?}"),
    }
}
