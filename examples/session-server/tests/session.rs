//! Sessions over real sockets: welcome, replies, resume, ownership. Every scenario runs on all stores.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use session_server::{
    Config, Server,
    config::Limits,
    token::{Clock, Identity, Permissions},
};
use support::{Backend, Dial, eventually, request};

/// A time, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

on_all_stores!(
    a_new_session_is_welcomed_and_its_replies_are_numbered,
    a_resume_replays_what_the_client_missed,
    a_repeated_message_is_applied_once,
    all_of_the_state_survives_the_server,
    values_are_bounded_and_errors_leave_the_session_usable,
    another_user_cannot_take_a_session,
    a_session_that_is_not_found_is_made_and_says_so,
    an_idle_old_socket_learns_at_once_that_it_lost_its_session,
    a_slow_old_server_can_neither_write_nor_deliver,
    the_same_server_moves_a_session_between_its_sockets,
    a_token_is_checked_again_at_every_resume,
    what_a_lesser_token_does_not_permit_is_refused_after_the_resume,
);

async fn a_new_session_is_welcomed_and_its_replies_are_numbered(backend: &Backend) {
    let server = backend.server().await;
    let mut client = Dial::user("ann").connect(&server).await;
    assert_eq!((client.resumed, client.seq, client.epoch), (false, 0, 1));
    assert_eq!(client.revision, "local");
    for n in 1..=3 {
        let reply = client.say(&format!("c-{n}"), "hello").await;
        assert_eq!(
            reply,
            json!({"type": "message", "seq": n, "id": format!("c-{n}"), "text": "hello"})
        );
    }
    assert_eq!(server.open(), 1);
    client.leave().await;
    eventually("the socket is counted out", async || server.open() == 0).await;
}

async fn a_resume_replays_what_the_client_missed(backend: &Backend) {
    let (old, new) = (backend.server().await, backend.server().await);
    let mut client = Dial::user("ann").connect(&old).await;
    for n in 1..=5 {
        client.say(&format!("c-{n}"), "x").await;
    }
    let mut resumed = Dial::user("ann").resume(&client.session, 3).connect(&new).await;
    assert_eq!((resumed.resumed, resumed.seq, resumed.epoch), (true, 5, 2));
    assert_eq!(resumed.receive().await["seq"], 4);
    assert_eq!(resumed.receive().await["seq"], 5);
    assert_eq!(resumed.say("c-6", "x").await["seq"], 6);
    // What the client acknowledged is not kept: even an older `last` brings only the rest.
    resumed
        .send(json!({"type": "say", "id": "c-7", "text": "x", "ack": 6}))
        .await;
    assert_eq!(resumed.receive().await["seq"], 7);
    let mut again = Dial::user("ann").resume(&client.session, 0).connect(&new).await;
    assert_eq!(again.receive().await["seq"], 7);
}

async fn a_repeated_message_is_applied_once(backend: &Backend) {
    let (old, new) = (backend.server().await, backend.server().await);
    let mut client = Dial::user("ann").connect(&old).await;
    let first = client.say("c-1", "hello").await;
    assert_eq!(client.say("c-1", "hello").await, first);
    let mut resumed = Dial::user("ann").resume(&client.session, 1).connect(&new).await;
    assert_eq!(resumed.say("c-1", "hello").await, first);
    assert_eq!(resumed.say("c-2", "again").await["seq"], 2);
    assert_eq!(resumed.state().await["history"].as_array().unwrap().len(), 2);
}

async fn all_of_the_state_survives_the_server(backend: &Backend) {
    let old = backend.server().await;
    let mut client = Dial::user("ann").connect(&old).await;
    client.say("c-1", "grüße \"and\" newlines\n").await;
    for (section, value) in [
        ("context", json!({"goal": [1, {"deep": null}]})),
        ("tools", json!(4.5)),
        ("preferences", json!("dark")),
    ] {
        let id = format!("s-{section}");
        client
            .send(json!({"type": "set", "id": id, "section": section, "key": "a/b", "value": value}))
            .await;
        assert_eq!(client.receive().await["text"], format!("{section}.a/b"));
    }
    let before = client.state().await;
    old.kill();
    let new = backend.server().await;
    let mut resumed = Dial::user("ann").resume(&client.session, 4).connect(&new).await;
    let after = resumed.state().await;
    assert_eq!(after, before);
    assert_eq!(
        after,
        json!({"history": [{"seq": 1, "id": "c-1", "text": "grüße \"and\" newlines\n"}],
            "context": {"a/b": {"goal": [1, {"deep": null}]}}, "tools": {"a/b": 4.5},
            "preferences": {"a/b": "dark"}, "tier": "gold", "permissions": ["say", "set", "state"]})
    );
}

async fn values_are_bounded_and_errors_leave_the_session_usable(backend: &Backend) {
    let server = backend.server().await;
    let mut client = Dial::user("ann").connect(&server).await;
    let set = |n: usize| json!({"type": "set", "id": format!("s-{n}"), "section": "tools", "key": format!("k{n}"), "value": n});
    for n in 0..128 {
        client.send(set(n)).await;
        assert_eq!(client.receive().await["type"], "message");
    }
    client.send(set(128)).await;
    assert_eq!(client.receive().await["code"], "full");
    client.send(json!({"type": "shout"})).await;
    assert_eq!(client.receive().await["code"], "bad_message");
    assert_eq!(client.say("c-1", "still here").await["seq"], 129);
    for n in 2..=60 {
        client.say(&format!("c-{n}"), "x").await;
    }
    let history = client.state().await["history"].clone();
    assert_eq!(history.as_array().map(Vec::len), Some(50));
    assert_eq!(history[49]["id"], "c-60");
}

async fn another_user_cannot_take_a_session(backend: &Backend) {
    let server = backend.server().await;
    let client = Dial::user("ann").connect(&server).await;
    assert_eq!(
        Dial::user("bob")
            .resume(&client.session, 0)
            .refused(&server)
            .await,
        403
    );
    assert_eq!(support::sessions(&server).await["totals"]["resumeFailed"], 1);
}

async fn a_session_that_is_not_found_is_made_and_says_so(backend: &Backend) {
    let server = backend.server().await;
    let client = Dial::user("ann").resume("never-seen", 7).connect(&server).await;
    assert_eq!(
        (client.session.as_str(), client.resumed, client.seq),
        ("never-seen", false, 0)
    );
    assert_eq!(support::sessions(&server).await["totals"]["stateLost"], 1);
}

async fn an_idle_old_socket_learns_at_once_that_it_lost_its_session(backend: &Backend) {
    let (old, new) = (backend.server().await, backend.server().await);
    let mut client = Dial::user("ann").connect(&old).await;
    let mut resumed = Dial::user("ann").resume(&client.session, 0).connect(&new).await;
    let asked = tokio::time::Instant::now();
    let (_, code, _) = client.until_closed().await;
    assert_eq!(code, 4409);
    assert!(asked.elapsed().as_secs() < 2, "{:?}", asked.elapsed());
    assert_eq!(resumed.say("c-1", "mine now").await["seq"], 1);
    eventually("the old socket is counted", async || {
        support::sessions(&old).await["totals"]["closed"]["4409"] == 1
    })
    .await;
}

async fn a_slow_old_server_can_neither_write_nor_deliver(backend: &Backend) {
    let (old, new) = (backend.faulty("slow=60000").await, backend.server().await);
    let mut was_applied = false;
    while !was_applied {
        let mut client = Dial::user("ann").connect(&old).await;
        // The answer to the first is late; the second waits behind it in the socket.
        client
            .send(json!({"type": "say", "id": "c-1", "text": "first"}))
            .await;
        client
            .send(json!({"type": "say", "id": "c-2", "text": "second"}))
            .await;
        let mut resumed = Dial::user("ann").resume(&client.session, 0).connect(&new).await;
        // The old server delivers nothing more and goes.
        let (late, code, _) = client.until_closed().await;
        assert_eq!((late, code), (Vec::<Value>::new(), 4409));
        // If the first was applied before the takeover, the new owner replays it; else it is as if never said, and
        // this round tried only the refused write.
        was_applied = resumed.seq == 1;
        if was_applied {
            assert_eq!(resumed.receive().await["id"], "c-1");
        } else {
            assert_eq!(resumed.say("c-1", "first").await["seq"], 1);
        }
        assert_eq!(resumed.say("c-2", "second").await["seq"], 2);
        let history = resumed.state().await["history"].clone();
        assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    }
}

async fn the_same_server_moves_a_session_between_its_sockets(backend: &Backend) {
    let server = backend.server().await;
    let mut first = Dial::user("ann").connect(&server).await;
    first.say("c-1", "x").await;
    let mut second = Dial::user("ann").resume(&first.session, 1).connect(&server).await;
    assert_eq!(first.until_closed().await.1, 4409);
    assert_eq!(second.say("c-2", "x").await["seq"], 2);
    eventually("one socket is left", async || server.open() == 1).await;
}

async fn a_token_is_checked_again_at_every_resume(backend: &Backend) {
    let clock = Arc::new(AtomicU64::new(NOW));
    let server = Server::start(Config {
        clock: Clock::Manual(Arc::clone(&clock)),
        ..backend.config()
    })
    .await
    .unwrap();
    let ann = Identity {
        expires: Some(NOW + 60),
        ..identity("ann", Permissions::ALL)
    };
    let mut client = Dial::identity(&ann).connect(&server).await;
    client.say("c-1", "x").await;
    let session = client.session.clone();
    let again = |dial: Dial| dial.resume(&session, 1);
    let forged = Dial {
        token: Some("ann.gold.say-set-state.0.00".to_owned()),
        ..Dial::default()
    };
    assert_eq!(again(forged).refused(&server).await, 401);
    assert_eq!(again(Dial::user("bob")).refused(&server).await, 403);
    clock.store(NOW + 60, Ordering::Relaxed);
    assert_eq!(again(Dial::identity(&ann)).refused(&server).await, 401);
    // None of them took anything from the owner, whose socket outlives the token.
    assert_eq!(client.say("c-2", "x").await["seq"], 2);
    let renewed = Identity {
        expires: Some(NOW + 120),
        ..ann
    };
    let resumed = again(Dial::identity(&renewed)).connect(&server).await;
    assert_eq!((resumed.resumed, resumed.seq), (true, 2));
}

async fn what_a_lesser_token_does_not_permit_is_refused_after_the_resume(backend: &Backend) {
    let (old, new) = (backend.server().await, backend.server().await);
    let mut client = Dial::identity(&identity("ann", Permissions::ALL))
        .connect(&old)
        .await;
    let set = json!({"type": "set", "id": "s-1", "section": "tools", "key": "k", "value": 1});
    client.send(set.clone()).await;
    assert_eq!(client.receive().await["seq"], 1);
    let less = Identity {
        tier: "free".to_owned(),
        ..identity("ann", "say-state".parse().unwrap())
    };
    let mut resumed = Dial::identity(&less)
        .resume(&client.session, 1)
        .connect(&new)
        .await;
    resumed.send(set).await;
    let refused = resumed.receive().await;
    assert_eq!(
        (&refused["code"], &refused["id"]),
        (&json!("forbidden"), &json!("s-1"))
    );
    assert_eq!(resumed.say("c-1", "x").await["seq"], 2);
    let state = resumed.state().await;
    assert_eq!(state["tools"], json!({"k": 1}));
    assert_eq!(
        (&state["tier"], &state["permissions"]),
        (&json!("free"), &json!(["say", "state"]))
    );
    let mute = identity("ann", Permissions::default());
    let mut silent = Dial::identity(&mute)
        .resume(&client.session, 2)
        .connect(&new)
        .await;
    for message in [
        json!({"type": "say", "id": "c-2", "text": "x"}),
        json!({"type": "state", "id": "c-3"}),
    ] {
        silent.send(message).await;
        assert_eq!(silent.receive().await["code"], "forbidden");
    }
}

fn identity(user: &str, permissions: Permissions) -> Identity {
    Identity {
        user: user.to_owned(),
        tier: "gold".to_owned(),
        permissions,
        expires: None,
    }
}

#[tokio::test]
async fn connects_without_a_good_token_are_refused() {
    let server = Server::start(Config::local(support::KEY)).await.unwrap();
    let upgrade = async |query: &str| request(server.traffic_addr(), "GET", query, None, None).await.0;
    assert_eq!(upgrade("/ws").await, 401);
    assert_eq!(upgrade("/ws?token=ann.gold.00").await, 401);
    assert_eq!(upgrade("/healthz").await, 200);
    assert_eq!(upgrade("/metrics").await, 200);
    assert_eq!(upgrade("/other").await, 404);
    let token = session_server::token::SessionKey::new(support::KEY)
        .sign("ann", "gold")
        .unwrap();
    assert_eq!(
        upgrade(&format!("/ws?token={token}")).await,
        400,
        "not an upgrade"
    );
    assert_eq!(upgrade(&format!("/ws?token={token}&session=a%2Fb")).await, 400);
    assert_eq!(upgrade(&format!("/ws?token={token}&last=x")).await, 400);
}

#[tokio::test]
async fn large_and_binary_messages_close_the_socket_with_a_reason() {
    let backend = Backend::memory();
    let server = backend.server().await;
    let mut client = Dial::user("ann").connect(&server).await;
    client
        .send(json!({"type": "say", "id": "c-1", "text": "x".repeat(20_000)}))
        .await;
    assert_eq!(client.until_closed().await.1, 1009);
}

#[tokio::test]
async fn without_its_redis_the_server_refuses_and_comes_back() {
    let Some(mut backend) = Backend::redis().await else {
        return;
    };
    let server = backend.server().await;
    let mut client = Dial::user("ann").connect(&server).await;
    client.say("c-1", "x").await;
    backend.stop().await;
    assert_eq!(client.say("c-2", "x").await["code"], "unavailable");
    assert_eq!(
        Dial::user("ann")
            .resume(&client.session, 1)
            .refused(&server)
            .await,
        503
    );
    // It comes back empty: the session's state is gone, and both sides are told so.
    backend.wipe();
    backend.start().await;
    assert_eq!(client.until_closed().await.1, 1011);
    let back = async || Dial::user("bob").open(&server).await.is_ok();
    eventually("sockets can be opened again", back).await;
    let again = Dial::user("ann")
        .resume(&client.session, 1)
        .connect(&server)
        .await;
    assert_eq!((again.resumed, again.seq), (false, 0));
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_and_counted() {
    let limits = Limits {
        write_timeout: Duration::from_millis(300),
        ..Backend::memory().config().limits
    };
    let server = Server::start(Config {
        limits,
        ..Backend::memory().config()
    })
    .await
    .unwrap();
    let client = Dial::user("ann").socket(&server).await;
    // It says a lot and reads none of the answers, until its own writes get stuck.
    let talker = tokio::spawn(async move {
        let mut client = client;
        for n in 0.. {
            client
                .send(json!({"type": "say", "id": format!("c-{n}"), "text": "x".repeat(15_000)}))
                .await;
        }
    });
    eventually("it is cut", async || server.open() == 0).await;
    talker.abort();
    assert_eq!(
        support::metric(&server, "session_server_slow_readers_total").await,
        1
    );
}
