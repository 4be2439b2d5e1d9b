//! The examples of the protocol's document, byte for byte in meaning.

use serde_json::{Value, json};

use super::*;

fn order() -> Value {
    json!({"id":"r1-1-2-pod","reason":"rollout","select":{"all":{}},"mode":"ask","ratePerSecond":50.0,"leaseSeconds":30,
        "deadlineMs":1_800_000,"onDeadline":"wait","reconnect":{"minMs":0,"maxMs":5000,"hint":{"query":"wsroll=x7Qp"}},
        "closeCode":1012})
}

#[test]
fn an_order_survives_the_wire_unchanged() {
    let parsed: DrainOrder = serde_json::from_value(order()).unwrap();
    assert_eq!(parsed.select, Select::All {});
    assert_eq!(parsed.reconnect.hint, Some(Hint::Query("wsroll=x7Qp".into())));
    assert_eq!(serde_json::to_value(&parsed).unwrap(), order());
    assert_eq!(parsed.check(), Ok(()));
}

#[test]
fn a_report_survives_the_wire_unchanged() {
    let report = json!({"instance":"4f1c","revision":"7f9c","open":812,"accepting":true,
        "totals":{"accepted":9120,"resumed":311,"resumeFailed":0,"stateLost":0,"closed":{"1000":8000,"1012":300,"1006":8}},
        "drain":{"id":"x","state":"active","eligible":812,"notified":250,"acked":248,"closedClean":240,"closedForced":0,
            "busy":3,"ratePerSecond":50.0,"leaseExpiresMs":21000}});
    let parsed: SessionsReport = serde_json::from_value(report.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), report);
}

#[test]
fn absent_counters_are_unknown_and_unknown_fields_ignored() {
    let report: SessionsReport = serde_json::from_value(
        json!({"open":1,"novelty":{},"drain":{"id":"x","state":"resting"},"totals":{}}),
    )
    .unwrap();
    assert_eq!(report.instance, None);
    let drain = report.drain.unwrap();
    assert_eq!(
        (drain.state, drain.notified, drain.busy),
        (DrainState::Unknown, None, None)
    );
    assert_eq!(report.totals.unwrap().resumed, None);
}

#[test]
fn a_report_without_its_count_is_no_report() {
    serde_json::from_value::<SessionsReport>(json!({"instance":"a"})).unwrap_err();
}

#[test]
fn the_other_selections_and_modes() {
    for (text, select) in [
        (json!({"count":7}), Select::Count(7)),
        (json!({"fraction":0.25}), Select::Fraction(0.25)),
    ] {
        assert_eq!(serde_json::from_value::<Select>(text.clone()).unwrap(), select);
        assert_eq!(serde_json::to_value(select).unwrap(), text);
    }
    assert_eq!(serde_json::to_value(Mode::WhenIdle).unwrap(), json!("whenIdle"));
    assert_eq!(
        serde_json::to_value(Reason::ScaleDown).unwrap(),
        json!("scaleDown")
    );
    assert_eq!(serde_json::to_value(OnDeadline::Close).unwrap(), json!("close"));
}

#[test]
fn a_notice_survives_the_wire_unchanged() {
    let notice = json!({"type":"wsroll.notice","v":1,"id":"a","reason":"rollout","deadlineMs":30000,
        "reconnect":{"afterMs":1730,"withinMs":250,"url":null,"query":"wsroll=x7Qp"},
        "resume":{"token":"t0ken","expiresMs":900_000},"closeCode":1012,"makeBeforeBreak":false});
    let parsed: Notice = serde_json::from_value(notice.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), notice);
    assert!(
        !format!("{parsed:?}").contains("t0ken"),
        "tokens stay out of logs"
    );
    serde_json::from_value::<Notice>(
        json!({"type":"message","v":1,"id":"a","reason":"rollout","reconnect":{}}),
    )
    .unwrap_err();
}

#[rstest::rstest]
#[case(json!({"id":"a/b"}), BadOrder::Id)]
#[case(json!({"id":""}), BadOrder::Id)]
#[case(json!({"ratePerSecond":0.0}), BadOrder::Rate)]
#[case(json!({"ratePerSecond":-1.0}), BadOrder::Rate)]
#[case(json!({"leaseSeconds":0}), BadOrder::Lease)]
#[case(json!({"select":{"all":null,"fraction":1.5}}), BadOrder::Fraction)]
#[case(json!({"reconnect":{"minMs":6000,"maxMs":5000}}), BadOrder::Window)]
#[case(json!({"closeCode":1000}), BadOrder::CloseCode)]
#[case(json!({"closeCode":1006}), BadOrder::CloseCode)]
fn bad_orders_are_named(#[case] change: Value, #[case] expected: BadOrder) {
    let mut text = order();
    json_patch::merge(&mut text, &change);
    assert_eq!(
        serde_json::from_value::<DrainOrder>(text).unwrap().check(),
        Err(expected)
    );
}
