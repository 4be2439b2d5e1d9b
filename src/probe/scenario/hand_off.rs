//! Rolling hand-off: sessions let go of the old version and resume on the new one.

use super::{Played, Scene};
use crate::probe::stage::{Stage, Way};
use crate::probe::walk::{Step, Walk, miss};
use crate::session::Pin;

/// Forced reconnects of each session on the old version, just before: what reconnect times are compared with.
const BASELINE: u32 = 2;

impl<S: Stage> Scene<'_, S> {
    pub(super) async fn hand_off(&self, walks: &mut Vec<Walk>) -> Played {
        let opened = self.opened(walks, Way::Old).await?;
        let old = opened
            .into_iter()
            .next()
            .map(|back| back.revision)
            .unwrap_or_default();
        for walk in &mut *walks {
            walk.recorder = self.board.stable().clone();
        }
        self.goals
            .all(walks, |walk| self.to_and_fro(walk))
            .await
            .map_err(super::before)?;
        for walk in &mut *walks {
            walk.recorder = self.recorder.clone();
        }
        let pin = self.stage.lead(Way::New).await?;
        self.goals
            .all(walks, |walk| self.hand_over(walk, pin.clone(), &old))
            .await?;
        self.floor(&self.recorder)?;
        Ok(format!("{} sessions were handed over", walks.len()))
    }

    async fn to_and_fro(&self, walk: &mut Walk) -> Step {
        for _ in 0..BASELINE {
            walk.hand_over(None, self.set.timeouts.restored).await?;
        }
        Ok(())
    }

    async fn hand_over(&self, walk: &mut Walk, pin: Option<Pin>, old: &str) -> Step {
        let timeouts = self.set.timeouts;
        let back = walk.hand_over(pin, timeouts.restored).await?;
        if self.set.two_revisions && back.revision == old && !self.set.unnamed(old) {
            let detail = format!("the canary's pin led to revision {old:?}, stable's own");
            return Err(miss("revision", detail));
        }
        self.set.right_revision(&back.revision)?;
        walk.exchange(timeouts.exchange).await?;
        walk.check_state(timeouts.exchange).await
    }
}
