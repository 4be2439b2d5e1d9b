//! What is news in a round, and what is not.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::RolloutStatus;
use crate::api::spec::DrainMode;
use crate::drain::accounting::{Happened, Happening};
use crate::drain::protocol::{DrainProgress, ReleasedHow};
use crate::engine::evidence::ProbeEvidence;
use crate::engine::plan::Order;
use crate::report::story::from_records;
use crate::report::story::tests::rolled_back;

/// What a round is shown beside its statuses.
#[derive(Clone, Default)]
struct Shown {
    pods: HashMap<String, PodSeen>,
    drains: Vec<(String, DrainProgress)>,
    cuts: Vec<Cut>,
    sessions: Vec<Happened>,
    evidence: Vec<ProbeEvidence>,
}

fn show(
    ledger: &mut Ledger,
    read: &RolloutStatus,
    status: &RolloutStatus,
    shown: &Shown,
) -> Vec<AuditRecord> {
    let scrub = Scrub::default().with_pins(&[status]);
    ledger.round(Round {
        namespace: "prod",
        rollout: "chat",
        read,
        status,
        now: "2026-11-22T08:02:00Z".parse().unwrap(),
        pods: shown.pods.clone(),
        drains: shown.drains.clone(),
        cuts: shown.cuts.clone(),
        sessions: shown.sessions.clone(),
        evidence: &shown.evidence,
        rehearsal: None,
        by: By::default(),
        scrub: &scrub,
    })
}

fn kinds(records: &[AuditRecord]) -> Vec<&'static str> {
    records.iter().map(|r| (&r.event).into()).collect()
}

fn progress(id: &str, notified: u64, acked: Option<u64>, clean: u64) -> DrainProgress {
    serde_json::from_value(
        json!({"id": id, "state": "active", "notified": notified, "acked": acked, "closedClean": clean}),
    )
    .unwrap()
}

fn pod(name: &str, sessions: Option<u64>) -> (String, PodSeen) {
    let seen = PodSeen {
        name: name.to_owned(),
        revision: Some("bcdfg24567".to_owned()),
        sessions,
    };
    (format!("uid-{name}"), seen)
}

fn order(rate: f64) -> Order {
    Order {
        pod: "chat-1".to_owned(),
        uid: "u1".to_owned(),
        id: "r1abcd-w1-u1".to_owned(),
        reason: "rollout",
        count: None,
        mode: DrainMode::Ask,
        rate_per_second: rate,
        lease: Duration::from_secs(30),
        deadline: Duration::from_secs(600),
        close_at_deadline: true,
        reconnect_window: Duration::from_secs(2),
        hint: Some(crate::engine::plan::Hint::Query(
            "wsroll=hint-value-3456".to_owned(),
        )),
        close_code: 1012,
    }
}

#[test]
fn a_whole_release_in_its_order() {
    let mut ledger = Ledger::default();
    let mut all = Vec::new();
    let mut before = RolloutStatus::default();
    for status in rolled_back() {
        all.extend(show(&mut ledger, &before, &status, &Shown::default()));
        before = status;
    }
    assert_eq!(
        kinds(&all),
        [
            "releaseBegun",
            "phase",
            "phase",
            "phase",
            "waveStarted",
            "waveEnded",
            "waveStarted",
            "waveEnded",
            "phase",
            "request",
            "phase",
            "verdict",
            "rollbackBegun",
            "phase",
            "releaseEnded",
            "phase",
        ]
    );
    assert!(
        all.iter()
            .all(|r| r.release == Some(1) && r.release_id.as_deref() == Some("r1abcd"))
    );
    assert!(all.iter().all(|r| r.revision.as_deref() == Some("xwvts98765")));
    let ends: Vec<_> = all
        .iter()
        .filter_map(|r| match &r.event {
            Event::WaveEnded { total, .. } => Some((total.notified, total.closed_clean)),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [(100, 100), (105, 100)]);
    let story = from_records(&all).unwrap();
    assert_eq!(story.outcome.as_deref(), Some("RolledBack"));
    assert_eq!(
        (story.reason.as_deref(), story.unannounced),
        (Some("StateLoss"), 2)
    );
    assert_eq!(
        (story.waves.len(), story.phases.len(), story.requests.len()),
        (2, 7, 1)
    );
}

#[test]
fn a_restarted_operator_does_not_tell_again_what_status_has() {
    let statuses = rolled_back();
    for status in &statuses {
        assert_eq!(
            kinds(&show(&mut Ledger::default(), status, status, &Shown::default())),
            [""; 0]
        );
    }
}

fn counts((notified, acknowledged, closed_clean): (u64, u64, u64)) -> DrainCounts {
    DrainCounts {
        notified,
        acknowledged: Some(acknowledged),
        closed_clean,
        closed_forced: 0,
    }
}

#[test]
fn pods_tell_totals_and_the_trail_says_what_was_added() {
    let status = &rolled_back()[3];
    let mut ledger = Ledger::default();
    let mut shown = Shown {
        pods: HashMap::from([("u1".to_owned(), pod("chat-1", Some(20)).1)]),
        // The status has written 80 and 60 of it.
        drains: vec![("u1".to_owned(), progress("r1abcd-w1-u1", 85, Some(70), 61))],
        ..Shown::default()
    };
    let told = show(&mut ledger, status, status, &shown);
    let expected = |delta: (u64, u64, u64), total: (u64, u64, u64)| Event::Progress {
        order: "r1abcd-w1-u1".to_owned(),
        delta: counts(delta),
        total: counts(total),
    };
    assert_eq!(told[0].event, expected((5, 70, 1), (85, 70, 61)));
    assert_eq!(told[0].pod.as_deref(), Some("chat-1"));
    assert!(
        show(&mut ledger, status, status, &shown).is_empty(),
        "nothing was added"
    );
    shown.drains[0].1 = progress("r1abcd-w1-u1", 90, Some(72), 61);
    assert_eq!(
        show(&mut ledger, status, status, &shown)[0].event,
        expected((5, 2, 0), (90, 72, 61))
    );
    // Another order counts anew.
    shown.drains[0].1 = progress("r1abcd-w2-u1", 4, Some(0), 0);
    let Event::Progress { delta, .. } = show(&mut ledger, status, status, &shown)[0].event else {
        panic!()
    };
    assert_eq!(delta.notified, 4);
}

#[test]
fn an_order_is_told_when_it_is_given_and_when_it_changes() {
    let mut ledger = Ledger::default();
    let kind = |event: Option<Event>| event.map(|e| <&'static str>::from(&e));
    assert_eq!(kind(ledger.ordered(&order(10.0), false)), Some("orderGiven"));
    assert_eq!(kind(ledger.ordered(&order(10.0), true)), None, "a renewal");
    assert_eq!(kind(ledger.ordered(&order(7.5), true)), Some("orderChanged"));
    assert_eq!(
        kind(ledger.cancelled("u1", "r1abcd-w1-u1")),
        Some("orderCancelled")
    );
    assert_eq!(kind(ledger.cancelled("u1", "r1abcd-w1-u1")), None);
    let mut next = Ledger::default();
    assert_eq!(
        kind(next.ordered(&order(10.0), true)),
        None,
        "an earlier operator gave it"
    );
    assert_eq!(kind(next.ordered(&order(5.0), true)), Some("orderChanged"));
    let text = serde_json::to_string(&ledger.ordered(&order(1.0), false)).unwrap();
    assert!(!text.contains("hint"), "{text}");
}

#[test]
fn pods_come_and_go() {
    let status = &rolled_back()[3];
    let mut ledger = Ledger::default();
    let shown = |pods: &[(&str, Option<u64>)]| Shown {
        pods: pods.iter().map(|(name, sessions)| pod(name, *sessions)).collect(),
        ..Shown::default()
    };
    let mut round = |pods: &[(&str, Option<u64>)], let_go: &[&str]| {
        for uid in let_go {
            assert!(ledger.let_go(uid));
        }
        let told = show(&mut ledger, status, status, &shown(pods));
        told.into_iter()
            .map(|r| (r.pod.unwrap(), r.event))
            .collect::<Vec<_>>()
    };
    let data = |uid: &str, sessions, expected| PodData {
        uid: uid.to_owned(),
        sessions,
        expected,
    };
    assert!(
        round(&[("a", Some(5)), ("b", Some(3))], &[]).is_empty(),
        "who was there is no news"
    );
    // A pod that does not answer had so many when it did.
    assert_eq!(
        round(&[("a", Some(0)), ("b", None), ("c", None)], &[]),
        [("c".to_owned(), Event::PodCreated(data("uid-c", None, None)))]
    );
    assert_eq!(
        round(&[("c", None)], &["uid-a"]),
        [
            ("a".to_owned(), Event::PodGone(data("uid-a", Some(0), Some(true)))),
            (
                "b".to_owned(),
                Event::PodGone(data("uid-b", Some(3), Some(false)))
            ),
        ]
    );
}

#[test]
fn sessions_and_cuts_are_told_on_their_pods() {
    let status = &rolled_back()[3];
    let mut ledger = Ledger::default();
    let pods = HashMap::from([pod("a", Some(5))]);
    show(
        &mut ledger,
        status,
        status,
        &Shown {
            pods,
            ..Shown::default()
        },
    );
    let happened = |what| Happened {
        at_ms: 1_795_334_400_123,
        session: 0x74aa_e192_643f_597a,
        what,
    };
    let shown = Shown {
        cuts: vec![Cut {
            uid: "uid-a".to_owned(),
            revision: Some("bcdfg24567".to_owned()),
            sessions: 5,
            seen: SeenAs::PodGone,
        }],
        sessions: vec![
            happened(Happening::Released {
                pod: "uid-a".to_owned(),
                revision: "bcdfg24567".to_owned(),
                order: "r1abcd-w1-u1".to_owned(),
                how: Some(ReleasedHow::Moved),
            }),
            happened(Happening::Returned {
                revision: "xwvts98765".to_owned(),
                after_ms: -20,
                resumed: Some(true),
                stray: false,
            }),
            happened(Happening::Missing),
        ],
        ..Shown::default()
    };
    let told = show(&mut ledger, status, status, &shown);
    assert_eq!(
        kinds(&told),
        [
            "sessionReleased",
            "sessionReturned",
            "sessionMissing",
            "unannounced",
            "podGone"
        ]
    );
    assert_eq!(told[0].pod.as_deref(), Some("a"));
    assert_eq!(told[0].time.as_millisecond(), 1_795_334_400_123);
    assert_eq!(told[1].revision.as_deref(), Some("xwvts98765"));
    assert!(
        matches!(&told[1].event, Event::SessionReturned { session, after_ms: 0, .. } if session == "74aae192643f597a")
    );
    assert_eq!(told[3].pod.as_deref(), Some("a"));
}

#[test]
fn probes_are_told_by_what_they_added_and_a_new_run_counts_anew() {
    let status = &rolled_back()[3];
    let evidence = |since: &str, attempts: u64, failed: u64| -> ProbeEvidence {
        let figures = json!({"attempts": attempts, "restored": attempts - failed, "failed": failed, "stateLost": 0, "unannounced": failed});
        serde_json::from_value(
            json!({"target": "canary", "since": since, "open": 1, "total": figures, "window": figures,
            "failuresInARow": 0, "lastFailure": "refused, pin-canary-5678"}),
        )
        .unwrap()
    };
    let mut ledger = Ledger::default();
    let mut round = |seen: ProbeEvidence| {
        let shown = Shown {
            evidence: vec![seen],
            ..Shown::default()
        };
        let told = show(&mut ledger, status, status, &shown);
        let of = |r: &AuditRecord| match &r.event {
            Event::Probes(p) => (p.attempts, p.failed, p.failure.clone()),
            Event::Unannounced { sessions, seen } => (*sessions, 0, Some(<&str>::from(seen).to_owned())),
            other => panic!("{other:?}"),
        };
        told.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(round(evidence("2026-11-22T08:00:30Z", 4, 0)), [(4, 0, None)]);
    assert_eq!(round(evidence("2026-11-22T08:00:30Z", 4, 0)), []);
    assert_eq!(
        round(evidence("2026-11-22T08:00:30Z", 6, 1)),
        [
            (2, 1, Some("refused, [redacted]".to_owned())),
            (1, 0, Some("probe".to_owned()))
        ]
    );
    assert_eq!(round(evidence("2026-11-22T08:01:30Z", 2, 0)), [(2, 0, None)]);
}

proptest! {
    /// Whatever the pods say: the same round a second time is no news, and deltas add up to what was told first.
    #[test]
    fn the_same_round_twice_adds_nothing(
        polls in proptest::collection::vec((0_u64..50, 0_u64..50, 0_usize..10, 1_usize..4), 1..20),
    ) {
        let statuses = rolled_back();
        let (mut ledger, mut once) = (Ledger::default(), Ledger::default());
        let (mut told, mut told_once) = (Vec::new(), Vec::new());
        let (mut notified, mut clean) = (0, 0);
        for (more, closed, at, times) in polls {
            notified += more;
            clean += closed;
            let status = &statuses[at];
            let shown = Shown {
                pods: HashMap::from([pod("a", Some(5))]),
                drains: vec![("uid-a".to_owned(), progress("r1abcd-w9-uid-a", notified, None, clean))],
                ..Shown::default()
            };
            for _ in 0..times {
                told.extend(show(&mut ledger, &statuses[0], status, &shown));
            }
            told_once.extend(show(&mut once, &statuses[0], status, &shown));
        }
        prop_assert_eq!(&told, &told_once);
        let sum: u64 = told
            .iter()
            .filter_map(|r| match &r.event {
                Event::Progress { delta, .. } => Some(delta.notified),
                _ => None,
            })
            .sum();
        prop_assert!(sum <= notified);
    }
}
