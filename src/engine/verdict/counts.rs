//! What acts on the event: a count above its ceiling needs no sample size.

use super::{Evidence, Said, breach};
use crate::api::spec::Thresholds;

/// Sessions without their state. The probes have read twice before they say so.
pub(super) fn state_loss(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limit = &thresholds.state_loss;
    let probes = evidence.canary.map_or(0, |e| e.total.state_lost);
    let lost = probes + evidence.users_state_lost;
    (lost > u64::from(limit.max)).then(|| {
        let message = format!(
            "{lost} sessions came back without their state ({probes} of probes, {} of users), at most {} may",
            evidence.users_state_lost, limit.max
        );
        breach("StateLoss", message, limit.action)
    })
}

pub(super) fn failures_in_a_row(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limit = &thresholds.failures_in_a_row;
    let canary = evidence.canary?;
    if canary.failures_in_a_row <= limit.max || evidence.easing {
        return None;
    }
    let last = canary.last_failure.as_deref().unwrap_or("no detail");
    let message = format!(
        "{} probe reconnects failed in a row, at most {} may; the last: {last}",
        canary.failures_in_a_row, limit.max
    );
    // Both meet the same trouble within a sample or two: half as many are enough to say that they are alike.
    let alike = limit.max / 2 + 1;
    if evidence
        .stable
        .is_some_and(|stable| stable.failures_in_a_row >= alike)
    {
        return Some(Said::Control(format!(
            "{message}; the probes on the stable revision fail as well"
        )));
    }
    Some(breach("FailuresInARow", message, limit.action))
}

pub(super) fn unannounced(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limit = &thresholds.unannounced_disconnects;
    let cut = evidence.canary?.total.unannounced;
    (cut > u64::from(limit.max)).then(|| {
        let message = format!(
            "{cut} probe sessions on the new revision were cut without an announcement, at most {} may",
            limit.max
        );
        breach("UnannouncedDisconnects", message, limit.action)
    })
}
