//! Fault switches over real sockets: each breaks what it says, and only that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use session_server::Exit;
use support::{Backend, Dial, drain, eventually, sessions};
use tokio::time::{Instant, timeout};

on_all_stores!(forget_loses_the_state_and_says_so);

async fn forget_loses_the_state_and_says_so(backend: &Backend) {
    let (old, new) = (backend.server().await, backend.faulty("forget").await);
    let mut client = Dial::user("ann").connect(&old).await;
    client.say("c-1", "remember me").await;
    let mut resumed = Dial::user("ann").resume(&client.session, 0).connect(&new).await;
    assert_eq!((resumed.resumed, resumed.seq), (false, 0));
    assert_eq!(resumed.state().await["history"], json!([]));
    assert_eq!(sessions(&new).await["totals"]["stateLost"], 1);
    // Even so the old owner is out.
    assert_eq!(client.until_closed().await.1, 4409);
}

#[tokio::test]
async fn mute_accepts_and_says_nothing_but_can_be_closed() {
    let backend = Backend::memory();
    let (good, mute) = (backend.server().await, backend.faulty("mute").await);
    let mut client = Dial::user("ann").connect(&good).await;
    let mut silent = Dial::user("ann")
        .resume(&client.session, 0)
        .notices()
        .socket(&mute)
        .await;
    silent
        .send(json!({"type": "say", "id": "c-1", "text": "hello?"}))
        .await;
    let order = json!({"id": "o", "ratePerSecond": 10, "leaseSeconds": 9, "reconnect": {"maxMs": 0}});
    assert_eq!(sessions(&mute).await["open"], 1);
    assert_eq!(drain(&mute, "PUT", "/wsroll/v1/drain", Some(&order)).await.0, 200);
    assert_eq!(
        silent.until_closed().await,
        (Vec::<Value>::new(), 1012, "o".to_owned())
    );
    // It took nothing from the session's owner.
    assert_eq!(client.say("c-1", "x").await["seq"], 1);
}

#[tokio::test]
async fn mute_above_breaks_only_new_sockets_under_load() {
    let server = Backend::memory().faulty("mute-above=2").await;
    let mut first = Dial::user("a").connect(&server).await;
    let second = Dial::user("b").connect(&server).await;
    let mut third = Dial::user("c").socket(&server).await;
    third
        .send(json!({"type": "say", "id": "c-1", "text": "hello?"}))
        .await;
    assert_eq!(first.say("c-1", "x").await["seq"], 1);
    assert!(
        timeout(Duration::from_millis(200), third.receive())
            .await
            .is_err()
    );
    drop(third);
    second.leave().await;
    eventually("there is room again", async || server.open() == 1).await;
    Dial::user("d").connect(&server).await;
}

#[tokio::test]
async fn slow_answers_late() {
    let server = Backend::memory().faulty("slow=300").await;
    let mut client = Dial::user("ann").connect(&server).await;
    let start = Instant::now();
    assert_eq!(client.say("c-1", "x").await["seq"], 1);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn refuse_refuses_a_share_of_upgrades() {
    let all = Backend::memory().faulty("refuse=100%").await;
    assert_eq!(Dial::user("ann").refused(&all).await, 503);
    let some = Backend::memory().faulty("refuse=30%").await;
    let mut refused = 0;
    for _ in 0..200 {
        refused += usize::from(Dial::user("ann").open(&some).await.is_err());
    }
    assert!((25..=100).contains(&refused), "{refused} of 200");
}

#[tokio::test]
async fn crash_cuts_everybody_after_so_many_messages() {
    let server = Backend::memory().faulty("crash=3").await;
    let mut bystander = Dial::user("bob").connect(&server).await;
    let mut client = Dial::user("ann").connect(&server).await;
    client.say("c-1", "x").await;
    client.say("c-2", "x").await;
    client
        .send(json!({"type": "say", "id": "c-3", "text": "x"}))
        .await;
    assert_eq!(server.ended().await, Exit::Crashed);
    assert_eq!(client.until_closed().await.1, 1006);
    assert_eq!(bystander.until_closed().await.1, 1006);
}

#[tokio::test]
async fn lie_reports_no_sessions() {
    let server = Backend::memory().faulty("lie").await;
    let _client = Dial::user("ann").connect(&server).await;
    assert_eq!(server.open(), 1);
    assert_eq!(sessions(&server).await["open"], 0);
}
