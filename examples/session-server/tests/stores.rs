//! One suite for all stores: what a store promises, whatever it is made of. Redis and PostgreSQL are real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "stores/model.rs"]
mod model;
mod support;

use std::{sync::Arc, time::Duration};

use rstest::rstest;
use serde_json::{Value, json};
use session_server::{
    store::{
        Change, Claim, ClaimRequest, Lease, MAX_HISTORY, MAX_IDS, MAX_OUTBOX, MAX_VALUES, PostgresStore,
        Reply, Section, Store, StoreError, Takeover, Write,
    },
    token::{Identity, Permissions},
};
use support::{Backend, Dial, Kind, TTL, eventually, execute};
use tokio::{sync::Mutex, time};
use tokio_util::sync::CancellationToken;

/// A user with a token.
fn user(name: &str) -> Identity {
    Identity {
        user: name.to_owned(),
        tier: "gold".to_owned(),
        permissions: Permissions::ALL,
        expires: None,
    }
}

async fn claim_as(store: &Store, session: &str, identity: &Identity, last: u64) -> Result<Claim, StoreError> {
    let request = ClaimRequest {
        session,
        identity,
        instance: "a0",
        last,
        forget: false,
    };
    store.claim(&request).await
}

async fn claim(store: &Store, session: &str) -> Claim {
    claim_as(store, session, &user("ann"), 0).await.unwrap()
}

async fn say(store: &Store, lease: &Lease, id: &str, ack: u64) -> Result<Reply, StoreError> {
    let write = Write {
        id,
        ack,
        reply: id,
        change: Change::Say(id),
    };
    store.write(lease, &write).await
}

async fn set(store: &Store, lease: &Lease, id: &str, key: &str, value: &Value) -> Result<Reply, StoreError> {
    let change = Change::Set {
        section: Section::Tools,
        key,
        value,
    };
    let write = Write {
        id,
        ack: 0,
        reply: "done",
        change,
    };
    store.write(lease, &write).await
}

fn seqs(replies: &[Reply]) -> Vec<u64> {
    replies.iter().map(|reply| reply.seq).collect()
}

/// Lets the time of all sessions run out, by the store's own time.
async fn expire_all(backend: &Backend) {
    match backend.kind {
        Kind::Memory => {
            time::pause();
            time::advance(TTL + Duration::from_secs(1)).await;
            time::resume();
        }
        Kind::Redis => {
            let client = redis::Client::open(backend.url.as_str()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let keys: Vec<String> = redis::cmd("KEYS")
                .arg("*")
                .query_async(&mut connection)
                .await
                .unwrap();
            for key in keys {
                let set: bool = redis::cmd("PEXPIREAT")
                    .arg(key)
                    .arg(1)
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                assert!(set);
            }
        }
        Kind::Postgres => {
            let past = "UPDATE session_server.sessions SET expires = expires - interval '1 hour'";
            execute(&backend.url, past).await;
        }
    }
}

#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn a_claim_takes_the_session_from_whoever_had_it(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = &backend.store;
    assert!(!store.may_claim("s", "ann").await.unwrap());
    let first = claim(store, "s").await;
    assert_eq!((first.found, first.lease.epoch, first.seq), (false, 1, 0));
    assert!(store.may_claim("s", "ann").await.unwrap());
    say(store, &first.lease, "c-1", 0).await.unwrap();
    let second = claim(store, "s").await;
    assert_eq!((second.found, second.lease.epoch, second.seq), (true, 2, 1));
    assert_eq!(seqs(&second.replay), [1]);
    // A claim of another life of the session, with the same epoch, is as stale as an older one.
    let forged = Lease {
        nonce: "00".into(),
        ..second.lease.clone()
    };
    for stale in [&first.lease, &forged] {
        assert!(matches!(
            say(store, stale, "c-2", 0).await,
            Err(StoreError::Stale)
        ));
        assert!(matches!(store.read(stale).await, Err(StoreError::Stale)));
        assert!(matches!(store.touch(stale).await, Err(StoreError::Stale)));
    }
    store.touch(&second.lease).await.unwrap();
    assert_eq!(say(store, &second.lease, "c-2", 0).await.unwrap().seq, 2);
    let elsewhere = Lease {
        session: "t".into(),
        ..second.lease
    };
    assert!(matches!(store.read(&elsewhere).await, Err(StoreError::Gone)));
}

#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn a_session_is_its_users_in_every_access(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = &backend.store;
    let held = claim(store, "s").await.lease;
    say(store, &held, "c-1", 0).await.unwrap();
    assert!(matches!(
        store.may_claim("s", "bob").await,
        Err(StoreError::Forbidden)
    ));
    let taken = claim_as(store, "s", &user("bob"), 0).await;
    assert!(matches!(taken, Err(StoreError::Forbidden)));
    let bobs = Lease {
        user: "bob".into(),
        ..held.clone()
    };
    assert!(matches!(
        say(store, &bobs, "c-2", 0).await,
        Err(StoreError::Forbidden)
    ));
    assert!(matches!(store.read(&bobs).await, Err(StoreError::Forbidden)));
    assert!(matches!(store.touch(&bobs).await, Err(StoreError::Forbidden)));
    assert_eq!(store.read(&held).await.unwrap().history.len(), 1);
}

#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn a_message_is_applied_once_and_everything_is_bounded(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = &backend.store;
    let held = claim(store, "s").await.lease;
    let many = MAX_IDS as u64 + 1;
    for n in 1..=many {
        assert_eq!(say(store, &held, &format!("c-{n}"), 0).await.unwrap().seq, n);
    }
    // The newest ids are remembered, and a repeat has the first reply; the oldest is forgotten.
    let newest = format!("c-{many}");
    let repeated = say(store, &held, &newest, 0).await.unwrap();
    assert_eq!((repeated.seq, repeated.id.as_str()), (many, newest.as_str()));
    assert_eq!(say(store, &held, "c-2", 0).await.unwrap().seq, 2);
    assert_eq!(say(store, &held, "c-1", 0).await.unwrap().seq, many + 1);
    let again = claim(store, "s").await;
    assert_eq!(again.replay.len(), MAX_OUTBOX);
    assert_eq!(again.replay.last().unwrap().seq, many + 1);
    assert!(again.replay.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    let history = store.read(&again.lease).await.unwrap().history;
    assert_eq!(history.len(), MAX_HISTORY);
    assert_eq!((history[0].seq, history[49].id.as_str()), (many - 48, "c-1"));
    // What was acknowledged is not kept; its repeat still has its number.
    say(store, &again.lease, "last", many + 1).await.unwrap();
    assert_eq!(say(store, &again.lease, "c-1", 0).await.unwrap().seq, many + 1);
    let short = claim_as(store, "s", &user("ann"), 0).await.unwrap();
    assert_eq!(seqs(&short.replay), [many + 2]);
    assert_eq!(
        claim_as(store, "s", &user("ann"), u64::MAX).await.unwrap().replay,
        []
    );
}

#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn values_are_kept_by_name_and_bounded(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = &backend.store;
    let held = claim(store, "s").await.lease;
    let deep = json!({"goal": [1, {"deep": null}], "text": "grüße\u{0}"});
    for n in 0..MAX_VALUES {
        set(store, &held, &format!("s-{n}"), &format!("a/{n}"), &json!(n))
            .await
            .unwrap();
    }
    let more = set(store, &held, "more", "new", &deep).await;
    assert!(matches!(more, Err(StoreError::Full)));
    set(store, &held, "over", "a/0", &deep).await.unwrap();
    let state = store.read(&held).await.unwrap();
    assert_eq!((state.tools.len(), &state.tools["a/0"]), (MAX_VALUES, &deep));
    assert!(state.context.is_empty() && state.history.is_empty());
    // The refused one left no trace: under the same id it can be said again.
    assert_eq!(
        say(store, &held, "more", 0).await.unwrap().seq,
        MAX_VALUES as u64 + 2
    );
}

#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn tier_and_permissions_are_those_of_the_last_connect(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = &backend.store;
    claim(store, "s").await;
    let less = Identity {
        tier: "free".to_owned(),
        permissions: "state".parse().unwrap(),
        ..user("ann")
    };
    let held = claim_as(store, "s", &less, 0).await.unwrap().lease;
    let state = store.read(&held).await.unwrap();
    assert_eq!((state.tier, state.permissions), (less.tier, less.permissions));
}

#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn a_session_expires_unless_it_is_used(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = &backend.store;
    let held = claim(store, "s").await.lease;
    say(store, &held, "c-1", 0).await.unwrap();
    expire_all(&backend).await;
    assert!(!store.may_claim("s", "ann").await.unwrap());
    assert!(matches!(store.read(&held).await, Err(StoreError::Gone)));
    assert!(matches!(store.touch(&held).await, Err(StoreError::Gone)));
    assert!(matches!(say(store, &held, "c-2", 0).await, Err(StoreError::Gone)));
    // What is left of it is nobody's.
    let bobs = claim_as(store, "s", &user("bob"), 0).await.unwrap();
    assert_eq!((bobs.found, bobs.seq, bobs.replay.len()), (false, 0, 0));
    assert!(store.read(&bobs.lease).await.unwrap().history.is_empty());
    assert!(matches!(store.touch(&held).await, Err(StoreError::Forbidden)));
}

#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn who_loses_a_session_is_told(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = &backend.store;
    let stop = CancellationToken::new();
    let mut takeovers = store.takeovers("a0", stop.clone());
    if kind != Kind::Memory {
        let first = time::timeout(support::PATIENCE, takeovers.recv()).await.unwrap();
        assert_eq!(first, Some(Takeover::Unsure));
    }
    claim(store, "s").await;
    let taken = ClaimRequest {
        session: "s",
        identity: &user("ann"),
        instance: "b1",
        last: 0,
        forget: false,
    };
    store.claim(&taken).await.unwrap();
    let told = time::timeout(support::PATIENCE, takeovers.recv()).await.unwrap();
    let session = "s".to_owned();
    assert_eq!(told, Some(Takeover::Taken { session, epoch: 2 }));
    stop.cancel();
}

/// Claims and writes all at once, most of them under claims that are no longer good. Whoever got a reply finds their
/// message in the session once, under that number; whoever was refused finds nothing.
#[rstest]
#[case::memory(Kind::Memory)]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn many_writers_with_stale_claims_lose_and_double_nothing(#[case] kind: Kind) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 5;
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = Arc::new(backend.store.clone());
    let claims = Arc::new(Mutex::new(Vec::new()));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let refused = Arc::new(Mutex::new(Vec::new()));
    let writers = (0..WRITERS).map(|writer| {
        let (store, claims) = (Arc::clone(&store), Arc::clone(&claims));
        let (answered, refused) = (Arc::clone(&answered), Arc::clone(&refused));
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let Claim { lease: held, seq, .. } = claim(&store, "s").await;
                claims.lock().await.push((held.epoch, seq));
                for n in 0..5 {
                    let id = format!("c-{writer}-{round}-{n}");
                    match say(&store, &held, &id, 0).await {
                        Ok(reply) => answered.lock().await.push((reply.seq, id, held.epoch)),
                        Err(StoreError::Stale) => refused.lock().await.push(id),
                        Err(error) => panic!("{error:?}"),
                    }
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let end = claim(&store, "s").await;
    assert_eq!(end.lease.epoch as usize, WRITERS * ROUNDS + 1);
    let mut answered = answered.lock().await.clone();
    answered.sort();
    let kept: Vec<_> = end
        .replay
        .into_iter()
        .map(|reply| (reply.seq, reply.id))
        .collect();
    let replies: Vec<_> = answered.iter().map(|(seq, id, _)| (*seq, id.clone())).collect();
    assert_eq!(kept, replies);
    // Whoever claims the session finds it as it stays until they write: nobody before them writes any more.
    let claims = claims.lock().await.clone();
    for (epoch, seq) in claims {
        let late = answered.iter().find(|(n, _, by)| *by < epoch && *n > seq);
        assert_eq!(
            late, None,
            "written after claim {epoch} found the session at {seq}"
        );
    }
    assert_eq!(end.seq as usize, answered.len());
    assert_eq!(answered.len() + refused.lock().await.len(), WRITERS * ROUNDS * 5);
}

/// The store's server ends in the middle and comes back with what it had on disk. Clients say again what was not
/// answered, under the same ids, and come back where they were sent away.
#[rstest]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn an_outage_loses_nothing_that_was_answered(#[case] kind: Kind) {
    const CLIENTS: usize = 8;
    let Some(mut backend) = Backend::restartable(kind).await else {
        return;
    };
    let server = backend.server().await;
    let said = Arc::new(tokio::sync::Semaphore::new(0));
    let stop = CancellationToken::new();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (server, said, stop) = (server.clone(), Arc::clone(&said), stop.clone());
            tokio::spawn(async move {
                let name = format!("user-{n}");
                let mut client = Dial::user(&name).connect(&server).await;
                let session = client.session.clone();
                let mut answered = 0u64;
                while !stop.is_cancelled() {
                    let id = format!("c-{}", answered + 1);
                    client
                        .send(json!({"type": "say", "id": id, "text": id, "ack": answered}))
                        .await;
                    match client.reply_to(&id).await {
                        Some(Ok(seq)) => {
                            // Its number says that nothing before it was lost or doubled.
                            assert_eq!(seq, answered + 1);
                            answered = seq;
                            said.add_permits(1);
                        }
                        // An outage that lasts: a shorter one is waited for, and told to nobody.
                        Some(Err(code)) => assert_eq!(code, "unavailable"),
                        None => {
                            let dial = Dial::user(&name).resume(&session, answered);
                            let end = time::Instant::now() + support::PATIENCE;
                            client = loop {
                                if let Some(again) = dial.try_connect(&server).await {
                                    break again;
                                }
                                assert!(time::Instant::now() < end, "it may not come back");
                                time::sleep(Duration::from_millis(50)).await;
                            };
                            assert!(client.resumed, "its state is gone");
                        }
                    }
                }
                let history = client.state().await["history"].clone();
                let last = history
                    .as_array()
                    .unwrap()
                    .last()
                    .map_or(0, |entry| entry["seq"].as_u64().unwrap());
                // Whoever began late may have had no answer at all.
                assert_eq!(last, answered);
            })
        })
        .collect();
    let more = async |messages: u32| said.acquire_many(messages).await.unwrap().forget();
    more(80).await;
    backend.stop().await;
    // Answers that were on their way are counted as well; these are none.
    eventually("the outage is felt", async || {
        support::metric(&server, "session_server_store_errors_total").await >= CLIENTS as u64
    })
    .await;
    said.forget_permits(usize::MAX);
    backend.start().await;
    more(80).await;
    stop.cancel();
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn ten_servers_that_start_at_once_bring_up_one_schema() {
    let Some(backend) = Backend::postgres().await else {
        return;
    };
    let starts = (0..10).map(|n| {
        let url = backend.url.clone();
        tokio::spawn(async move {
            let store = Store::Postgres(PostgresStore::new(&url, TTL, None).unwrap());
            claim(&store, &format!("s-{n}")).await.found
        })
    });
    for start in starts.collect::<Vec<_>>() {
        assert!(!start.await.unwrap());
    }
    // And a server that starts on a database that was wiped under it.
    claim(&backend.store, "s").await;
    execute(&backend.url, "DROP SCHEMA session_server CASCADE").await;
    assert!(matches!(
        backend.store.may_claim("s", "ann").await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(!claim(&backend.store, "s").await.found);
}

#[tokio::test]
async fn expired_sessions_are_deleted_by_one_server_at_a_time() {
    let Some(backend) = Backend::postgres().await else {
        return;
    };
    let Store::Postgres(store) = &backend.store else {
        panic!()
    };
    for n in 0..120 {
        let held = claim(&backend.store, &format!("s-{n}")).await.lease;
        say(&backend.store, &held, "c-1", 0).await.unwrap();
    }
    assert_eq!(store.sweep().await.unwrap(), 0);
    expire_all(&backend).await;
    let held = claim(&backend.store, "s-7").await.lease;
    let (busy, connection) = tokio_postgres::connect(&backend.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    busy.batch_execute("SELECT pg_advisory_lock(1936028531, 2)")
        .await
        .unwrap();
    assert_eq!(store.sweep().await.unwrap(), 0, "another is at it");
    busy.batch_execute("SELECT pg_advisory_unlock(1936028531, 2)")
        .await
        .unwrap();
    assert_eq!(store.sweep().await.unwrap(), 119);
    let left = "SELECT (SELECT count(*) FROM session_server.sessions) + (SELECT count(*) FROM session_server.outbox)";
    let left: i64 = busy.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 1, "the one that was claimed again, empty");
    backend.store.touch(&held).await.unwrap();
}

#[tokio::test]
async fn tls_is_demanded_where_the_url_says_so() {
    let Some(backend) = Backend::postgres().await else {
        return;
    };
    let url = backend.url.replace("sslmode=disable", "sslmode=require");
    let store = Store::Postgres(PostgresStore::new(&url, TTL, None).unwrap());
    // The test's server has none.
    assert!(matches!(
        store.may_claim("s", "ann").await,
        Err(StoreError::Unavailable(_))
    ));
    let missing = std::path::Path::new("/nonexistent/ca.pem");
    assert!(PostgresStore::new(&url, TTL, Some(missing)).is_err());
    assert!(PostgresStore::new("postgres://ann@db/x?sslmode=maybe", TTL, None).is_err());
}
