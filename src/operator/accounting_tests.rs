//! Reading real sockets: pages, pods without events, and what status is told.

use axum::Router;
use axum::http::Uri;
use axum::routing::get;
use serde_json::json;

use super::*;
use crate::drain::protocol::EVENTS_PATH;

/// A pod that tells `count` sessions released under an order, and where from 0 it is asked from.
async fn pod(uid: &str, revision: &str, kind: &'static str, count: u64) -> Asked {
    let serve = get(move |uri: Uri| async move {
        let after: u64 = uri
            .query()
            .unwrap()
            .strip_prefix("after=")
            .unwrap()
            .parse()
            .unwrap();
        let events: Vec<_> = (after + 1..=count.min(after + 1_000))
            .map(|n| {
                let mut event = json!({"n": n, "kind": kind, "session": format!("{n:016x}"), "agoMs": 1_000});
                if kind == "released" {
                    event["order"] = json!("r1-w1-u");
                    event["how"] = json!("moved");
                }
                event
            })
            .collect();
        json!({"instance": "i", "next": count.min(after + 1_000), "lost": 0, "events": events}).to_string()
    });
    serve_at(uid, revision, Router::new().route(EVENTS_PATH, serve)).await
}

async fn serve_at(uid: &str, revision: &str, router: Router) -> Asked {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Asked {
        uid: uid.to_owned(),
        revision: revision.to_owned(),
        address,
        token: Token::new("t"),
    }
}

fn accounts() -> Accounts {
    let mut accounts = Accounts::new(Timestamp::UNIX_EPOCH);
    accounts.attend(setting_of_r1(), None);
    accounts
}

fn setting_of_r1() -> Setting {
    Setting {
        release: Some(Following {
            orders: "r1-w".to_owned(),
            stable: "v1".to_owned(),
            canary: "v2".to_owned(),
            untargeted: None,
        }),
        stable: "v1".to_owned(),
        within: Duration::from_secs(30),
    }
}

fn client() -> DrainClient {
    DrainClient::new(Duration::from_secs(5)).unwrap()
}

#[tokio::test]
async fn so_many_pages_a_round_and_the_rest_in_the_next() {
    let pods = vec![
        pod("a", "v1", "released", 4_500).await,
        pod("b", "v2", "arrived", 4_500).await,
    ];
    let (mut accounts, mut silent) = (accounts(), HashSet::new());
    let told = read_all(
        &client(),
        pods.clone(),
        &mut accounts,
        &mut silent,
        Timestamp::now,
    )
    .await;
    assert!(told);
    accounts.settle(Timestamp::now());
    assert_eq!(accounts.returned().unwrap().moved, 4_000);
    read_all(&client(), pods, &mut accounts, &mut silent, Timestamp::now).await;
    accounts.settle(Timestamp::now());
    let told = accounts.returned().unwrap();
    assert_eq!((told.moved, told.back, told.on_target), (4_500, 4_500, 4_500));
}

#[tokio::test]
async fn a_pod_without_events_is_not_asked_again() {
    let pods = vec![serve_at("a", "v1", Router::new()).await];
    let (mut accounts, mut silent) = (accounts(), HashSet::new());
    assert!(!read_all(&client(), pods, &mut accounts, &mut silent, Timestamp::now).await);
    assert_eq!(silent, HashSet::from(["a".to_owned()]));
    assert_eq!(accounts.returned(), None);
}

#[test]
fn probes_are_left_out_by_the_hash_of_their_sessions() {
    let met = Met::default();
    met.add("alice");
    let mut accounts = accounts();
    leave_out(Some(&mut accounts), &met, &IdentityKey::new("key"));
    let event = |session: &str, n: u64| json!({"n": n, "kind": "released", "session": session, "agoMs": 0, "order": "r1-w1-u", "how": "moved"});
    // Alice's hash under this key; see the protocol's identity.
    let page = json!({"next": 2, "events": [event("74aae192643f597a", 1), event("74aae192643f597b", 2)]});
    let page: EventsReport = serde_json::from_value(page).unwrap();
    accounts.read("a", "v1", &page, Timestamp::now());
    accounts.settle(Timestamp::now());
    assert_eq!(accounts.returned().unwrap().moved, 1);
    assert_eq!(met.take(), Vec::<String>::new());
}

#[test]
fn the_natural_rate_stands_still_while_nobody_is_moved() {
    let figures = |natural| Returned {
        natural_percent: Some(natural),
        sampled_percent: 100.0,
        ..Returned::default()
    };
    assert_eq!(shown(figures(40.0), Some(&figures(50.0)), false), figures(50.0));
    assert_eq!(shown(figures(40.0), Some(&figures(50.0)), true), figures(40.0));
    assert_eq!(shown(figures(40.0), None, false), figures(40.0));
}

#[test]
fn the_journal_tells_each_moved_session_once_and_nothing_from_before() {
    use crate::drain::accounting::{Happened, Happening};
    let now: Timestamp = "2026-11-22T08:00:00Z".parse().unwrap();
    let mut accounts = accounts();
    accounts.keep_journal(true);
    let page = |events: serde_json::Value| -> EventsReport {
        serde_json::from_value(json!({"instance": "i", "next": 2, "events": events})).unwrap()
    };
    let released = page(json!([
        {"n": 1, "kind": "released", "session": "00000000000000aa", "agoMs": 500, "order": "r1-w1-u", "how": "moved"},
        // Not by an order of this release.
        {"n": 2, "kind": "released", "session": "00000000000000bb", "agoMs": 400, "how": "left"},
    ]));
    let arrived = page(
        json!([{"n": 1, "kind": "arrived", "session": "00000000000000aa", "agoMs": 100, "resumed": true}]),
    );
    accounts.read("a", "v1", &released, now);
    accounts.read("b", "v2", &arrived, now);
    accounts.settle(now);
    let at = |ago: i64| now.as_millisecond() - ago;
    let order = "r1-w1-u".to_owned();
    assert_eq!(
        accounts.take_journal(),
        [
            Happened {
                at_ms: at(500),
                session: 0xaa,
                what: Happening::Released {
                    pod: "a".to_owned(),
                    revision: "v1".to_owned(),
                    order,
                    how: Some(crate::drain::protocol::ReleasedHow::Moved),
                },
            },
            Happened {
                at_ms: at(100),
                session: 0xaa,
                what: Happening::Returned {
                    revision: "v2".to_owned(),
                    after_ms: 400,
                    resumed: Some(true),
                    stray: false,
                },
            },
        ]
    );
    accounts.read("a", "v1", &released, now);
    accounts.settle(now);
    assert_eq!(accounts.take_journal(), [], "the same page again");
    // An operator that starts now has seen nothing of it.
    let mut later = Accounts::new(now);
    later.attend(setting_of_r1(), None);
    later.keep_journal(true);
    later.read("a", "v1", &released, now);
    later.read("b", "v2", &arrived, now);
    later.settle(now);
    assert_eq!(later.take_journal(), []);
}
