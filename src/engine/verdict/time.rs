//! Reconnect times against the baseline.

use super::{Evidence, Said, breach};
use crate::api::spec::Thresholds;

/// Median and 95th percentile both above the baseline: one alone is an outlier. The baseline is the slower of what was
/// measured before and what the control group measures now, so that a busy machine is not blamed on the version.
pub(super) fn slower_than_before(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limit = &thresholds.reconnect_time;
    let canary = evidence.canary.filter(|_| !evidence.easing)?;
    let enough = u64::from(limit.min_samples);
    let figures = [&canary.window, &canary.total]
        .into_iter()
        .find(|f| f.restored >= enough)?;
    let now = (figures.restored_p50_ms?, figures.restored_p95_ms?);
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
    (slower(now.0, base.0) && slower(now.1, base.1)).then(|| {
        let message = format!(
            "{} probe reconnects took {} ms (median) and {} ms (95 %), the baseline is {} ms and {} ms, at most {} % more may be",
            figures.restored, now.0, now.1, base.0, base.1, limit.above_baseline_percent
        );
        breach("ReconnectTime", message, limit.action)
    })
}
