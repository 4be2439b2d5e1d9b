//! A story from statuses, whatever their order of repetition, and its page.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::page::page;
use super::*;
use crate::api::RolloutStatus;
use crate::engine::evidence::{ProbeEvidence, RehearsalReport};
use crate::report::audit::Scrub;

/// A release under way, as status has it.
pub(crate) fn release(number: u64) -> Value {
    json!({"number": number, "id": format!("r{number}abcd"), "stable": "bcdfg24567", "canary": "xwvts98765", "images": ["chat:2"],
        "startedAt": "2026-11-22T08:00:00Z", "stableSlot": "a", "canarySlot": "b", "steps": [{"weight": 10}, {"weight": 100}],
        "drain": {}, "rollback": {}, "thresholds": {}, "sessions": 1_000,
        "pins": {"probeStable": "pin-stable-9012", "probeCanary": "pin-canary-5678", "hint": "hint-value-3456"}})
}

pub(crate) fn status(value: &Value) -> RolloutStatus {
    serde_json::from_value(value.clone()).unwrap()
}

fn at(second: u32) -> String {
    format!("2026-11-22T08:{:02}:{:02}Z", second / 60, second % 60)
}

/// A status in a phase, with the release.
fn phase(state: &Value, more: &Value) -> RolloutStatus {
    let mut value = json!({"releases": 1, "release": release(1), "unannounced": 0, "state": state});
    for (key, part) in more.as_object().unwrap() {
        value[key] = part.clone();
    }
    status(&value)
}

fn wave(id: &str, since: u32, told: i64, clean: i64) -> Value {
    json!({"id": id, "reason": "rollout", "revision": "bcdfg24567", "since": at(since), "tickedAt": at(since), "leaveRotation": true,
        "pods": [{"name": "chat-1", "uid": "u1", "sessions": 100, "notified": told, "closedClean": clean, "closedForced": 0}]})
}

fn drain(told: i64, clean: i64) -> Value {
    json!({"wave": 1, "total": 200, "notified": told, "closedClean": clean, "closedForced": 0, "rate": 10.0, "activeMs": 9_000})
}

/// A release with two waves, a promotion and a rollback, as statuses in their order.
pub(crate) fn rolled_back() -> Vec<RolloutStatus> {
    let none = json!({});
    let moving = json!({"moving": {"step": 0, "since": at(20)}});
    let breached = json!({"result": "Breached", "reason": "StateLoss", "at": at(60),
        "message": "3 sessions came back without their state, GET /ws?token=abc"});
    let asked =
        json!({"nonce": "n1", "verb": "promote", "accepted": true, "message": "on to step 2", "at": at(50)});
    let back = json!({"rollingBack": {"since": at(61), "reason": "StateLoss", "reject": true,
        "message": "3 sessions came back without their state"}});
    let mut end = json!({"releases": 1, "unannounced": 2, "drain": drain(230, 225),
        "state": {"rolledBack": {"since": at(80), "reason": "StateLoss", "message": "3 sessions came back without their state"}},
        "history": [{"number": 1, "revision": "xwvts98765", "result": "RolledBack", "startedAt": at(0), "endedAt": at(80),
            "message": "3 sessions came back without their state", "moved": 225, "drainMs": 12_000, "verdictToWeightsMs": 1_300}]});
    end["lastRequest"] = asked.clone();
    vec![
        phase(&json!({"preflight": {"since": at(0)}}), &none),
        phase(
            &json!({"rehearsing": {"since": at(5), "attempt": 1, "draining": false}}),
            &none,
        ),
        phase(&moving, &json!({"wave": wave("r1abcd-w1", 21, 0, 0)})),
        phase(
            &moving,
            &json!({"wave": wave("r1abcd-w1", 21, 80, 60), "drain": drain(80, 60)}),
        ),
        // The last poll of the first wave and the first of the second come together.
        phase(
            &moving,
            &json!({"wave": wave("r1abcd-w2", 40, 10, 5), "drain": drain(110, 105)}),
        ),
        phase(
            &moving,
            &json!({"wave": wave("r1abcd-w2", 40, 100, 90), "drain": drain(200, 190)}),
        ),
        phase(
            &json!({"analysing": {"step": 0, "since": at(45)}}),
            &json!({"drain": drain(205, 200)}),
        ),
        phase(
            &json!({"surging": {"step": 1, "since": at(50)}}),
            &json!({"drain": drain(205, 200), "lastRequest": asked}),
        ),
        phase(
            &back,
            &json!({"drain": drain(205, 200), "verdict": breached, "lastRequest": asked, "unannounced": 2}),
        ),
        status(&end),
    ]
}

/// Whom the requests are of, in these tests.
fn jane() -> By {
    By {
        user: Some("jane".to_owned()),
        ..By::default()
    }
}

fn told(statuses: &[RolloutStatus]) -> Stories {
    let mut stories = Stories::default();
    for status in statuses {
        advance(&mut stories, status);
    }
    stories
}

fn advance(stories: &mut Stories, status: &RolloutStatus) {
    let (by, scrub) = (jane(), Scrub::default());
    let extras = Extras {
        evidence: &[],
        rehearsal: None,
        by: &by,
        scrub: &scrub,
    };
    stories.advance(status, extras);
}

#[test]
fn a_release_that_was_rolled_back() {
    let stories = told(&rolled_back());
    assert_eq!(stories.0.len(), 1);
    let story = &stories.0[0];
    let page = page("prod", "chat", story, "2026-11-22T09:00:00Z".parse().unwrap());
    assert_eq!(
        page.text(crate::cli::output::table),
        "\
prod/chat: release 1
It was rolled back. StateLoss: 3 sessions came back without their state.

Revision     bcdfg24567 -> xwvts98765
Images       chat:2
Steps        10, 100 %
Begun        2026-11-22T08:00:00Z
Ended        2026-11-22T08:01:20Z, after 1m20s
Sessions     1000 open at the beginning, 225 moved: 225 in turn, 0 at the deadline
Moving took  12s
Unannounced  2
Weights back 1300 ms after the verdict

Timeline
TIME                  AFTER   WHAT                      WHY
2026-11-22T08:00:00Z  +0s     begun
2026-11-22T08:00:00Z  +0s     Preflight
2026-11-22T08:00:05Z  +5s     Rehearsing
2026-11-22T08:00:20Z  +20s    Moving, step 1 (10 %)
2026-11-22T08:00:45Z  +45s    Analysing, step 1 (10 %)
2026-11-22T08:00:50Z  +50s    Surging, step 2 (100 %)
2026-11-22T08:01:01Z  +1m1s   RollingBack               3 sessions came back without their state
2026-11-22T08:01:20Z  +1m20s  RolledBack

Verdicts
TIME                  STEP  RESULT    REASON     NUMBERS
2026-11-22T08:01:00Z  -     Breached  StateLoss  3 sessions came back without their state, GET /ws

Waves
TIME                  WAVE       REASON   PODS  TOLD  IN TURN  FORCED
2026-11-22T08:00:21Z  r1abcd-w1  rollout  1     100   100      0
2026-11-22T08:00:40Z  r1abcd-w2  rollout  1     105   100      0

Requests
TIME                  VERB     BY    RESULT
2026-11-22T08:00:50Z  promote  jane  on to step 2

What to look at
- 2 sessions ended without an announcement: look for pods that vanished or restarted at the time (`kubectl get events`), and at the audit trail's `unannounced` lines, which name them.
"
    );
    let markdown = page.markdown();
    assert!(
        markdown.starts_with("# prod/chat: release 1\n\nIt was rolled back."),
        "{markdown}"
    );
    assert!(
        markdown.contains("\n## Timeline\n\n| time | after | what | why |\n|---|---|---|---|\n| 2026"),
        "{markdown}"
    );
}

#[test]
fn a_restarted_operator_goes_on_with_the_story_it_finds() {
    let statuses = rolled_back();
    let whole = told(&statuses);
    for cut in 1..statuses.len() {
        let before = told(&statuses[..cut]);
        let mut stories: Stories = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
        // It sees the status of before once more.
        for status in &statuses[cut - 1..] {
            advance(&mut stories, status);
        }
        assert_eq!(stories, whole, "restarted after status {cut}");
    }
}

#[test]
fn a_template_that_was_taken_back_before_anything_moved() {
    let mut statuses = rolled_back();
    statuses.truncate(1);
    statuses.push(status(
        &json!({"releases": 1, "state": {"healthy": {"since": at(9)}}}),
    ));
    let stories = told(&statuses);
    assert_eq!(stories.0[0].outcome.as_deref(), Some("Withdrawn"));
    assert_eq!(stories.0[0].ended, Some(at(9).parse().unwrap()));
}

#[test]
fn a_newer_template_takes_the_number_of_the_one_that_waited() {
    let mut statuses = rolled_back();
    statuses.truncate(1);
    let mut next = json!({"releases": 1, "release": release(1), "state": {"preflight": {"since": at(7)}}});
    next["release"]["id"] = json!("r1efgh");
    next["release"]["canary"] = json!("ghjkl13579");
    statuses.push(status(&next));
    let stories = told(&statuses);
    assert_eq!((stories.0.len(), stories.0[0].to.as_str()), (1, "ghjkl13579"));
    assert_eq!(stories.0[0].phases.len(), 1);
}

#[test]
fn ten_releases_are_remembered() {
    let statuses: Vec<_> = (1..=13)
        .map(|number| status(&json!({"releases": number, "release": release(number), "state": {"preflight": {"since": at(number as u32)}}})))
        .collect();
    let stories = told(&statuses);
    let numbers: Vec<u64> = stories.0.iter().map(|s| s.number).collect();
    assert_eq!(numbers, (4..=13).rev().collect::<Vec<_>>());
    assert!(stories.0[1].outcome.is_some() && stories.0[0].outcome.is_none());
}

fn figures(attempts: u64) -> Value {
    json!({"attempts": attempts, "restored": attempts, "failed": 0, "stateLost": 0, "unannounced": 0, "restoredP50Ms": 40, "restoredP95Ms": 90})
}

#[test]
fn probes_and_scenarios_of_this_release_count_and_those_of_another_do_not() {
    let evidence = |since: &str, attempts: u64| -> ProbeEvidence {
        serde_json::from_value(
            json!({"target": "canary", "since": since, "open": 20, "failuresInARow": 0, "window": figures(0),
            "total": figures(attempts), "lastFailure": "closed, wss://x/ws?token=abc"}),
        )
        .unwrap()
    };
    let report = |run: &str| -> RehearsalReport {
        serde_json::from_value(json!({"run": run, "stage": "passed", "sessions": 10, "figures": figures(10), "scenarios": [
            {"scenario": "Crash", "sessions": 10, "figures": figures(10), "meanMs": 412, "limitMs": 30_000,
                "outcome": {"passed": {"message": "10 of 10 restored"}}},
            {"scenario": "BackOff", "sessions": 10, "figures": figures(0), "limitMs": 30_000},
        ]}))
        .unwrap()
    };
    let status = &rolled_back()[1];
    let mut stories = Stories::default();
    let mut show = |evidence: &ProbeEvidence, report: &RehearsalReport| {
        stories.advance(
            status,
            Extras {
                evidence: std::slice::from_ref(evidence),
                rehearsal: Some(report),
                by: &By::default(),
                scrub: &Scrub::default(),
            },
        );
        stories.clone()
    };
    let other = show(&evidence("2026-11-22T07:59:00Z", 90), &report("r0xxxx-r1"));
    assert!(other.0[0].probes.is_empty() && other.0[0].scenarios.is_empty());
    let (first, run) = (evidence(&at(10), 30), report("r1abcd-r1"));
    let once = show(&first, &run);
    assert_eq!(once, show(&first, &run), "the same round twice");
    let twice = show(&evidence(&at(30), 5), &run);
    let probes = &twice.0[0].probes[0];
    assert_eq!((probes.total().attempts, probes.run.attempts), (35, 5));
    assert_eq!(probes.last_failure.as_deref(), Some("closed, wss://x/ws"));
    let played: Vec<_> = twice.0[0]
        .scenarios
        .iter()
        .map(|s| (s.scenario.as_str(), s.outcome.as_str()))
        .collect();
    assert_eq!(played, [("Crash", "Passed")]);
}

#[test]
fn pins_and_hints_stay_out_of_stories() {
    let mut status = rolled_back()[8].clone();
    if let Some(verdict) = &mut status.verdict {
        verdict.message = "looked with pin-canary-5678, hint wsroll=hint-value-3456".to_owned();
    }
    let scrub = Scrub::default().with_pins(&[&status]);
    let mut stories = Stories::default();
    let extras = Extras {
        evidence: &[],
        rehearsal: None,
        by: &By::default(),
        scrub: &scrub,
    };
    stories.advance(&status, extras);
    let text = serde_json::to_string(&stories).unwrap();
    assert!(!text.contains("pin-") && !text.contains("hint-value"), "{text}");
}

proptest! {
    /// Whatever rounds are repeated, and however often: facts are told once.
    #[test]
    fn a_round_that_is_seen_again_adds_nothing(times in proptest::collection::vec(1_usize..4, 10)) {
        let statuses = rolled_back();
        let repeated: Vec<RolloutStatus> = statuses
            .iter()
            .zip(&times)
            .flat_map(|(status, times)| std::iter::repeat_n(status.clone(), *times))
            .collect();
        prop_assert_eq!(told(&repeated), told(&statuses));
    }

    #[test]
    fn a_story_fits_whatever_happened(phases in 0_u32..400, waves in 0_u32..200, length in 0_usize..3_000) {
        let mut stories = Stories::default();
        let text = "ä\"".repeat(length);
        for n in 0..phases.max(waves) {
            let since = jiff::Timestamp::from_second(1_795_000_000 + i64::from(n)).unwrap().to_string();
            let state = json!({"paused": {"step": n % 2, "since": since, "reason": "Requested", "message": text}});
            let mut more = json!({"drain": drain(i64::from(n), i64::from(n))});
            if n < waves {
                more["wave"] = wave(&format!("r1abcd-w{n}"), n, 0, 0);
            }
            more["verdict"] = json!({"result": "Inconclusive", "reason": format!("R{n}"), "message": text, "at": since});
            more["lastRequest"] = json!({"nonce": n.to_string(), "verb": "promote", "accepted": true, "message": text, "at": since});
            let mut status = phase(&state, &more);
            if let Some(release) = &mut status.release {
                release.images = vec!["i".repeat(500); 32];
                release.started_at = jiff::Timestamp::UNIX_EPOCH;
            }
            advance(&mut stories, &status);
        }
        for story in &stories.0 {
            let json = story.to_bounded_json();
            prop_assert!(json.len() <= MAX_BYTES, "{} bytes", json.len());
            let read: Story = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.number, story.number);
            prop_assert_eq!(read.phases.last(), story.phases.last());
        }
    }
}
