use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::status::Tally;
use crate::engine::evidence::{ProbeFigures, ProbeTarget};

fn seen(attempts: u64, restored: u64) -> ProbeEvidence {
    let figures = ProbeFigures {
        attempts,
        restored,
        failed: attempts - restored,
        restored_p50_ms: Some(20),
        restored_p95_ms: Some(40),
        ..ProbeFigures::default()
    };
    ProbeEvidence {
        target: ProbeTarget::Canary,
        since: Timestamp::UNIX_EPOCH,
        open: 20,
        total: figures.clone(),
        window: figures,
        recent: ProbeFigures::default(),
        failures_in_a_row: 0,
        last_failure: None,
        pods: BTreeMap::new(),
    }
}

fn fresh() -> Trial {
    let part = Part {
        step: 0,
        settled: true,
    };
    begin(None, part, Timestamp::UNIX_EPOCH)
}

fn trial(canary: Option<&ProbeEvidence>, stable: Option<&ProbeEvidence>) -> Trial {
    let mut trial = fresh();
    if let Some(canary) = canary {
        take_over(&mut trial.canary, canary, false);
    }
    if let Some(stable) = stable {
        take_over(&mut trial.stable, stable, false);
    }
    trial
}

fn about<'a>(trial: &'a Trial, canary: Option<&'a ProbeEvidence>) -> Evidence<'a> {
    Evidence {
        trial,
        canary,
        stable: None,
        pods: &[],
        easing: false,
        users_state_lost: 0,
        users: None,
        resumes: (0, 0),
        baseline: Some(Baseline {
            p50_ms: 20,
            p95_ms: 40,
        }),
        conserved: None,
        analysis: &[],
        metrics: &[],
    }
}

fn judged(canary: Option<&ProbeEvidence>, stable: Option<&ProbeEvidence>) -> Outcome {
    let trial = trial(canary, stable);
    let evidence = Evidence {
        stable,
        ..about(&trial, canary)
    };
    judge(&Thresholds::default(), evidence)
}

fn reason(outcome: &Outcome) -> &str {
    match &outcome.judgement {
        Judgement::Pass(_) => "pass",
        Judgement::Inconclusive(_) => "inconclusive",
        Judgement::Breach(breach) => &breach.reason,
        Judgement::ControlFailing(_) => "control",
    }
}

fn message(outcome: &Outcome) -> &str {
    match &outcome.judgement {
        Judgement::Pass(m) | Judgement::Inconclusive(m) | Judgement::ControlFailing(m) => m,
        Judgement::Breach(breach) => &breach.message,
    }
}

#[rstest]
#[case(100, 100, "pass")]
#[case(99, 99, "inconclusive")]
#[case(100, 97, "inconclusive")]
#[case(300, 289, "pass")]
#[case(1_000, 850, "inconclusive")]
#[case(100, 70, "inconclusive")]
#[case(180, 112, "ReconnectSuccess")]
#[case(99, 60, "inconclusive")]
#[case(11, 0, "ReconnectSuccess")]
#[case(10, 0, "inconclusive")]
#[case(60, 15, "ReconnectSuccess")]
#[case(0, 0, "inconclusive")]
fn success_is_judged_by_bounds(#[case] attempts: u64, #[case] restored: u64, #[case] expected: &str) {
    let outcome = judged(Some(&seen(attempts, restored)), None);
    assert_eq!(reason(&outcome), expected, "{}", message(&outcome));
}

#[test]
fn a_verdict_is_one_sentence_with_its_numbers() {
    let said = |attempts, restored| message(&judged(Some(&seen(attempts, restored)), None)).to_owned();
    assert_eq!(
        said(180, 112),
        "112 of 180 probe reconnects restored (62.2 %, interval 47.2–75.7 %), rollback below 80 %"
    );
    assert_eq!(
        said(20, 2),
        "2 of 20 probe reconnects restored (10 %, interval 0.1–49 %), rollback at once below 50 %"
    );
    assert_eq!(
        said(200, 200),
        "200 of 200 probe reconnects restored (100 %, interval 95.8–100 %), 95 % of them within 40 ms; target 95 %: met, service level 99.9 %: open"
    );
    assert_eq!(
        said(30, 30),
        "30 of 30 probe reconnects restored (100 %, interval 77.6–100 %), 100 are needed"
    );
    assert!(
        said(100, 97).ends_with("about 126 reconnects more at this share"),
        "{}",
        said(100, 97)
    );
    assert!(
        said(400, 340).ends_with("at 85 % no number of reconnects is enough for either"),
        "{}",
        said(400, 340)
    );
}

#[test]
fn no_data_is_no_success() {
    assert_eq!(reason(&judged(None, None)), "inconclusive");
}

#[test]
fn more_than_three_failures_in_a_row_are_a_breach_whatever_the_sample() {
    let mut canary = seen(4, 0);
    canary.failures_in_a_row = 3;
    assert_eq!(reason(&judged(Some(&canary), None)), "inconclusive");
    canary.failures_in_a_row = 4;
    assert_eq!(reason(&judged(Some(&canary), None)), "FailuresInARow");
    let mut stable = seen(4, 0);
    stable.failures_in_a_row = 2;
    assert_eq!(reason(&judged(Some(&canary), Some(&stable))), "control");
}

#[test]
fn what_our_own_pace_may_have_done_is_not_held_against_the_version() {
    let mut canary = seen(100, 60);
    canary.failures_in_a_row = 9;
    canary.window.restored_p50_ms = Some(2_000);
    canary.window.restored_p95_ms = Some(3_000);
    let mut trial = fresh();
    take_over(&mut trial.canary, &canary, true);
    assert_eq!((trial.canary.attempts, trial.canary.aside), (0, 100));
    let easing = Evidence {
        easing: true,
        ..about(&trial, Some(&canary))
    };
    assert_eq!(reason(&judge(&Thresholds::default(), easing)), "inconclusive");
    let mut lossy = canary.clone();
    lossy.total.state_lost = 1;
    let lost = Evidence {
        canary: Some(&lossy),
        ..easing
    };
    assert_eq!(
        reason(&judge(&Thresholds::default(), lost)),
        "StateLoss",
        "no pace does that"
    );
}

#[test]
fn any_state_loss_is_a_breach_be_it_a_probes_or_a_users() {
    let mut canary = seen(100, 100);
    canary.total.state_lost = 1;
    assert_eq!(reason(&judged(Some(&canary), None)), "StateLoss");
    let trial = fresh();
    let users = Evidence {
        users_state_lost: 1,
        ..about(&trial, None)
    };
    assert_eq!(reason(&judge(&Thresholds::default(), users)), "StateLoss");
}

#[rstest]
#[case((100, 10), (100, 10), "control")]
#[case((100, 10), (100, 100), "ReconnectSuccess")]
#[case((100, 10), (0, 0), "ReconnectSuccess")]
#[case((200, 100), (200, 160), "ReconnectSuccess")]
#[case((2_000, 1_650), (2_000, 1_650), "control")]
#[case((300, 300), (300, 30), "pass")]
fn when_the_control_group_cannot_be_told_apart_it_is_not_the_version(
    #[case] canary: (u64, u64),
    #[case] stable: (u64, u64),
    #[case] expected: &str,
) {
    let outcome = judged(Some(&seen(canary.0, canary.1)), Some(&seen(stable.0, stable.1)));
    assert_eq!(reason(&outcome), expected, "{}", message(&outcome));
}

#[rstest]
#[case(&["a", "b", "c"], "pass")]
#[case(&["a", "b"], "inconclusive")]
#[case(&[], "pass")]
#[case(&["elsewhere"], "pass")]
fn samples_are_spread_over_all_pods_where_the_service_names_them(
    #[case] met: &[&str],
    #[case] expected: &str,
) {
    let pods = ["a", "b", "c"].map(str::to_owned);
    let mut canary = seen(100, 100);
    canary.pods = met.iter().map(|pod| ((*pod).to_owned(), 30)).collect();
    let mut trial = trial(Some(&canary), None);
    // Three pods: 3 × 3 × (ln 3 + 5) is 54.9, so with a hundred a pod that was not met is no chance.
    let thresholds = Thresholds::default();
    let look = |trial: &Trial| {
        let evidence = Evidence {
            pods: &pods,
            ..about(trial, Some(&canary))
        };
        judge(&thresholds, evidence)
    };
    let outcome = look(&trial);
    assert_eq!(reason(&outcome), "pass");
    assert_eq!(
        message(&outcome).contains("no probe met 1 of 3 ready pods (c)"),
        expected == "inconclusive"
    );
    trial.canary.attempts = 50;
    trial.canary.restored = 50;
    let mut small = thresholds.clone();
    small.reconnect_success.min_samples = 10;
    small.reconnect_success.confidence_percent = 80;
    small.reconnect_success.advance_above_percent = 80;
    let evidence = Evidence {
        pods: &pods,
        ..about(&trial, Some(&canary))
    };
    assert_eq!(reason(&judge(&small, evidence)), expected);
}

#[rstest]
#[case(88, 12, Some(97.0), false)]
#[case(86, 14, Some(97.0), true)]
#[case(20, 29, Some(97.0), false)]
#[case(10, 90, None, false)]
#[case(60, 40, Some(65.0), false)]
fn users_are_judged_against_how_many_come_back_by_themselves(
    #[case] back: i64,
    #[case] missing: i64,
    #[case] natural_percent: Option<f64>,
    #[case] warned: bool,
) {
    let users = Returned {
        back,
        missing,
        natural_percent,
        ..Returned::default()
    };
    let canary = seen(100, 100);
    let trial = trial(Some(&canary), None);
    let evidence = Evidence {
        users: Some(&users),
        ..about(&trial, Some(&canary))
    };
    let outcome = judge(&Thresholds::default(), evidence);
    assert_eq!(reason(&outcome), "pass", "phones sleep: it warns");
    assert_eq!(outcome.warnings.iter().any(|w| w.reason == "UsersReturn"), warned);
}

#[rstest]
#[case((95, 5), false)]
#[case((94, 6), true)]
#[case((10, 30), false)]
fn resumes_that_fail_are_warned_of(#[case] resumes: (u64, u64), #[case] warned: bool) {
    let canary = seen(100, 100);
    let trial = trial(Some(&canary), None);
    let evidence = Evidence {
        resumes,
        ..about(&trial, Some(&canary))
    };
    let outcome = judge(&Thresholds::default(), evidence);
    assert_eq!(
        (reason(&outcome), outcome.warnings.len()),
        ("pass", usize::from(warned))
    );
}

#[rstest]
#[case(100, 600, 900, "ReconnectTime")]
#[case(100, 600, 60, "pass")]
#[case(100, 200, 250, "pass")]
#[case(99, 600, 900, "inconclusive")]
fn slow_means_median_and_tail_above_baseline_and_noise(
    #[case] restored: u64,
    #[case] p50: u64,
    #[case] p95: u64,
    #[case] expected: &str,
) {
    let mut canary = seen(restored, restored);
    canary.window.restored_p50_ms = Some(p50);
    canary.window.restored_p95_ms = Some(p95);
    assert_eq!(reason(&judged(Some(&canary), None)), expected);
}

#[test]
fn a_busy_machine_slows_the_control_group_as_well() {
    let mut slow = seen(100, 100);
    slow.window.restored_p50_ms = Some(600);
    slow.window.restored_p95_ms = Some(900);
    assert_eq!(reason(&judged(Some(&slow), Some(&slow))), "pass");
}

#[rstest]
#[case((100, 90), false)]
#[case((100, 89), true)]
#[case((49, 0), false)]
fn sessions_that_are_missing_after_a_wave_are_warned_of(#[case] conserved: (i64, i64), #[case] warned: bool) {
    let canary = seen(100, 100);
    let trial = trial(Some(&canary), None);
    let evidence = Evidence {
        conserved: Some(conserved),
        ..about(&trial, Some(&canary))
    };
    let outcome = judge(&Thresholds::default(), evidence);
    assert_eq!(
        (reason(&outcome), outcome.warnings.len()),
        ("pass", usize::from(warned))
    );
}

#[rstest]
#[case(json!({}), (3, 0, None), "pass")]
#[case(json!({}), (2, 0, None), "inconclusive")]
#[case(json!({}), (9, 1, None), "inconclusive")]
#[case(json!({}), (9, 3, None), "Analysis")]
#[case(json!({}), (9, 0, Some("no connection")), "inconclusive")]
#[case(json!({}), (0, 0, Some("no connection")), "inconclusive")]
#[case(json!({"required": false}), (0, 0, Some("no connection")), "pass")]
#[case(json!({"required": false}), (3, 3, None), "Analysis")]
#[case(json!({"action": "Warn"}), (3, 3, None), "pass")]
fn other_systems_hold_a_step_or_breach_and_their_errors_are_no_failure(
    #[case] patch: serde_json::Value,
    #[case] told: (u32, u32, Option<&str>),
    #[case] expected: &str,
) {
    let mut asked = json!({"name": "errors", "condition": "result < 0.05", "webhook": {"url": "http://h/"}});
    json_patch::merge(&mut asked, &patch);
    let analysis = [serde_json::from_value(asked).unwrap()];
    let metrics = [MetricView {
        name: "errors".to_owned(),
        samples: told.0,
        broken_in_a_row: told.1,
        last: Some("result is 0.2".to_owned()),
        error: told.2.map(str::to_owned),
    }];
    let canary = seen(200, 200);
    let trial = trial(Some(&canary), None);
    let evidence = Evidence {
        analysis: &analysis,
        metrics: &metrics,
        ..about(&trial, Some(&canary))
    };
    let outcome = judge(&Thresholds::default(), evidence);
    assert_eq!(reason(&outcome), expected, "{}", message(&outcome));
    let unasked = Evidence {
        metrics: &[],
        ..evidence
    };
    assert_ne!(
        reason(&judge(&Thresholds::default(), unasked)),
        "Analysis",
        "no answer is no failure"
    );
}

#[test]
fn what_is_only_warned_of_lets_the_step_pass() {
    let mut thresholds = Thresholds::default();
    thresholds.reconnect_success.action = BreachAction::Warn;
    let canary = seen(200, 60);
    let trial = trial(Some(&canary), None);
    let outcome = judge(&thresholds, about(&trial, Some(&canary)));
    assert_eq!((reason(&outcome), outcome.warnings.len()), ("pass", 1));
}

#[rstest]
#[case(96, None)]
#[case(94, Some("alert"))]
#[case(89, Some("alert"))]
#[case(79, Some("critical"))]
fn people_are_told_by_the_share_of_the_window(#[case] restored: u64, #[case] expected: Option<&str>) {
    let found = alerts(&Thresholds::default(), &seen(100, restored));
    assert_eq!(found.as_ref().map(|f| f.level), expected, "{found:?}");
    assert_eq!(alerts(&Thresholds::default(), &seen(19, 0)), None);
}

#[test]
fn counts_are_taken_over_once_and_another_run_counts_from_nothing() {
    let mut tally = Tally::default();
    let mut run = seen(10, 9);
    take_over(&mut tally, &run, false);
    // An operator that died before it wrote this reads the old status again, and comes to the same.
    let before = tally.clone();
    run.total.attempts = 15;
    run.total.restored = 13;
    take_over(&mut tally, &run, false);
    let mut again = before;
    take_over(&mut again, &run, false);
    assert_eq!(tally, again);
    assert_eq!((tally.attempts, tally.restored), (15, 13));
    let mut next = seen(4, 4);
    next.since = Timestamp::from_second(9).unwrap();
    take_over(&mut tally, &next, false);
    assert_eq!((tally.attempts, tally.restored), (19, 17));
}

#[test]
fn an_epoch_begins_with_each_part_and_after_each_pass_and_the_errors_add_up_to_the_whole() {
    let part = |step, settled| Part { step, settled };
    let now = Timestamp::UNIX_EPOCH;
    let mut trial = begin(None, part(0, false), now);
    trial = begin(Some(&trial), part(0, true), now);
    assert_eq!(
        (trial.epoch, trial.settled),
        (1, true),
        "nothing was seen in the first"
    );
    trial.canary.attempts = 5;
    trial.canary.seen_attempts = 5;
    assert_eq!(begin(Some(&trial), part(0, true), now), trial);
    let next = begin(Some(&trial), part(1, false), now);
    assert_eq!(
        (next.epoch, next.canary.attempts, next.canary.seen_attempts),
        (2, 0, 5)
    );
    let spent: f64 = (1..100_000)
        .map(|epoch| {
            Trial {
                epoch,
                ..trial.clone()
            }
            .alpha(99)
        })
        .sum();
    assert!((0.009_99..=0.01).contains(&spent), "{spent}");
}

fn rank(outcome: &Outcome) -> u8 {
    match outcome.judgement {
        Judgement::Breach(_) => 0,
        Judgement::ControlFailing(_) => 1,
        Judgement::Inconclusive(_) => 2,
        Judgement::Pass(_) => 3,
    }
}

proptest! {
    #[test]
    fn more_successes_never_make_it_worse(attempts in 1u64..1_500, restored in 0u64..1_500) {
        let restored = restored.min(attempts);
        let worse = judged(Some(&seen(attempts, restored)), None);
        let better = judged(Some(&seen(attempts, (restored + 1).min(attempts))), None);
        prop_assert!(rank(&better) >= rank(&worse));
    }
}
