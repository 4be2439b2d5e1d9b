//! What stands in the stores, seen by somebody who reads and writes them behind the server's back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use redis::aio::MultiplexedConnection;
use rstest::rstest;
use serde_json::json;
use session_server::{
    Config, Server,
    store::{Change, Claim, ClaimRequest, Lease, SealError, Section, StateKeys, Store, StoreError, Write},
    token::{Identity, Permissions},
};
use support::{Backend, Dial, Kind, execute};

/// Two keys, as `openssl rand -base64 32` prints them.
const KEYS: [&str; 2] = [
    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=",
];
/// What must not be read in the store: an id, what was said, a name, a value, a reply.
const SECRETS: [&str; 5] = [
    "id-of-mine",
    "said-in-secret",
    "name-of-mine",
    "value-of-mine",
    "tools.",
];

fn keys(lines: &[&str]) -> StateKeys {
    StateKeys::parse(&lines.join("\n")).unwrap()
}

async fn claim(store: &Store, session: &str, user: &str) -> Result<Claim, StoreError> {
    let identity = Identity {
        user: user.to_owned(),
        tier: "gold".to_owned(),
        permissions: Permissions::ALL,
        expires: None,
    };
    let request = ClaimRequest {
        session,
        identity: &identity,
        instance: "a0",
        last: 0,
        forget: false,
    };
    store.claim(&request).await
}

/// A session with something of everything in it.
async fn filled(store: &Store, session: &str, user: &str) -> Lease {
    let lease = claim(store, session, user).await.unwrap().lease;
    write(store, &lease, "id-of-mine", Change::Say("said-in-secret"))
        .await
        .unwrap();
    let value = json!("value-of-mine");
    let change = Change::Set {
        section: Section::Tools,
        key: "name-of-mine",
        value: &value,
    };
    write(store, &lease, "another-id", change).await.unwrap();
    lease
}

async fn write(store: &Store, lease: &Lease, id: &str, change: Change<'_>) -> Result<u64, StoreError> {
    let reply = match &change {
        Change::Say(text) => (*text).to_owned(),
        Change::Set { section, key, .. } => format!("{}.{key}", section.as_str()),
    };
    let write = Write {
        id,
        ack: 0,
        reply: &reply,
        change,
    };
    Ok(store.write(lease, &write).await?.seq)
}

/// Everything that the store holds, one after the other.
async fn all_of_it(backend: &Backend) -> Vec<u8> {
    if backend.kind == Kind::Postgres {
        let (client, connection) = tokio_postgres::connect(&backend.url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut all = Vec::new();
        for column in [
            "outbox.entry",
            "history.entry",
            "ids.id",
            "items.name",
            "items.entry",
        ] {
            let (table, column) = column.split_once('.').unwrap();
            let rows = client
                .query(&format!("SELECT {column} FROM session_server.{table}"), &[])
                .await
                .unwrap();
            assert!(!rows.is_empty(), "{table}");
            for row in &rows {
                all.extend_from_slice(row.get(0));
            }
        }
        return all;
    }
    let mut redis = connection(backend).await;
    let mut all = Vec::new();
    for key in ask::<Vec<String>>(&mut redis, &["KEYS", "*"]).await {
        all.extend(ask::<Vec<u8>>(&mut redis, &["DUMP", &key]).await);
    }
    // Whole entries: what is packed could hide something.
    for (part, command) in [("history", "LRANGE"), ("outbox", "ZRANGE"), ("ids", "ZRANGE")] {
        let key = format!("session:{{s}}:ann:{part}");
        all.extend(
            ask::<Vec<Vec<u8>>>(&mut redis, &[command, &key, "0", "-1"])
                .await
                .concat(),
        );
    }
    all.extend(
        ask::<Vec<Vec<u8>>>(&mut redis, &["HGETALL", "session:{s}:ann:values"])
            .await
            .concat(),
    );
    all
}

async fn connection(backend: &Backend) -> MultiplexedConnection {
    let client = redis::Client::open(backend.url.as_str()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn ask<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query_async(connection).await.unwrap()
}

fn holds(all: &[u8], word: &str) -> bool {
    all.windows(word.len()).any(|part| part == word.as_bytes())
}

#[rstest]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn nothing_in_the_store_can_be_read(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = backend.sealed(&keys(&KEYS[..1]));
    let lease = filled(&store, "s", "ann").await;
    let all = all_of_it(&backend).await;
    for secret in SECRETS {
        assert!(!holds(&all, secret), "{secret} can be read");
    }
    let state = store.read(&lease).await.unwrap();
    assert_eq!(
        (state.history[0].text.as_str(), &state.tools["name-of-mine"]),
        ("said-in-secret", &json!("value-of-mine"))
    );
    let again = claim(&store, "s", "ann").await.unwrap();
    assert_eq!(again.replay[1].text, "tools.name-of-mine");
    assert_eq!(
        write(&store, &again.lease, "id-of-mine", Change::Say("x"))
            .await
            .unwrap(),
        1
    );
    // Without the key the same look finds all of it: it looks where it should.
    let open = Backend::of(kind).await.unwrap();
    filled(&open.store, "s", "ann").await;
    let all = all_of_it(&open).await;
    for secret in SECRETS {
        assert!(holds(&all, secret), "{secret} was not looked for");
    }
}

#[rstest]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn what_was_moved_from_another_user_is_refused(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let store = backend.sealed(&keys(&KEYS[..1]));
    let anns = filled(&store, "s", "ann").await;
    let bobs = filled(&store, "t", "bob").await;
    // Whoever may write to the store gives Bob what is Ann's.
    if kind == Kind::Postgres {
        let swap = "UPDATE session_server.history SET entry = \
            (SELECT h.entry FROM session_server.history h WHERE h.owner = 'ann') WHERE owner = 'bob'; \
            UPDATE session_server.outbox SET entry = \
            (SELECT o.entry FROM session_server.outbox o WHERE o.owner = 'ann' AND seq = 1) WHERE owner = 'bob' AND seq = 1";
        execute(&backend.url, swap).await;
    } else {
        let mut redis = connection(&backend).await;
        for part in ["history", "outbox"] {
            let (from, to) = (
                format!("session:{{s}}:ann:{part}"),
                format!("session:{{t}}:bob:{part}"),
            );
            assert_eq!(ask::<i64>(&mut redis, &["COPY", &from, &to, "REPLACE"]).await, 1);
        }
    }
    assert!(matches!(
        store.read(&bobs).await,
        Err(StoreError::Unreadable(SealError::Foreign))
    ));
    let taken = claim(&store, "t", "bob").await;
    assert!(matches!(taken, Err(StoreError::Unreadable(SealError::Foreign))));
    assert_eq!(store.read(&anns).await.unwrap().history.len(), 1);
    // A client is sent away with a reason, and hears nothing of it.
    let server = Server::start(Config {
        store,
        ..backend.config()
    })
    .await
    .unwrap();
    let mut client = Dial::user("bob").resume("t", 0).socket(&server).await;
    let (messages, code, _) = client.until_closed().await;
    assert_eq!((messages.len(), code), (0, 1011));
    // The whole session made Bob's, instead: he may claim it, and cannot read it.
    if kind == Kind::Redis {
        let mut redis = connection(&backend).await;
        ask::<i64>(&mut redis, &["HSET", "session:{s}", "user", "bob"]).await;
        for part in ["history", "outbox", "ids", "values"] {
            let (from, to) = (
                format!("session:{{s}}:ann:{part}"),
                format!("session:{{s}}:bob:{part}"),
            );
            ask::<String>(&mut redis, &["RENAME", &from, &to]).await;
        }
        let store = backend.sealed(&keys(&KEYS[..1]));
        assert!(matches!(
            claim(&store, "s", "bob").await,
            Err(StoreError::Unreadable(SealError::Foreign))
        ));
    }
}

#[rstest]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn a_rotated_key_still_opens(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    let before = backend.sealed(&keys(&KEYS[..1]));
    let during = backend.sealed(&keys(&[KEYS[1], KEYS[0]]));
    let after = backend.sealed(&keys(&KEYS[1..]));
    filled(&before, "s", "ann").await;
    let held = claim(&during, "s", "ann").await.unwrap();
    assert_eq!(held.replay.len(), 2);
    // A repeat is known, and a value has one place, whichever key named it.
    assert_eq!(
        write(&during, &held.lease, "id-of-mine", Change::Say("x"))
            .await
            .unwrap(),
        1
    );
    let value = json!("newer");
    let change = Change::Set {
        section: Section::Tools,
        key: "name-of-mine",
        value: &value,
    };
    write(&during, &held.lease, "third-id", change).await.unwrap();
    let state = during.read(&held.lease).await.unwrap();
    assert_eq!((state.tools.len(), &state.tools["name-of-mine"]), (1, &value));
    assert!(matches!(
        after.read(&held.lease).await,
        Err(StoreError::Unreadable(SealError::UnknownKey))
    ));
    let lease = filled(&during, "t", "ann").await;
    assert_eq!(after.read(&lease).await.unwrap().history.len(), 1);
}

#[rstest]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
#[tokio::test]
async fn a_key_can_be_introduced_while_sessions_live(#[case] kind: Kind) {
    let Some(backend) = Backend::of(kind).await else {
        return;
    };
    filled(&backend.store, "s", "ann").await;
    let lenient = backend.sealed(&keys(&KEYS[..1]).accepting_unsealed(true));
    let held = claim(&lenient, "s", "ann").await.unwrap();
    assert_eq!(held.replay.len(), 2);
    assert_eq!(
        write(&lenient, &held.lease, "id-of-mine", Change::Say("x"))
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        write(&lenient, &held.lease, "id-3", Change::Say("y"))
            .await
            .unwrap(),
        3
    );
    assert_eq!(lenient.read(&held.lease).await.unwrap().history.len(), 2);
    let strict = backend.sealed(&keys(&KEYS[..1]));
    assert!(matches!(
        strict.read(&held.lease).await,
        Err(StoreError::Unreadable(SealError::Unsealed))
    ));
}
