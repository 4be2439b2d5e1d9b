//! Back-off: sessions are cut off and refused. They dial by the schedule of their profile, with jitter, no more often than the
//! service bears; a short life restored starts no schedule afresh, a long one does.

use std::time::Duration;

use super::{Ending, Played, Scene};
use crate::engine::evidence::RehearsalFailure;
use crate::probe::schedule;
use crate::probe::stage::{Stage, Way};
use crate::probe::walk::{Step, Walk};
use crate::session::{Pin, RESTORED_LIFE};

/// Refusals that each session meets in a row.
const REFUSALS: u32 = 2;
/// What is more than a schedule's longest wait: a session that dials in its place is not late.
const LONGEST: Duration = Duration::from_secs(10);

impl<S: Stage> Scene<'_, S> {
    pub(super) async fn back_off(&self, walks: &mut Vec<Walk>) -> Played {
        self.opened_with(walks, Way::New, Walk::noting_beats).await?;
        let limit = LONGEST + self.set.timeouts.restored;

        let nobody = self.stage.lead(Way::Nobody).await?;
        self.goals
            .all(walks, |walk| refused(walk, nobody.clone(), limit))
            .await?;
        let back = self.stage.lead(Way::New).await?;
        // Restored, and cut off again before that counts as life.
        self.goals
            .all(walks, |walk| comes_back(walk, back.clone(), limit))
            .await?;
        self.goals
            .all(walks, |walk| cut_again(walk, back.clone(), limit))
            .await?;
        self.goals
            .all(walks, |walk| {
                let pin = back.clone();
                async move {
                    walk.lives(RESTORED_LIFE + Duration::from_millis(100)).await?;
                    cut_again(walk, pin, limit).await
                }
            })
            .await?;
        let timeouts = self.set.timeouts;
        self.goals
            .all(walks, |walk| walk.check_state(timeouts.exchange))
            .await?;
        self.judge_schedule(walks)?;
        self.floor(&self.recorder)?;
        Ok(format!(
            "{} sessions kept to the schedule of their back-off, {} dials in the busiest second",
            walks.len(),
            busiest(walks)
        ))
    }

    fn judge_schedule(&self, walks: &[Walk]) -> Played<()> {
        let failed = |check: &str, message: String| {
            Err(Ending::Failed(RehearsalFailure {
                check: check.to_owned(),
                message,
            }))
        };
        let mut shares: Vec<f64> = Vec::new();
        for walk in walks {
            match schedule::check(walk.beats(), &self.set.config.profiles) {
                Ok(own) => shares.extend(own),
                Err(detail) => return failed("schedule", detail),
            }
        }
        // Whoever was cut off at the same time and waits equally long comes back at the same time.
        shares.sort_by(f64::total_cmp);
        let (least, most) = (shares.first().copied(), shares.last().copied());
        if shares.len() > 4 && most.zip(least).is_some_and(|(most, least)| most - least < 0.01) {
            return failed("jitter", "all waits were equally long".to_owned());
        }
        let (busiest, budget) = (busiest(walks), self.set.connects_per_second.max(2) as usize);
        if busiest > budget {
            return failed(
                "budget",
                format!("{busiest} dials in one second, and the budget is {budget}"),
            );
        }
        Ok(())
    }
}

async fn refused(walk: &mut Walk, nobody: Option<Pin>, limit: Duration) -> Step {
    walk.cut_off(nobody).await;
    walk.refused(REFUSALS, limit).await
}

async fn comes_back(walk: &mut Walk, pin: Option<Pin>, limit: Duration) -> Step {
    walk.session.lead(pin);
    walk.restored(limit).await.map(|_| ())
}

async fn cut_again(walk: &mut Walk, pin: Option<Pin>, limit: Duration) -> Step {
    walk.cut_off(pin).await;
    walk.restored(limit).await.map(|_| ())
}

fn busiest(walks: &[Walk]) -> usize {
    let dials = walks.iter().flat_map(|walk| schedule::reconnects(walk.beats()));
    schedule::busiest_second(dials.collect())
}
