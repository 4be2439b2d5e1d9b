//! Reports from an audit trail and from what is kept.

use serde_json::json;

use super::*;

const NOW: &str = "2026-11-22T09:00:00Z";

fn line(namespace: &str, release: u64, second: u32, event: &Value) -> String {
    json!({"v": 1, "time": format!("2026-11-22T08:00:{second:02}Z"), "namespace": namespace, "rollout": "chat", "release": release,
        "releaseId": format!("r{release}abcd"), "revision": "xwvts98765", "pod": "chat-1", "event": event})
    .to_string()
}

fn trail() -> String {
    let begun = json!({"releaseBegun": {"from": "bcdfg24567", "to": "xwvts98765", "images": ["chat:2"], "sessions": 100, "steps": [100]}});
    let counts = |n: u64| json!({"notified": n, "acknowledged": n, "closedClean": n, "closedForced": 0});
    let progress =
        |n: u64| json!({"progress": {"order": "r2abcd-w1-u1", "delta": counts(5), "total": counts(n)}});
    [
        line("prod", 1, 0, &json!({"phase": {"to": "Preflight"}})),
        line("prod", 2, 1, &begun),
        line("prod", 2, 1, &json!({"phase": {"from": "Healthy", "to": "Preflight"}})),
        line("prod", 2, 9, &json!({"waveStarted": {"wave": "r2abcd-w1", "reason": "rollout", "pods": 1, "sessions": 10}})),
        line("prod", 2, 10, &progress(5)),
        "torn {".to_owned(),
        // Told twice by a restarted operator: totals count.
        line("prod", 2, 11, &progress(5)),
        line("prod", 2, 12, &progress(10)),
        line("prod", 2, 12, &json!({"sessionReleased": {"session": "74aae192643f597a", "order": "r2abcd-w1-u1", "how": "moved"}})),
        line("prod", 2, 13, &json!({"sessionReturned": {"session": "74aae192643f597a", "afterMs": 40, "resumed": true, "stray": false}})),
        json!({"v": 1, "time": "2026-11-22T08:00:14Z", "event": {"lost": {"records": 4}}}).to_string(),
        line("prod", 2, 15, &json!({"waveEnded": {"wave": "r2abcd-w1", "total": counts(10)}})),
        json!({"v": 2, "time": "2026-11-22T08:00:14Z", "event": {"dreamt": {}}}).to_string(),
        line("prod", 2, 40, &json!({"releaseEnded": {"outcome": "Completed", "moved": 10, "unannounced": 0}})),
    ]
    .join("\n")
}

fn report(trail: &str, namespace: Option<&str>, release: Option<u64>, form: Form) -> anyhow::Result<String> {
    let read = Read::of(trail.as_bytes(), "chat", namespace)?;
    from_file(read, "chat", release, form, NOW.parse()?)
}

#[test]
fn the_last_release_with_every_event() {
    let text = report(&trail(), None, None, Form::Text).unwrap();
    let (head, events) = text.split_once("\nEvents\n").unwrap();
    assert_eq!(
        head,
        "\
prod/chat: release 2
It completed.

Revision     bcdfg24567 -> xwvts98765
Images       chat:2
Steps        100 %
Begun        2026-11-22T08:00:01Z
Ended        2026-11-22T08:00:40Z, after 39s
Sessions     100 open at the beginning, 10 moved: 10 in turn, 0 at the deadline
Returns      1 of 1 came back, 0 strays, 0 missing, 0 without their state
Unannounced  0

Timeline
TIME                  AFTER  WHAT       WHY
2026-11-22T08:00:01Z  +0s    begun
2026-11-22T08:00:01Z  +0s    Preflight
2026-11-22T08:00:40Z  +39s   Completed

Waves
TIME                  WAVE       REASON   PODS  TOLD  IN TURN  FORCED
2026-11-22T08:00:09Z  r2abcd-w1  rollout  1     10    10       0

What to look at
- Nothing.
"
    );
    assert!(
        events.starts_with(
            "10 events. 4 records, of any rollout, were dropped by the sink. 2 lines were left out"
        ),
        "{events}"
    );
    let returned = events
        .lines()
        .find(|line| line.contains("sessionReturned"))
        .unwrap();
    assert_eq!(
        returned.split_whitespace().collect::<Vec<_>>().join(" "),
        "2026-11-22T08:00:13Z sessionReturned xwvts98765 chat-1 afterMs=40 resumed=true session=74aae192643f597a stray=false"
    );
    assert_eq!(events.lines().count(), 2 + 10);
}

#[test]
fn programs_get_the_story_and_the_events_as_they_were_written() {
    let json: Value = serde_json::from_str(&report(&trail(), None, Some(1), Form::Json).unwrap()).unwrap();
    assert_eq!(
        (&json["story"]["number"], &json["lost"], &json["skipped"]),
        (&json!(1), &json!(4), &json!(2))
    );
    assert_eq!(json["events"].as_array().unwrap().len(), 1);
    let markdown = report(&trail(), None, None, Form::Markdown).unwrap();
    assert!(markdown.contains("## Events\n\n10 events."), "{markdown}");
}

#[test]
fn what_is_not_in_it_is_said() {
    let two = format!(
        "{}\n{}",
        trail(),
        line("stage", 9, 1, &json!({"phase": {"to": "Preflight"}}))
    );
    for (trail, namespace, release, says) in [
        ("", None, None, "no record in it is of a rollout chat"),
        (
            two.as_str(),
            None,
            None,
            "choose one with --namespace, prod or stage",
        ),
        (two.as_str(), Some("test"), None, "of namespace prod, stage"),
        (
            two.as_str(),
            Some("prod"),
            Some(7),
            "no record of chat is of release 7",
        ),
    ] {
        let error = report(trail, namespace, release, Form::Text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(
        report(&two, Some("stage"), None, Form::Text)
            .unwrap()
            .starts_with("stage/chat: release 9")
    );
}

#[test]
fn a_release_is_chosen_by_number_or_the_newest() {
    let story = |number| Story {
        number,
        ..Story::default()
    };
    let mut stories = Stories(vec![story(7), story(5)]);
    add_bare(&mut stories, [story(7), story(6)].into_iter());
    assert_eq!(choose(&stories, None, "chat").unwrap().number, 7);
    assert_eq!(choose(&stories, Some(6), "chat").unwrap().number, 6);
    let error = choose(&stories, Some(1), "chat").unwrap_err().to_string();
    assert!(error.contains("7, 6, 5 are"), "{error}");
    let none = choose(&Stories::default(), None, "chat").unwrap_err().to_string();
    assert!(none.contains("no release yet"), "{none}");
}
