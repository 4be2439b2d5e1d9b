//! Go on, wait, or go back: thresholds against evidence. Missing data is never success, small samples decide nothing.

use super::evidence::ProbeEvidence;
use crate::api::spec::{BreachAction, Thresholds};
use crate::api::status::{Baseline, Returned};

/// The threshold that judges users and not probes.
pub const USERS_RETURN: &str = "UsersReturn";

/// What the evidence says. Each carries one sentence with its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Every threshold is held, on enough samples.
    Pass(String),
    /// Not enough samples, or between the bounds.
    Inconclusive(String),
    /// A threshold is breached.
    Breach {
        /// The threshold, as an identifier.
        reason: &'static str,
        /// One sentence with its numbers.
        message: String,
        /// What the spec says about it.
        action: BreachAction,
    },
    /// Canary and stable fail alike: it is not the new revision.
    ControlFailing(String),
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The probes on the new revision.
    pub canary: Option<&'a ProbeEvidence>,
    /// The probes on the old one: the control group.
    pub stable: Option<&'a ProbeEvidence>,
    /// Users' sessions whose state the new revision's pods did not find.
    pub users_state_lost: u64,
    /// What became of the users' sessions that were moved.
    pub users: Option<&'a Returned>,
    /// Reconnect times before the release moved anybody.
    pub baseline: Option<Baseline>,
}

/// Judges the new revision. Breaches come first: those that roll back before those that pause, those before warnings.
pub fn judge(thresholds: &Thresholds, evidence: Evidence<'_>) -> Judgement {
    let found = [
        state_loss(thresholds, evidence),
        failures_in_a_row(thresholds, evidence),
        success(thresholds, evidence),
        unannounced(thresholds, evidence),
        time(thresholds, evidence),
        users_return(thresholds, evidence),
    ];
    if let Some(worst) = found.into_iter().flatten().min_by_key(severity) {
        return worst;
    }
    samples(thresholds, evidence.canary)
}

/// Whether the probes' sample is large and good enough to go on.
pub fn samples(thresholds: &Thresholds, canary: Option<&ProbeEvidence>) -> Judgement {
    let limits = &thresholds.reconnect_success;
    let Some(canary) = canary else {
        return Judgement::Inconclusive("no probe has reported yet".to_owned());
    };
    let figures = &canary.window;
    let Some(percent) = figures.success_percent() else {
        return Judgement::Inconclusive("no reconnect of a probe has ended yet".to_owned());
    };
    let counted = format!(
        "{} of {} probe reconnects restored ({percent:.1} %)",
        figures.restored, figures.attempts
    );
    if figures.attempts < u64::from(limits.min_samples) {
        return Judgement::Inconclusive(format!("{counted}, {} are needed", limits.min_samples));
    }
    if percent < f64::from(limits.advance_above_percent) {
        return Judgement::Inconclusive(format!(
            "{counted}, {} % are needed to go on",
            limits.advance_above_percent
        ));
    }
    Judgement::Pass(match figures.restored_p95_ms {
        Some(p95) => format!("{counted}, 95 % of them within {p95} ms"),
        None => counted,
    })
}

/// The first of equals wins, so the order above says what is the more serious.
fn severity(judgement: &Judgement) -> u8 {
    match judgement {
        Judgement::Breach {
            action: BreachAction::Rollback,
            ..
        } => 0,
        Judgement::Breach {
            action: BreachAction::Pause,
            ..
        } => 1,
        Judgement::ControlFailing(_) => 2,
        _ => 3,
    }
}

/// Whether there are samples enough to go on with a release whose breach is only to be warned of.
pub fn enough_samples(thresholds: &Thresholds, canary: Option<&ProbeEvidence>) -> bool {
    canary.is_some_and(|e| e.window.attempts >= u64::from(thresholds.reconnect_success.min_samples))
}

fn state_loss(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Judgement> {
    let limit = &thresholds.state_loss;
    let probes = evidence.canary.map_or(0, |e| e.total.state_lost);
    let lost = probes + evidence.users_state_lost;
    (lost > u64::from(limit.max)).then(|| Judgement::Breach {
        reason: "StateLoss",
        message: format!(
            "{lost} sessions came back without their state ({probes} of probes, {} of users), at most {} may",
            evidence.users_state_lost, limit.max
        ),
        action: limit.action,
    })
}

fn failures_in_a_row(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Judgement> {
    let limit = &thresholds.failures_in_a_row;
    let canary = evidence.canary?;
    if canary.failures_in_a_row <= limit.max {
        return None;
    }
    let last = canary.last_failure.as_deref().unwrap_or("no detail");
    let message = format!(
        "{} probe reconnects failed in a row, at most {} may; the last: {last}",
        canary.failures_in_a_row, limit.max
    );
    if evidence
        .stable
        .is_some_and(|stable| stable.failures_in_a_row > limit.max)
    {
        return Some(Judgement::ControlFailing(format!(
            "{message}; the probes on the stable revision fail as well"
        )));
    }
    Some(Judgement::Breach {
        reason: "FailuresInARow",
        message,
        action: limit.action,
    })
}

fn success(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Judgement> {
    let limit = &thresholds.reconnect_success;
    let below = |e: &ProbeEvidence| {
        e.window.attempts >= u64::from(limit.min_samples)
            && e.window
                .success_percent()
                .is_some_and(|p| p < f64::from(limit.rollback_below_percent))
    };
    let canary = evidence.canary.filter(|e| below(e))?;
    let message = format!(
        "{} of {} probe reconnects restored ({:.1} %), rollback below {} %",
        canary.window.restored,
        canary.window.attempts,
        canary.window.success_percent().unwrap_or_default(),
        limit.rollback_below_percent
    );
    if evidence.stable.is_some_and(below) {
        return Some(Judgement::ControlFailing(format!(
            "{message}; the probes on the stable revision fail as well"
        )));
    }
    Some(Judgement::Breach {
        reason: "ReconnectSuccess",
        message,
        action: limit.action,
    })
}

fn unannounced(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Judgement> {
    let limit = &thresholds.unannounced_disconnects;
    let cut = evidence.canary?.total.unannounced;
    (cut > u64::from(limit.max)).then(|| Judgement::Breach {
        reason: "UnannouncedDisconnects",
        message: format!(
            "{cut} probe sessions on the new revision were cut without an announcement, at most {} may",
            limit.max
        ),
        action: limit.action,
    })
}

/// Median and 95th percentile both above the baseline: one alone is an outlier. The baseline is the slower of what was
/// measured before and what the control group measures now, so that a busy machine is not blamed on the version.
fn time(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Judgement> {
    let limit = &thresholds.reconnect_time;
    let canary = evidence.canary?;
    if canary.window.attempts < u64::from(thresholds.reconnect_success.min_samples) {
        return None;
    }
    let now = (canary.window.restored_p50_ms?, canary.window.restored_p95_ms?);
    let control = evidence.stable.map(|s| &s.window);
    let control = (
        control.and_then(|w| w.restored_p50_ms).unwrap_or_default(),
        control.and_then(|w| w.restored_p95_ms).unwrap_or_default(),
    );
    let before = evidence.baseline?;
    let base = (before.p50_ms.max(control.0), before.p95_ms.max(control.1));
    let noise = limit.noise.as_millis();
    let slower = |now: u64, base: u64| {
        now > base + noise && now * 100 > base * (100 + u64::from(limit.above_baseline_percent))
    };
    (slower(now.0, base.0) && slower(now.1, base.1)).then(|| Judgement::Breach {
        reason: "ReconnectTime",
        message: format!(
            "probe reconnects take {} ms (median) and {} ms (95 %), the baseline is {} ms and {} ms, at most {} % more may be",
            now.0, now.1, base.0, base.1, limit.above_baseline_percent
        ),
        action: limit.action,
    })
}

/// Fewer of the moved users came back than do by themselves on the old revision. Dormant ones are in neither count.
fn users_return(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Judgement> {
    let limit = &thresholds.users_return;
    let users = evidence.users?;
    let natural = users.natural_percent?;
    let told = users.back + users.missing;
    if told < i64::from(limit.min_samples) {
        return None;
    }
    let percent = users.back as f64 * 100.0 / told as f64;
    (percent < natural - f64::from(limit.max_drop_percent)).then(|| Judgement::Breach {
        reason: USERS_RETURN,
        message: format!(
            "{} of {told} moved sessions of users came back within {} s ({percent:.1} %), {natural:.1} % do on the old revision, at \
             most {} points less may",
            users.back,
            limit.within.0.as_secs(),
            limit.max_drop_percent
        ),
        action: limit.action,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::evidence::{ProbeFigures, ProbeTarget};
    use proptest::prelude::*;

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
            since: jiff::Timestamp::UNIX_EPOCH,
            open: 20,
            total: figures.clone(),
            window: figures,
            recent: ProbeFigures::default(),
            failures_in_a_row: 0,
            last_failure: None,
            pods: std::collections::BTreeMap::new(),
        }
    }

    fn judged(canary: Option<&ProbeEvidence>, stable: Option<&ProbeEvidence>) -> Judgement {
        let baseline = Some(Baseline {
            p50_ms: 20,
            p95_ms: 40,
        });
        judge(
            &Thresholds::default(),
            Evidence {
                canary,
                stable,
                users_state_lost: 0,
                users: None,
                baseline,
            },
        )
    }

    fn reason(judgement: &Judgement) -> &str {
        match judgement {
            Judgement::Pass(_) => "pass",
            Judgement::Inconclusive(_) => "inconclusive",
            Judgement::Breach { reason, .. } => reason,
            Judgement::ControlFailing(_) => "control",
        }
    }

    #[rstest::rstest]
    #[case(100, 100, "pass")]
    #[case(100, 95, "pass")]
    #[case(100, 94, "inconclusive")]
    #[case(100, 80, "inconclusive")]
    #[case(100, 79, "ReconnectSuccess")]
    #[case(19, 19, "inconclusive")]
    #[case(19, 0, "inconclusive")]
    #[case(0, 0, "inconclusive")]
    fn success_is_judged_by_the_missions_figures(
        #[case] attempts: u64,
        #[case] restored: u64,
        #[case] expected: &str,
    ) {
        assert_eq!(reason(&judged(Some(&seen(attempts, restored)), None)), expected);
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
    }

    #[test]
    fn any_state_loss_is_a_breach_be_it_a_probes_or_a_users() {
        let mut canary = seen(100, 100);
        canary.total.state_lost = 1;
        assert_eq!(reason(&judged(Some(&canary), None)), "StateLoss");
        let users = Evidence {
            canary: None,
            stable: None,
            users_state_lost: 1,
            users: None,
            baseline: None,
        };
        assert_eq!(reason(&judge(&Thresholds::default(), users)), "StateLoss");
    }

    #[test]
    fn when_the_control_group_fails_too_it_is_not_the_version() {
        let bad = seen(100, 10);
        assert_eq!(reason(&judged(Some(&bad), Some(&bad))), "control");
        assert_eq!(
            reason(&judged(Some(&bad), Some(&seen(100, 100)))),
            "ReconnectSuccess"
        );
    }

    #[rstest::rstest]
    #[case(88, 12, Some(97.0), "pass")]
    #[case(86, 14, Some(97.0), "UsersReturn")]
    #[case(20, 29, Some(97.0), "pass")]
    #[case(10, 90, None, "pass")]
    #[case(60, 40, Some(65.0), "pass")]
    fn users_are_judged_against_how_many_come_back_by_themselves(
        #[case] back: i64,
        #[case] missing: i64,
        #[case] natural_percent: Option<f64>,
        #[case] expected: &str,
    ) {
        let users = Returned {
            back,
            missing,
            natural_percent,
            ..Returned::default()
        };
        let canary = seen(100, 100);
        let evidence = Evidence {
            canary: Some(&canary),
            stable: None,
            users_state_lost: 0,
            users: Some(&users),
            baseline: None,
        };
        let verdict = judge(&Thresholds::default(), evidence);
        assert_eq!(reason(&verdict), expected);
        if let Judgement::Breach { action, .. } = verdict {
            assert_eq!(action, BreachAction::Warn, "phones sleep");
        }
    }

    #[rstest::rstest]
    #[case(600, 900, "ReconnectTime")]
    #[case(600, 60, "pass")]
    #[case(200, 250, "pass")]
    fn slow_means_median_and_tail_above_baseline_and_noise(
        #[case] p50: u64,
        #[case] p95: u64,
        #[case] expected: &str,
    ) {
        let mut canary = seen(100, 100);
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

    proptest! {
        #[test]
        fn more_successes_never_make_it_worse(attempts in 1u64..500, restored in 0u64..500) {
            let rank = |j: &Judgement| match j {
                Judgement::Breach { .. } => 0,
                Judgement::ControlFailing(_) => 1,
                Judgement::Inconclusive(_) => 2,
                Judgement::Pass(_) => 3,
            };
            let restored = restored.min(attempts);
            let worse = judged(Some(&seen(attempts, restored)), None);
            let better = judged(Some(&seen(attempts, (restored + 1).min(attempts))), None);
            prop_assert!(rank(&better) >= rank(&worse));
        }
    }
}
