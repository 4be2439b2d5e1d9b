//! Whether a session dialled as the profiles of its back-off say. Pure: moments in, a verdict out.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::{Cause, Event, MAX_ATTEMPTS, Profile, Profiles, RESTORED_LIFE};

/// What a busy machine may add to a wait. It is less than what tells two places of a schedule apart.
const LATE: Duration = Duration::from_secs(1);
/// What the reading of clocks may take off a wait.
const EARLY: Duration = Duration::from_millis(20);

/// A moment in the life of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// An attempt began.
    Dialled(Instant, Cause),
    /// It failed.
    Failed(Instant),
    /// The session was restored.
    Restored(Instant),
    /// Its socket was gone.
    Lost(Instant),
}

impl Beat {
    /// The beat that an event is, seen at `now`.
    pub(super) fn of(event: &Event, now: Instant) -> Option<Self> {
        match event {
            Event::Dialing { cause, .. } => Some(Self::Dialled(now, *cause)),
            Event::AttemptFailed(_) => Some(Self::Failed(now)),
            Event::Restored(_) => Some(Self::Restored(now)),
            Event::Disconnected { .. } => Some(Self::Lost(now)),
            _ => None,
        }
    }
}

/// Checks every wait of a session, from its first dial on: between half a delay and all of it, in the order of the profile, at most
/// [`MAX_ATTEMPTS`], and from the beginning again only after [`RESTORED_LIFE`]. The waits, as shares of their delays.
pub(super) fn check(beats: &[Beat], profiles: &Profiles) -> Result<Vec<f64>, String> {
    let (mut attempts, mut waits_since, mut restored) = (0_u32, None::<Instant>, None::<Instant>);
    let mut shares = Vec::new();
    for beat in beats {
        match *beat {
            Beat::Lost(at) => {
                let lived = restored.take().is_some_and(|since| at - since >= RESTORED_LIFE);
                if lived {
                    attempts = 0;
                }
                waits_since = Some(at);
            }
            Beat::Failed(at) => waits_since = Some(at),
            Beat::Restored(at) => restored = Some(at),
            Beat::Dialled(at, cause) => {
                let delay = profile(profiles, cause).delay(attempts);
                attempts += 1;
                if attempts > MAX_ATTEMPTS {
                    return Err(format!("attempt {attempts}, and {MAX_ATTEMPTS} are the most"));
                }
                let Some(since) = waits_since.take() else { continue };
                let waited = at - since;
                if waited + EARLY < delay / 2 || waited > delay + LATE {
                    return Err(format!(
                        "attempt {attempts} came {} ms after what preceded it, and {} to {} ms are its place",
                        waited.as_millis(),
                        (delay / 2).as_millis(),
                        delay.as_millis()
                    ));
                }
                if !delay.is_zero() {
                    shares.push(waited.as_secs_f64() / delay.as_secs_f64());
                }
            }
        }
    }
    Ok(shares)
}

/// The most dials that any second held, counted from each of them on.
pub(super) fn busiest_second(mut dials: Vec<Instant>) -> usize {
    dials.sort_unstable();
    let within = |from: usize| {
        let end = dials[from] + Duration::from_secs(1);
        dials[from..].iter().take_while(|at| **at < end).count()
    };
    (0..dials.len()).map(within).max().unwrap_or(0)
}

/// Reconnects of sessions, without the first connect of each.
pub(super) fn reconnects(beats: &[Beat]) -> impl Iterator<Item = Instant> {
    beats.iter().filter_map(|beat| match beat {
        Beat::Dialled(at, cause) if *cause != Cause::First => Some(*at),
        _ => None,
    })
}

fn profile(profiles: &Profiles, cause: Cause) -> &Profile {
    match cause {
        Cause::First | Cause::Announced => &profiles.graceful,
        Cause::Unannounced => &profiles.emergency,
        Cause::Requested | Cause::Handover => &profiles.rolling,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::session::Backoff;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A session that was restored, lived for so long, and was cut; then it dials after these waits, and fails each time.
    fn beats(lived: u64, waits: &[u64]) -> Vec<Beat> {
        let begun = Instant::now();
        let mut at = begun + ms(lived);
        let mut beats = vec![
            Beat::Dialled(begun, Cause::First),
            Beat::Restored(begun),
            Beat::Lost(at),
        ];
        for wait in waits {
            at += ms(*wait);
            beats.extend([Beat::Dialled(at, Cause::Unannounced), Beat::Failed(at)]);
        }
        beats
    }

    proptest! {
        /// Whatever the real back-off does passes.
        #[test]
        fn the_back_off_keeps_to_its_own_schedule(seed: u64, lived in 0_u64..9_000) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (mut backoff, mut at) = (Backoff::default(), Instant::now());
            backoff.next(&Profile::GRACEFUL, &mut rng);
            let mut beats = vec![Beat::Dialled(at, Cause::First), Beat::Restored(at)];
            backoff.restored(at);
            at += ms(lived);
            backoff.lost(at);
            beats.push(Beat::Lost(at));
            while let Some(wait) = backoff.next(&Profile::EMERGENCY, &mut rng) {
                at += wait;
                beats.extend([Beat::Dialled(at, Cause::Unannounced), Beat::Failed(at)]);
            }
            let shares = check(&beats, &Profiles::default()).unwrap();
            prop_assert_eq!(shares.len() as u32, if lived >= 5_000 { MAX_ATTEMPTS } else { MAX_ATTEMPTS - 1 });
            prop_assert!(shares.iter().all(|share| (0.5..=1.0).contains(share)));
        }
    }

    #[test]
    fn a_wait_out_of_its_place_is_found() {
        let profiles = Profiles::default();
        assert!(check(&beats(6_000, &[300, 700, 1_500, 3_000]), &profiles).is_ok());
        for (lived, waits) in [
            // at once
            (6_000, &[0][..]),
            // the second one at the place of the first
            (6_000, &[300, 300]),
            // from the beginning again after a short life
            (1_000, &[300]),
            // not from the beginning after a long one
            (6_000, &[2_000]),
        ] {
            check(&beats(lived, waits), &profiles).unwrap_err();
        }
        let endless = [3_000; 21];
        let error = check(
            &beats(6_000, &[&[300, 700, 1_500], &endless[..]].concat()),
            &profiles,
        );
        assert_eq!(error.unwrap_err(), "attempt 21, and 20 are the most");
    }

    #[test]
    fn the_busiest_second_may_begin_anywhere() {
        let at = Instant::now();
        let dials = [0, 900, 1_000, 1_100, 1_899, 3_000].map(|t| at + ms(t)).to_vec();
        assert_eq!(busiest_second(dials), 4);
        assert_eq!(busiest_second(Vec::new()), 0);
    }
}
