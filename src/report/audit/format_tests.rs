//! The golden lines: the format is stable. A line that has to be changed here is a new version of the format.

use serde_json::json;

use super::*;
use crate::engine::evidence::ProbeTarget;

fn record(event: Event) -> AuditRecord {
    AuditRecord {
        v: VERSION,
        time: "2026-11-22T08:00:00.5Z".parse().unwrap(),
        namespace: "prod".to_owned(),
        rollout: "chat".to_owned(),
        release: Some(7),
        release_id: Some("r7ab12".to_owned()),
        revision: Some("xwvts98765".to_owned()),
        pod: Some("chat-xwvts98765-k2".to_owned()),
        event,
    }
}

fn order() -> OrderData {
    OrderData {
        order: "r7ab12-w1-u1".to_owned(),
        reason: "rollout".to_owned(),
        mode: "Ask".to_owned(),
        rate_per_second: 22.5,
        count: Some(40),
        deadline_ms: 600_000,
        close_at_deadline: true,
        close_code: 1012,
    }
}

fn pod() -> PodData {
    PodData {
        uid: "u1".to_owned(),
        sessions: Some(0),
        expected: None,
    }
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn counts() -> DrainCounts {
    DrainCounts {
        notified: 3,
        acknowledged: Some(2),
        closed_clean: 1,
        closed_forced: 0,
    }
}

/// One event of every kind, with its golden form.
#[expect(clippy::too_many_lines, reason = "a list: one entry per kind")]
fn all() -> Vec<(Event, &'static str)> {
    let order_json = r#"{"order":"r7ab12-w1-u1","reason":"rollout","mode":"Ask","ratePerSecond":22.5,"count":40,"deadlineMs":600000,"closeAtDeadline":true,"closeCode":1012}"#;
    let (given, changed): (&'static str, &'static str) = (
        format!(r#"{{"orderGiven":{order_json}}}"#).leak(),
        format!(r#"{{"orderChanged":{order_json}}}"#).leak(),
    );
    vec![
        (Event::OrderGiven(order()), given),
        (Event::OrderChanged(order()), changed),
        (
            Event::OrderRefused {
                order: text("o"),
                category: text("unauthorized"),
            },
            r#"{"orderRefused":{"order":"o","category":"unauthorized"}}"#,
        ),
        (
            Event::OrderCancelled { order: text("o") },
            r#"{"orderCancelled":{"order":"o"}}"#,
        ),
        (
            Event::Progress {
                order: text("o"),
                delta: counts(),
                total: DrainCounts {
                    acknowledged: None,
                    ..counts()
                },
            },
            r#"{"progress":{"order":"o","delta":{"notified":3,"acknowledged":2,"closedClean":1,"closedForced":0},"total":{"notified":3,"closedClean":1,"closedForced":0}}}"#,
        ),
        (
            Event::SessionReleased {
                session: text("74aae192643f597a"),
                order: text("o"),
                how: text("moved"),
            },
            r#"{"sessionReleased":{"session":"74aae192643f597a","order":"o","how":"moved"}}"#,
        ),
        (
            Event::SessionReturned {
                session: text("74aae192643f597a"),
                after_ms: 812,
                resumed: Some(true),
                stray: false,
            },
            r#"{"sessionReturned":{"session":"74aae192643f597a","afterMs":812,"resumed":true,"stray":false}}"#,
        ),
        (
            Event::SessionMissing {
                session: text("74aae192643f597a"),
            },
            r#"{"sessionMissing":{"session":"74aae192643f597a"}}"#,
        ),
        (
            Event::Unannounced {
                sessions: 7,
                seen: SeenAs::PodGone,
            },
            r#"{"unannounced":{"sessions":7,"seen":"podGone"}}"#,
        ),
        (
            Event::Probes(ProbeData {
                target: ProbeTarget::Canary,
                attempts: 5,
                restored: 4,
                failed: 1,
                state_lost: 0,
                unannounced: 0,
                failure: Some(text("no first message came in time")),
            }),
            r#"{"probes":{"target":"canary","attempts":5,"restored":4,"failed":1,"stateLost":0,"unannounced":0,"failure":"no first message came in time"}}"#,
        ),
        (
            Event::Scenario(ScenarioData {
                run: text("r7ab12-r1"),
                scenario: text("Crash"),
                outcome: text("Passed"),
                sentence: text("10 of 10 restored"),
                sessions: 10,
                attempts: 10,
                restored: 10,
                mean_ms: Some(412),
                limit_ms: 30_000,
            }),
            r#"{"scenario":{"run":"r7ab12-r1","scenario":"Crash","outcome":"Passed","sentence":"10 of 10 restored","sessions":10,"attempts":10,"restored":10,"meanMs":412,"limitMs":30000}}"#,
        ),
        (
            Event::Rehearsal {
                run: text("r7ab12-r1"),
                outcome: text("Failed"),
                check: Some(text("restored")),
                sentence: Some(text("s")),
            },
            r#"{"rehearsal":{"run":"r7ab12-r1","outcome":"Failed","check":"restored","sentence":"s"}}"#,
        ),
        (
            Event::Verdict {
                outcome: text("Breached"),
                reason: text("ReconnectSuccess"),
                sentence: text("62 %"),
                step: Some(2),
            },
            r#"{"verdict":{"outcome":"Breached","reason":"ReconnectSuccess","sentence":"62 %","step":2}}"#,
        ),
        (
            Event::Phase {
                from: Some(text("Moving")),
                to: text("Paused"),
                step: Some(2),
                sentence: Some(text("paused by request")),
            },
            r#"{"phase":{"from":"Moving","to":"Paused","step":2,"sentence":"paused by request"}}"#,
        ),
        (
            Event::WeightAsked { percent: 50 },
            r#"{"weightAsked":{"percent":50}}"#,
        ),
        (
            Event::WeightProgrammed {
                percent: 50,
                after_ms: 940,
            },
            r#"{"weightProgrammed":{"percent":50,"afterMs":940}}"#,
        ),
        (
            Event::WaveStarted {
                wave: text("r7ab12-w1"),
                reason: text("rollout"),
                pods: 2,
                sessions: 200,
            },
            r#"{"waveStarted":{"wave":"r7ab12-w1","reason":"rollout","pods":2,"sessions":200}}"#,
        ),
        (
            Event::WaveEnded {
                wave: text("r7ab12-w1"),
                total: counts(),
            },
            r#"{"waveEnded":{"wave":"r7ab12-w1","total":{"notified":3,"acknowledged":2,"closedClean":1,"closedForced":0}}}"#,
        ),
        (
            Event::PodCreated(pod()),
            r#"{"podCreated":{"uid":"u1","sessions":0}}"#,
        ),
        (
            Event::PodRetired(pod()),
            r#"{"podRetired":{"uid":"u1","sessions":0}}"#,
        ),
        (
            Event::PodDismissed(pod()),
            r#"{"podDismissed":{"uid":"u1","sessions":0}}"#,
        ),
        (
            Event::PodGone(PodData {
                expected: Some(true),
                ..pod()
            }),
            r#"{"podGone":{"uid":"u1","sessions":0,"expected":true}}"#,
        ),
        (
            Event::Request {
                verb: text("promote"),
                accepted: true,
                sentence: text("on to step 2"),
                by: By {
                    user: Some(text("jane")),
                    manager: Some(text("wsroll/request")),
                    at: Some("2026-11-22T08:00:00Z".parse().unwrap()),
                },
            },
            r#"{"request":{"verb":"promote","accepted":true,"sentence":"on to step 2","by":{"user":"jane","manager":"wsroll/request","at":"2026-11-22T08:00:00Z"}}}"#,
        ),
        (
            Event::RollbackBegun {
                reason: text("StateLoss"),
                sentence: text("3 sessions lost state"),
            },
            r#"{"rollbackBegun":{"reason":"StateLoss","sentence":"3 sessions lost state"}}"#,
        ),
        (
            Event::ReleaseBegun {
                from: text("bcdfg24567"),
                to: text("xwvts98765"),
                images: vec![text("chat:7")],
                sessions: 1_000,
                steps: vec![10, 100],
            },
            r#"{"releaseBegun":{"from":"bcdfg24567","to":"xwvts98765","images":["chat:7"],"sessions":1000,"steps":[10,100]}}"#,
        ),
        (
            Event::ReleaseEnded {
                outcome: text("RolledBack"),
                sentence: Some(text("s")),
                moved: 40,
                unannounced: 0,
                verdict_to_weights_ms: Some(1_357),
            },
            r#"{"releaseEnded":{"outcome":"RolledBack","sentence":"s","moved":40,"unannounced":0,"verdictToWeightsMs":1357}}"#,
        ),
        (Event::Lost { records: 12 }, r#"{"lost":{"records":12}}"#),
    ]
}

#[test]
fn a_line_is_its_golden_line() {
    let golden = r#"{"v":1,"time":"2026-11-22T08:00:00.5Z","namespace":"prod","rollout":"chat","release":7,"releaseId":"r7ab12","revision":"xwvts98765","pod":"chat-xwvts98765-k2","event":{"weightAsked":{"percent":10}}}"#;
    let record = record(Event::WeightAsked { percent: 10 });
    assert_eq!(Scrub::default().line(&record), golden);
    assert_eq!(serde_json::from_str::<AuditRecord>(golden).unwrap(), record);
    let lost = AuditRecord::lost(3, "2026-11-22T08:00:00Z".parse().unwrap());
    assert_eq!(
        Scrub::default().line(&lost),
        r#"{"v":1,"time":"2026-11-22T08:00:00Z","event":{"lost":{"records":3}}}"#
    );
}

#[test]
fn every_kind_is_its_golden_form_and_is_read_back() {
    for (event, golden) in all() {
        assert_eq!(serde_json::to_string(&event).unwrap(), golden);
        assert_eq!(serde_json::from_str::<Event>(golden).unwrap(), event);
    }
}

#[test]
fn the_documentation_describes_every_kind_and_every_field() {
    let page = include_str!("../../../docs/audit.md");
    for (event, golden) in all() {
        let kind: &'static str = (&event).into();
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{kind}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/audit.md has no row for {kind}"));
        let value: serde_json::Value = serde_json::from_str(golden).unwrap();
        for field in value[kind].as_object().unwrap().keys() {
            assert!(
                row.contains(&format!("`{field}`")),
                "{kind}.{field} is not described"
            );
        }
    }
    let kinds: Vec<&str> = all().iter().map(|(event, _)| <&str>::from(event)).collect();
    let code = include_str!("record.rs");
    let body = code
        .split("pub enum Event {")
        .nth(1)
        .unwrap()
        .split("\n}\n")
        .next()
        .unwrap();
    let variants = body
        .lines()
        .filter(|line| line.starts_with("    ") && line.as_bytes().get(4).is_some_and(u8::is_ascii_uppercase))
        .count();
    assert_eq!(kinds.len(), variants, "a kind without a golden form");
}

/// Secrets in every text of every kind.
#[test]
fn no_secret_gets_into_a_line_wherever_it_was_planted() {
    const SECRETS: [&str; 4] = [
        "tok\"en-\\1234",
        "pin-canary-5678",
        "pin-stable-9012",
        "hint-value-3456",
    ];
    let status = serde_json::from_value(json!({"release": crate::report::story::tests::release(1)})).unwrap();
    let scrub = Scrub::new([SECRETS[0].to_owned()]).with_pins(&[&status]);
    for (event, _) in all() {
        for secret in SECRETS {
            let planted = planted(&serde_json::to_value(record(event.clone())).unwrap(), secret);
            // Fields of closed sets take no text.
            let Ok(record) = serde_json::from_value::<AuditRecord>(planted) else {
                continue;
            };
            let line = scrub.line(&record);
            let escaped = serde_json::to_string(secret).unwrap();
            assert!(
                !line.contains(secret) && !line.contains(escaped.trim_matches('"')),
                "{line}"
            );
            serde_json::from_str::<AuditRecord>(&line).expect("the line is still a record");
        }
    }
}

/// The value with the secret in every text that is not a name or a time.
fn planted(value: &serde_json::Value, secret: &str) -> serde_json::Value {
    use serde_json::Value;
    let closed = ["canary", "stable", "podGone", "podRestarted", "probe"];
    match value {
        Value::String(text) if closed.contains(&text.as_str()) || text.parse::<jiff::Timestamp>().is_ok() => {
            value.clone()
        }
        Value::String(text) => json!(format!("{text} {secret}, and {secret}")),
        Value::Array(list) => list.iter().map(|v| planted(v, secret)).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), planted(v, secret))).collect(),
        other => other.clone(),
    }
}
