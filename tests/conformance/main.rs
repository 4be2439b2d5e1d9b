//! `wsroll conformance` against sound implementations, and against ones with a fault each, over real sockets.

// Clippy takes only the test functions themselves for tests; here the helpers may fail a test too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pod;

use pod::{Fault, KEY, Pod, TOKEN};
use session_server::{Config as ServerConfig, Server, token::SessionKey};
use tokio::task::JoinSet;
use wsroll::conformance::{Config, Declare, Outcome, Report, Traffic, play, rule};
use wsroll::drain::identity::IdentityKey;

/// The rule that names each fault.
const NAMED_BY: &[(Fault, &rule::Rule)] = &[
    (Fault::TakesWrongTokens, &rule::AUTH_WRONG),
    (Fault::TakesPrefixes, &rule::AUTH_WRONG),
    (Fault::OrdersNeedNoToken, &rule::AUTH_MISSING),
    (Fault::OrdersNeedNoToken, &rule::AUTH_STARTS_NOTHING),
    (Fault::AnyVersion, &rule::VERSION_UNKNOWN),
    (Fault::TakesBadOrders, &rule::ORDER_BAD),
    (Fault::BadOrdersStartInPart, &rule::ORDER_BAD_STARTS_NOTHING),
    (Fault::RefusesNovelties, &rule::ORDER_UNKNOWN_FIELDS),
    (Fault::RepeatsStartAnew, &rule::ORDER_IDEMPOTENT),
    (Fault::NeverRenews, &rule::ORDER_RENEWAL),
    (Fault::NeverRenews, &rule::DRAIN_RENEWED),
    (Fault::KeepsRate, &rule::ORDER_RATE),
    (Fault::CancelsAnything, &rule::ORDER_CANCEL_UNKNOWN),
    (Fault::IgnoresCancel, &rule::DRAIN_CANCEL),
    (Fault::IgnoresLease, &rule::DRAIN_LEASE),
    (Fault::DeadlineRunsOn, &rule::DRAIN_DEADLINE_CLOCK),
    (Fault::IgnoresMode, &rule::DRAIN_LEAVE),
    (Fault::IgnoresSelect, &rule::DRAIN_COUNT),
    (Fault::IgnoresSelect, &rule::DRAIN_FRACTION),
    (Fault::AllAtOnce, &rule::DRAIN_PACED),
    (Fault::OldestFirst, &rule::DRAIN_RANDOM),
    (Fault::Cuts, &rule::DRAIN_CLEAN),
    (Fault::ClosesWith1000, &rule::DRAIN_CODE),
    (Fault::KeepsSome, &rule::DRAIN_COMPLETES),
    (Fault::RefusesWhileDraining, &rule::DRAIN_ACCEPTS),
    (Fault::TellsEverybody, &rule::NOTICE_DECLARED),
    (Fault::TellsSome, &rule::NOTICE_SENT),
    (Fault::NoticeWithoutId, &rule::NOTICE_SHAPE),
    (Fault::NoticeWithoutHint, &rule::NOTICE_HINT),
    (Fault::ClosesBeforeTurn, &rule::NOTICE_TURN),
    (Fault::Lies, &rule::SESSIONS_COUNT),
    (Fault::CountsInWords, &rule::SESSIONS_REPORT),
    (Fault::NewInstanceEachTime, &rule::SESSIONS_INSTANCE),
    (Fault::CountersStandStill, &rule::DRAIN_PROGRESS),
    (Fault::EventsAreMissing, &rule::EVENTS_ACCOUNT),
    (Fault::EventsStartOver, &rule::EVENTS_AFTER),
    (Fault::EventsNameSessions, &rule::EVENTS_IDENTITY),
];

async fn play_against(pod: &Pod) -> Report {
    play(Config {
        url: format!("http://{}", pod.drain),
        token: TOKEN.to_owned(),
        traffic: Some(Traffic {
            url: format!("ws://{}/ws?sid={{session}}", pod.traffic),
            headers: Vec::new(),
            declare: Some(Declare::Query("wsroll=1".to_owned())),
        }),
        identity_key: Some(IdentityKey::new(KEY)),
        sessions: 24,
        live: false,
    })
    .await
    .unwrap()
}

fn all_hold(report: &Report) {
    let others: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.outcome != Outcome::Holds)
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_implementation_holds_every_rule_and_every_fault_is_named() {
    let mut runs = JoinSet::new();
    runs.spawn(async { (None, play_against(&Pod::start(None).await).await) });
    let mut faults: Vec<Fault> = NAMED_BY.iter().map(|(fault, _)| *fault).collect();
    faults.dedup();
    for fault in faults {
        runs.spawn(async move { (Some(fault), play_against(&Pod::start(Some(fault)).await).await) });
    }
    let mut unnamed = Vec::new();
    while let Some(done) = runs.join_next().await {
        let (fault, report) = done.unwrap();
        match fault {
            None => all_hold(&report),
            Some(fault) => {
                for (_, rule) in NAMED_BY.iter().filter(|(named, _)| *named == fault) {
                    if !report.broken().contains(&rule.id) {
                        unnamed.push(format!(
                            "{fault:?} is not named by {}:\n{}",
                            rule.id,
                            report.text()
                        ));
                    }
                }
            }
        }
    }
    assert!(unnamed.is_empty(), "{}", unnamed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_service_keeps_to_the_protocol() {
    let server = Server::start(ServerConfig::local("key").with_drain(TOKEN))
        .await
        .unwrap();
    let user = SessionKey::new("key").sign("ann", "gold").unwrap();
    let report = play(Config {
        url: format!("http://{}", server.drain_addr().unwrap()),
        token: TOKEN.to_owned(),
        traffic: Some(Traffic {
            url: format!("ws://{}/ws", server.traffic_addr()),
            headers: vec![("Authorization".to_owned(), format!("Bearer {user}"))],
            declare: Some(Declare::Query("notice=wsroll.v1".to_owned())),
        }),
        identity_key: None,
        sessions: 24,
        live: false,
    })
    .await
    .unwrap();
    assert_eq!(report.broken(), Vec::<&str>::new(), "{}", report.text());
    // Nothing is left behind.
    assert_eq!(server.open(), 0);
    server.kill();
}

#[tokio::test]
async fn sessions_of_others_are_left_alone() {
    let pod = Pod::start(None).await;
    let (mut theirs, _) = tokio_tungstenite::connect_async(format!("ws://{}/ws", pod.traffic))
        .await
        .unwrap();
    let config = Config {
        url: format!("http://{}", pod.drain),
        token: TOKEN.to_owned(),
        traffic: Some(Traffic {
            url: format!("ws://{}/ws", pod.traffic),
            headers: Vec::new(),
            declare: None,
        }),
        identity_key: None,
        sessions: 24,
        live: false,
    };
    let refused = play(config.clone()).await.unwrap_err().to_string();
    assert!(
        refused.contains("1 sessions are open that are not ours"),
        "{refused}"
    );

    // Without clients of its own it touches nobody, and says what it could not look at.
    let report = play(Config {
        traffic: None,
        ..config
    })
    .await
    .unwrap();
    assert_eq!(report.broken(), Vec::<&str>::new(), "{}", report.text());
    assert_eq!(report.outcome(&rule::DRAIN_PACED), Some(Outcome::NotTested));
    assert_eq!(report.outcome(&rule::DRAIN_LEASE), Some(Outcome::Holds));
    assert_eq!(pod.open(), 1);
    theirs.close(None).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_one_broken_rule() {
    let report = play(Config {
        url: "http://127.0.0.1:1".to_owned(),
        token: TOKEN.to_owned(),
        traffic: None,
        identity_key: None,
        sessions: 24,
        live: false,
    })
    .await
    .unwrap();
    assert_eq!(report.broken(), ["sessions.report"]);
}
