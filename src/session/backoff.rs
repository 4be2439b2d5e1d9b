//! Reconnect profiles and the back-off that follows them.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

/// Attempts after which a session gives up.
pub const MAX_ATTEMPTS: u32 = 20;

/// A session that lived restored for this long starts its next back-off afresh. Less would let a service that accepts and
/// dies be dialled at the shortest delay for ever.
pub const RESTORED_LIFE: Duration = Duration::from_secs(5);

/// The delays of one profile; the last one repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Delays before jitter.
    pub delays: [Duration; 4],
    /// Whether the first attempt waits for the first delay too. An announced or wanted reconnect has its own place in
    /// time already, a cut one must not come back together with all the others that were cut.
    pub first_waits: bool,
}

/// The profile for each kind of reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profiles {
    /// After an announced close.
    pub graceful: Profile,
    /// After a cut, a refused attempt, or any close that nothing announced.
    pub emergency: Profile,
    /// When the client itself lets go, or makes before it breaks.
    pub rolling: Profile,
}

/// Counts attempts and says how long to wait before the next.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
    restored_at: Option<Instant>,
}

// === impl Profile ===

impl Profile {
    const fn from_ms(delays: [u64; 4], first_waits: bool) -> Self {
        let [a, b, c, d] = delays;
        Self {
            delays: [
                Duration::from_millis(a),
                Duration::from_millis(b),
                Duration::from_millis(c),
                Duration::from_millis(d),
            ],
            first_waits,
        }
    }

    /// 1, 2, 4, 8 s; the first attempt at once.
    pub const GRACEFUL: Self = Self::from_ms([1_000, 2_000, 4_000, 8_000], false);
    /// 0.5, 1, 2, 4 s.
    pub const EMERGENCY: Self = Self::from_ms([500, 1_000, 2_000, 4_000], true);
    /// 0.1, 0.5, 1, 2 s; the first attempt at once.
    pub const ROLLING: Self = Self::from_ms([100, 500, 1_000, 2_000], false);

    /// The same with other delays, one to four; without any it stays as it is.
    #[must_use]
    pub fn with_delays(mut self, delays: &[Duration]) -> Self {
        if let Some(last) = delays.len().checked_sub(1) {
            self.delays = std::array::from_fn(|place| delays[place.min(last)]);
        }
        self
    }

    /// The wait before attempt `attempt` (from 0), before jitter.
    pub fn delay(&self, attempt: u32) -> Duration {
        let place = if self.first_waits {
            attempt
        } else {
            match attempt.checked_sub(1) {
                Some(place) => place,
                None => return Duration::ZERO,
            }
        };
        self.delays[(place as usize).min(self.delays.len() - 1)]
    }
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            graceful: Profile::GRACEFUL,
            emergency: Profile::EMERGENCY,
            rolling: Profile::ROLLING,
        }
    }
}

// === impl Backoff ===

impl Backoff {
    /// The jittered wait before the next attempt, between half the profile's delay and all of it; `None` after
    /// [`MAX_ATTEMPTS`].
    pub fn next(&mut self, profile: &Profile, rng: &mut impl rand::Rng) -> Option<Duration> {
        if self.attempts >= MAX_ATTEMPTS {
            return None;
        }
        let delay = profile.delay(self.attempts);
        self.attempts += 1;
        Some(delay.mul_f64(rng.random_range(0.5..=1.0)))
    }

    /// Attempts since the last time the session was restored for [`RESTORED_LIFE`].
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The session is restored as of `now`.
    pub fn restored(&mut self, now: Instant) {
        self.restored_at = Some(now);
    }

    /// The session's socket is gone as of `now`.
    pub fn lost(&mut self, now: Instant) {
        let lived = self
            .restored_at
            .take()
            .is_some_and(|at| now.duration_since(at) >= RESTORED_LIFE);
        if lived {
            self.attempts = 0;
        }
    }

    /// Starts afresh, since somebody asked for the reconnect.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    proptest! {
        #[test]
        fn every_wait_is_between_half_the_delay_and_the_delay(seed: u64, which in 0..3_usize) {
            let profile = [Profile::GRACEFUL, Profile::EMERGENCY, Profile::ROLLING][which];
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut backoff = Backoff::default();
            for attempt in 0..MAX_ATTEMPTS {
                let wait = backoff.next(&profile, &mut rng).unwrap();
                let full = profile.delay(attempt);
                prop_assert!(wait <= full && wait >= full.mul_f64(0.499));
                prop_assert!(full <= profile.delays[3]);
            }
            prop_assert_eq!(backoff.next(&profile, &mut rng), None);
        }

        #[test]
        fn only_five_seconds_of_restored_life_start_afresh(life_ms in 0_u64..20_000) {
            let mut rng = SmallRng::seed_from_u64(1);
            let now = Instant::now();
            let mut backoff = Backoff::default();
            backoff.next(&Profile::EMERGENCY, &mut rng);
            backoff.next(&Profile::EMERGENCY, &mut rng);
            backoff.restored(now);
            backoff.lost(now + Duration::from_millis(life_ms));
            prop_assert_eq!(backoff.attempts(), if life_ms >= 5_000 { 0 } else { 2 });
        }
    }

    #[test]
    fn delays_follow_the_profiles() {
        let waits =
            |profile: Profile| -> Vec<u64> { (0..6).map(|n| profile.delay(n).as_millis() as u64).collect() };
        assert_eq!(waits(Profile::GRACEFUL), [0, 1_000, 2_000, 4_000, 8_000, 8_000]);
        assert_eq!(
            waits(Profile::EMERGENCY),
            [500, 1_000, 2_000, 4_000, 4_000, 4_000]
        );
        assert_eq!(waits(Profile::ROLLING), [0, 100, 500, 1_000, 2_000, 2_000]);
    }
}
