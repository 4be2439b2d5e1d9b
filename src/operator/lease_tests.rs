//! Each test plays the API server, one call after the other, on paused time.

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock::{self, Handle};

use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

struct Scene {
    server: Server,
    guard: LeaseGuard,
    stop: CancellationToken,
    run: JoinHandle<Result<(), Error>>,
}

fn scene() -> Scene {
    let (service, server) = mock::pair();
    let (elector, guard) = Elector::new(Client::new(service, "ops"), Settings::new("ops", "me"));
    let stop = CancellationToken::new();
    let run = tokio::spawn(elector.run(stop.clone()));
    Scene {
        server,
        guard,
        stop,
        run,
    }
}

impl Scene {
    /// Waits for the next call and answers it with what `answer` makes of the body.
    async fn expect(&mut self, method: Method, code: u16, answer: impl FnOnce(Value) -> Value) -> Value {
        let next = timeout(Duration::from_secs(40), self.server.next_request());
        let (request, send) = next.await.expect("no call came").expect("the elector is gone");
        assert_eq!(*request.method(), method);
        let body = request.into_body().collect_bytes().await.unwrap();
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap()
        };
        let answer = Body::from(answer(body.clone()).to_string().into_bytes());
        send.send_response(Response::builder().status(code).body(answer).unwrap());
        body
    }

    async fn leads(&mut self) {
        self.expect(Method::GET, 200, |_| lease(Some("me"), "1")).await;
        self.expect(Method::PUT, 200, |body| versioned(body, "2")).await;
        assert!(self.guard.acquired().await);
    }

    async fn lost(self) -> String {
        let error = timeout(Duration::from_secs(40), self.run)
            .await
            .expect("still running")
            .unwrap()
            .unwrap_err();
        assert!(!self.guard.valid(Instant::now()));
        error.to_string()
    }
}

fn lease(holder: Option<&str>, version: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": NAME, "namespace": "ops", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3,
            "acquireTime": "2026-11-22T08:00:00.000000Z", "renewTime": "2026-11-22T08:00:00.000000Z"}})
}

fn versioned(mut body: Value, version: &str) -> Value {
    body["metadata"]["resourceVersion"] = json!(version);
    body
}

fn failure(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "No", "code": code})
}

#[tokio::test(start_paused = true)]
async fn a_missing_lease_is_created() {
    let mut scene = scene();
    assert!(!scene.guard.valid(Instant::now()));
    scene.expect(Method::GET, 404, |_| failure(404)).await;
    let created = scene.expect(Method::POST, 201, |body| versioned(body, "1")).await;
    assert_eq!(created["spec"]["holderIdentity"], "me");
    assert_eq!(created["spec"]["leaseDurationSeconds"], 15);
    assert!(scene.guard.acquired().await);
    assert!(scene.guard.valid(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_create_one_reads_again() {
    let mut scene = scene();
    scene.expect(Method::GET, 404, |_| failure(404)).await;
    scene.expect(Method::POST, 409, |_| failure(409)).await;
    scene
        .expect(Method::GET, 200, |_| lease(Some("other"), "1"))
        .await;
    assert!(!scene.guard.valid(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_vacant_lease_is_taken_with_its_version() {
    let mut scene = scene();
    scene.expect(Method::GET, 200, |_| lease(None, "7")).await;
    let taken = scene.expect(Method::PUT, 200, |body| versioned(body, "8")).await;
    assert_eq!(taken["metadata"]["resourceVersion"], "7");
    assert_eq!(taken["spec"]["leaseTransitions"], 4);
    assert!(scene.guard.acquired().await);
    let renewed = scene.expect(Method::PUT, 200, |body| versioned(body, "9")).await;
    assert_eq!(
        renewed["metadata"]["resourceVersion"], "8",
        "every write names the version it was read with"
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreign_lease_is_taken_only_after_it_was_seen_unchanged_for_its_duration() {
    let mut scene = scene();
    let started = Instant::now();
    // It looks ancient by its own clock; only ours counts. It is renewed once, too.
    scene
        .expect(Method::GET, 200, |_| lease(Some("other"), "1"))
        .await;
    let (mut gets, mut renewed_at) = (0, None);
    let taken_at = loop {
        let (request, send) = scene.server.next_request().await.unwrap();
        let answer = if request.method() == Method::GET {
            gets += 1;
            renewed_at = renewed_at.or(Some(Instant::now()));
            lease(Some("other"), "2")
        } else {
            lease(Some("me"), "3")
        };
        let put = request.method() == Method::PUT;
        send.send_response(Response::new(Body::from(answer.to_string().into_bytes())));
        if put {
            break Instant::now();
        }
    };
    assert!(gets >= 3, "looked {gets} times");
    assert!(taken_at - renewed_at.unwrap() >= DURATION, "taken too early");
    assert!(taken_at - started < DURATION * 3, "taken too late");
}

#[tokio::test(start_paused = true)]
async fn the_guard_lapses_before_the_lease_does() {
    let mut scene = scene();
    scene.leads().await;
    let now = Instant::now();
    assert!(scene.guard.valid(now + Duration::from_secs(9)));
    assert!(
        !scene.guard.valid(now + Duration::from_secs(10)),
        "a write begun now could land after the lease"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_by_another_ends_the_leader() {
    let mut scene = scene();
    scene.leads().await;
    scene.expect(Method::PUT, 409, |_| failure(409)).await;
    scene
        .expect(Method::GET, 200, |_| lease(Some("other"), "9"))
        .await;
    assert_eq!(scene.lost().await, "lost the lease: somebody else holds it");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_over_metadata_does_not() {
    let mut scene = scene();
    scene.leads().await;
    scene.expect(Method::PUT, 409, |_| failure(409)).await;
    scene.expect(Method::GET, 200, |_| lease(Some("me"), "9")).await;
    let renewed = scene.expect(Method::PUT, 200, |body| versioned(body, "10")).await;
    assert_eq!(renewed["metadata"]["resourceVersion"], "9");
    assert!(scene.guard.valid(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_ends_the_leader() {
    let mut scene = scene();
    scene.leads().await;
    scene.expect(Method::PUT, 404, |_| failure(404)).await;
    assert_eq!(scene.lost().await, "lost the lease: it was deleted");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_too_long_ends_the_leader() {
    let mut scene = scene();
    scene.leads().await;
    let Scene {
        mut server,
        guard,
        stop,
        run,
    } = scene;
    let down = tokio::spawn(async move {
        while let Some((_, send)) = server.next_request().await {
            let body = Body::from(failure(500).to_string().into_bytes());
            send.send_response(Response::builder().status(500).body(body).unwrap());
        }
    });
    let (service, server) = mock::pair();
    drop(service);
    let error = Scene {
        server,
        guard,
        stop,
        run,
    }
    .lost()
    .await;
    assert_eq!(error, "lost the lease: it could not be renewed in time");
    down.abort();
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_vacates() {
    let mut scene = scene();
    scene.leads().await;
    scene.stop.cancel();
    scene.expect(Method::GET, 200, |_| lease(Some("me"), "2")).await;
    let vacated = scene.expect(Method::PUT, 200, |body| versioned(body, "3")).await;
    assert_eq!(vacated["spec"].get("holderIdentity"), None);
    assert_eq!(vacated["metadata"]["resourceVersion"], "2");
    scene.run.await.unwrap().unwrap();
    assert!(!scene.guard.valid(Instant::now()));
    assert!(!scene.guard.acquired().await, "the election is over");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_stops_leaves_the_lease_alone() {
    let mut scene = scene();
    scene
        .expect(Method::GET, 200, |_| lease(Some("other"), "1"))
        .await;
    tokio::task::yield_now().await;
    scene.stop.cancel();
    scene
        .expect(Method::GET, 200, |_| lease(Some("other"), "1"))
        .await;
    scene.run.await.unwrap().unwrap();
}
