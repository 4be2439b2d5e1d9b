//! Conditions after kstatus: types and reasons in one place; `lastTransitionTime` moves only when the status flips.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The rollout does what its spec says; true from `Soaking` on, and in a pause that a person or a step asked for.
pub const READY: &str = "Ready";
/// Work is under way.
pub const RECONCILING: &str = "Reconciling";
/// Something a person has to mend.
pub const STALLED: &str = "Stalled";
/// The probes reach the stable revision through the gateway.
pub const PROBES_READY: &str = "ProbesReady";
/// The new revision passed its rehearsal.
pub const REHEARSED: &str = "Rehearsed";
/// No session is left on pods that are to go.
pub const DRAINED: &str = "Drained";

/// Sets a condition; keeps its transition time unless the status flips. True when anything but the time changed.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> bool {
    let status = if status { "True" } else { "False" };
    let fresh = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(1_000).collect(),
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    };
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == type_) else {
        conditions.push(fresh);
        return true;
    };
    let time = if old.status == fresh.status {
        old.last_transition_time.clone()
    } else {
        Time(now)
    };
    let fresh = Condition {
        last_transition_time: time,
        ..fresh
    };
    let changed = *old != fresh;
    *old = fresh;
    changed
}

/// Whether a condition is there and true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let mut conditions = Vec::new();
        let first = Timestamp::from_second(10).unwrap();
        let later = Timestamp::from_second(20).unwrap();
        assert!(set(&mut conditions, READY, true, "Healthy", "", 1, first));
        assert!(!set(&mut conditions, READY, true, "Healthy", "", 1, later));
        assert!(set(&mut conditions, READY, true, "Soaking", "", 2, later));
        assert_eq!(conditions[0].last_transition_time.0, first);
        assert!(set(&mut conditions, READY, false, "RolledBack", "", 2, later));
        assert_eq!(conditions[0].last_transition_time.0, later);
    }
}
