//! What people are told by the share of the window. Nothing is decided by it.

use super::percent;
use crate::api::spec::Thresholds;
use crate::engine::evidence::{ProbeEvidence, ProbeTarget};

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The threshold, as an identifier.
    pub reason: String,
    /// `alert`, `critical` or `warning`.
    pub level: &'static str,
    /// One sentence with its numbers.
    pub message: String,
}

/// The most serious that a target's window gives reason to.
pub fn alerts(thresholds: &Thresholds, evidence: &ProbeEvidence) -> Option<Found> {
    let limits = &thresholds.alerts;
    let window = &evidence.window;
    if window.attempts < u64::from(limits.min_samples) {
        return None;
    }
    let share = window.restored as f64 / window.attempts as f64;
    let below = |bar: u8| share * 100.0 < f64::from(bar);
    let (level, bar) = if below(limits.critical_below_percent) {
        (
            "critical",
            format!("critical below {} %", limits.critical_below_percent),
        )
    } else if below(limits.success_below_percent) {
        ("alert", format!("alert below {} %", limits.success_below_percent))
    } else if window.failed * 100 > window.attempts * u64::from(limits.failures_above_percent) {
        (
            "alert",
            format!("alert above {} % of failures", limits.failures_above_percent),
        )
    } else {
        return None;
    };
    let (reason, revision) = match evidence.target {
        ProbeTarget::Canary => ("ReconnectsFail", "new"),
        ProbeTarget::Stable => ("ReconnectsFailOnStable", "stable"),
    };
    Some(Found {
        reason: reason.to_owned(),
        level,
        message: format!(
            "{} of {} probe reconnects on the {revision} revision restored in the last {} s ({} %), {bar}",
            window.restored,
            window.attempts,
            thresholds.reconnect_success.window.0.as_secs(),
            percent(share)
        ),
    })
}
