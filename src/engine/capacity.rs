//! How many pods there may be and must be. Arithmetic only, so that it can be tested by its bounds.

use crate::api::ValidatedRollout;

/// The limits that a rollout's `capacity` means for its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pods that serve outside a release.
    pub replicas: u32,
    /// Ready pods in rotation that there must always be, over both revisions.
    pub required: u32,
    /// Pods above `replicas` in a release; at least one.
    pub surge: u32,
    /// Ready pods that the old revision keeps until the last verdict.
    pub floor: u32,
}

impl Limits {
    /// Resolves shares against the replicas. The floor defaults to max(2, 25 %), and is never above the replicas.
    pub fn of(rollout: &ValidatedRollout) -> Self {
        let capacity = &rollout.spec.capacity;
        let replicas = rollout.replicas;
        let floor = capacity
            .rollback_floor
            .map_or_else(|| replicas.div_ceil(4).max(2), |floor| floor.of(replicas));
        Self {
            replicas,
            required: (replicas * u32::from(capacity.min_ready_percent))
                .div_ceil(100)
                .max(1),
            surge: capacity.max_surge.of(replicas).max(1),
            floor: floor.min(replicas),
        }
    }

    /// Pods that the new revision needs to carry `weight` percent; at least one.
    pub fn canary_for(&self, weight: u8) -> u32 {
        (self.replicas * u32::from(weight))
            .div_ceil(100)
            .clamp(1, self.replicas)
    }

    /// Pods that the new revision may have at `weight`, beside `stable` pods of the old one.
    ///
    /// The last step has to keep the rollback floor beside a whole new revision, so it may surge by the floor.
    pub fn canary_target(&self, weight: u8, stable: u32, canary_now: u32) -> u32 {
        let surge = if weight == 100 {
            self.surge.max(self.floor)
        } else {
            self.surge
        };
        let room = (self.replicas + surge).saturating_sub(stable);
        self.canary_for(weight).min(room.max(1)).max(canary_now)
    }

    /// Pods that the old revision keeps beside `canary_ready` ready pods of the new one, before the last verdict.
    pub fn stable_target(&self, canary_ready: u32) -> u32 {
        self.required
            .max(self.replicas)
            .saturating_sub(canary_ready)
            .max(self.floor)
    }

    /// The largest weight, in percent, that `ready` pods in rotation can carry.
    pub fn carries(&self, ready: u32) -> u8 {
        u8::try_from((ready * 100 / self.required).min(100)).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(replicas: u32, surge: u32, floor: u32) -> Limits {
        Limits {
            replicas,
            required: replicas,
            surge,
            floor: floor.min(replicas),
        }
    }

    #[test]
    fn ten_pods_with_the_defaults() {
        let limits = limits(10, 3, 3);
        assert_eq!(limits.canary_for(10), 1);
        assert_eq!(limits.canary_for(11), 2);
        assert_eq!(limits.canary_target(10, 10, 0), 1);
        assert_eq!(limits.canary_target(50, 9, 1), 4, "three above ten in all");
        assert_eq!(limits.stable_target(1), 9);
        assert_eq!(limits.stable_target(9), 3, "the floor");
        assert_eq!(limits.carries(8), 80);
    }

    proptest! {
        #[test]
        fn the_new_revision_always_reaches_full_size(replicas in 1u32..200, surge in 1u32..50, floor in 0u32..60) {
            let limits = limits(replicas, surge, floor);
            // The loop of the last step: grow, retire, grow. It has to end with a whole new revision.
            let (mut stable, mut canary) = (replicas, 0);
            for _ in 0..2 * replicas + 2 {
                canary = limits.canary_target(100, stable, canary);
                prop_assert!(stable + canary <= replicas + surge.max(limits.floor));
                stable = stable.min(limits.stable_target(canary));
                prop_assert!(stable + canary >= limits.required);
            }
            prop_assert_eq!(canary, replicas);
            prop_assert_eq!(stable, limits.floor);
            prop_assert_eq!(limits.carries(canary), 100);
        }

        #[test]
        fn a_weight_never_exceeds_what_the_pods_carry(ready in 0u32..300, replicas in 1u32..200) {
            let limits = limits(replicas, 1, 2);
            let weight = u32::from(limits.carries(ready));
            prop_assert!(weight <= 100);
            prop_assert!(weight * limits.required <= ready * 100 || weight == 100 && ready >= limits.required);
        }
    }
}
