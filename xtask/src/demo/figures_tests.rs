use super::*;

const SIZE: Size = Size {
    sessions: 1000,
    pods: 10,
    probes: 10,
    budget: 50,
};

fn kept() -> Figures {
    let rolled_back = Verdict {
        result: "RolledBack".to_owned(),
        why: "no answer".to_owned(),
    };
    Figures {
        wsroll: Side {
            sessions: 1000,
            sessions_on_new_version: 1000,
            max_disconnects_per_session: 1,
            peak_connects_per_s: 50,
            budget_per_s: Some(50),
            drain_s: 30.0,
            drain_bound_s: Some(drain_bound_s(SIZE, 300)),
            verdict_to_weights_restored_ms: Some(2000),
            sessions_reached_by_broken: Some(0),
            broken: Some(Broken {
                mute: rolled_back.clone(),
                under_load: rolled_back,
                max_disconnects_per_session: 2,
                ..Broken::default()
            }),
            ..Side::default()
        },
        deployment: Side {
            unannounced_disconnects: 1400,
            max_disconnects_per_session: 4,
            ..Side::default()
        },
    }
}

fn broken_promises(figures: &Figures) -> Vec<&'static str> {
    let broken = figures
        .compare()
        .into_iter()
        .filter(|line| line.held == Some(false));
    broken.map(|line| line.what).collect()
}

#[test]
fn limits_themselves_are_kept() {
    assert!(broken_promises(&kept()).is_empty());
}

#[test]
fn the_bound_covers_windows_and_programming() {
    assert!((drain_bound_s(SIZE, 300) - (25.0 + 15.0 + 0.9)).abs() < 1e-9);
}

#[test]
fn every_promise_can_be_broken() {
    type Breach = fn(&mut Side, &mut Broken);
    let breaches: [(&str, Breach); 14] = [
        ("sessions on the new version", |side, _| {
            side.sessions_on_new_version = 999;
        }),
        ("unannounced disconnects", |side, _| {
            side.unannounced_disconnects = 1;
        }),
        ("disconnects of one session, most", |side, _| {
            side.max_disconnects_per_session = 2;
        }),
        ("messages lost", |side, _| side.messages_lost = 1),
        ("sessions whose state was lost", |side, _| side.state_lost = 1),
        ("first connects in one second, most", |side, _| {
            side.peak_connects_per_s = 51;
        }),
        ("time in which sessions moved", |side, _| side.drain_s = 41.0),
        ("mute version: ended", |_, broken| {
            broken.mute.result = "Completed".to_owned();
        }),
        ("mute version: sessions that met it", |side, _| {
            side.sessions_reached_by_broken = Some(1);
        }),
        ("breaks under load: ended", |_, broken| {
            broken.under_load.result = "Completed".to_owned();
        }),
        ("breaks under load: verdict to weights back", |side, _| {
            side.verdict_to_weights_restored_ms = None;
        }),
        ("both: disconnects of one session, most", |_, broken| {
            broken.max_disconnects_per_session = 3;
        }),
        ("both: messages, states lost", |_, broken| broken.state_lost = 1),
        ("both: sessions unanswered at the end", |_, broken| {
            broken.unanswered = 1;
        }),
    ];
    for (what, breach) in breaches {
        let mut figures = kept();
        let mut broken = figures.wsroll.broken.take().unwrap();
        breach(&mut figures.wsroll, &mut broken);
        figures.wsroll.broken = Some(broken);
        assert_eq!(broken_promises(&figures), [what]);
    }
}

#[test]
fn what_does_not_apply_is_null() {
    let json = serde_json::to_value(kept()).unwrap();
    assert_eq!(json["wsroll"]["sessions_reached_by_broken"], 0);
    for name in [
        "budget_per_s",
        "verdict_to_weights_restored_ms",
        "sessions_reached_by_broken",
    ] {
        assert!(
            json["deployment"]
                .get(name)
                .is_some_and(serde_json::Value::is_null),
            "{name}"
        );
    }
}
