//! What the pods tell of users' sessions.

use super::{Evidence, Said, breach, percent};
use crate::api::spec::Thresholds;

/// Fewer of the moved users came back than do by themselves on the old revision. Dormant ones are in neither count.
pub(super) fn returned(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limit = &thresholds.users_return;
    let users = evidence.users?;
    let natural = users.natural_percent?;
    let told = users.back + users.missing;
    if told < i64::from(limit.min_samples) {
        return None;
    }
    let share = users.back as f64 * 100.0 / told as f64;
    (share < natural - f64::from(limit.max_drop_percent)).then(|| {
        let message = format!(
            "{} of {told} moved sessions of users came back within {} s ({share:.1} %), {natural:.1} % do on the old revision, at \
             most {} points less may",
            users.back,
            limit.within.0.as_secs(),
            limit.max_drop_percent
        );
        breach("UsersReturn", message, limit.action)
    })
}

/// Resumes that failed, of all that the new revision's pods have counted.
pub(super) fn resumes(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limit = &thresholds.resume_failures;
    let (resumed, failed) = evidence.resumes;
    let all = resumed + failed;
    let over = all >= u64::from(limit.min_samples) && failed * 100 > all * u64::from(limit.max_percent);
    over.then(|| {
        let message = format!(
            "{failed} of {all} resumes on the new revision failed by its pods' count ({} %), at most {} % may",
            percent(failed as f64 / all as f64),
            limit.max_percent
        );
        breach("ResumeFailures", message, limit.action)
    })
}

/// Sessions of both revisions after moves, against those before: who did not come back at all.
pub(super) fn conserved(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limit = &thresholds.session_count;
    let (before, after) = evidence.conserved?;
    let lost = before - after;
    let over =
        before >= i64::from(limit.min_samples) && lost * 100 > before * i64::from(limit.max_loss_percent);
    over.then(|| {
        let message = format!(
            "{after} sessions of users are on both revisions {} s after a wave, {before} were before it ({} % are missing), at most {} % may",
            limit.within.0.as_secs(),
            percent(lost as f64 / before as f64),
            limit.max_loss_percent
        );
        breach("SessionCount", message, limit.action)
    })
}
