//! Graceful shutdown: told in advance, closed in turn, back with everything.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Ending, Played, Scene, during};
use crate::engine::evidence::RehearsalFailure;
use crate::probe::stage::{Stage, Way};
use crate::probe::walk::Walk;

/// How often the pods' counts are looked at.
const LOOK: Duration = Duration::from_millis(100);

impl<S: Stage> Scene<'_, S> {
    pub(super) async fn graceful_shutdown(&self, walks: &mut Vec<Walk>) -> Played {
        let farewell = self.stage.farewell()?;
        self.opened(walks, Way::New).await?;
        self.all_counted(walks).await?;
        let timeouts = self.set.timeouts;
        let deadline = Instant::now() + timeouts.drain;
        let gone = self
            .goals
            .all(walks, |walk| walk.let_go(deadline, farewell, timeouts.restored));
        during(self.stage.drain(), gone).await?;
        self.floor(&self.recorder)?;
        Ok(format!("{} sessions were let go of and came back", walks.len()))
    }

    /// Every pod counts at least the sessions that are known to be on it: a drain ends, and pods are deleted, by these counts.
    async fn all_counted(&self, walks: &mut [Walk]) -> Played<()> {
        let mut here: BTreeMap<String, u64> = BTreeMap::new();
        for walk in &*walks {
            *here.entry(walk.pod.clone()).or_default() += 1;
        }
        let counting = async {
            let deadline = Instant::now() + self.set.timeouts.exchange;
            loop {
                let counted = self.stage.counted().await;
                let wrong = here.iter().find_map(|(pod, probes)| {
                    let open = counted.get(pod).filter(|open| *open < probes)?;
                    Some((pod, *probes, *open))
                });
                let Some((pod, probes, open)) = wrong else {
                    return Ok(());
                };
                if Instant::now() > deadline {
                    return Err(RehearsalFailure {
                        check: "openCount".to_owned(),
                        message: format!(
                            "pod {pod:?} reports {open} open sessions, and {probes} probes are on it"
                        ),
                    });
                }
                sleep(LOOK).await;
            }
        };
        // Sessions live on meanwhile: what they hear is answered.
        let enough = tokio_util::sync::CancellationToken::new();
        let watch = self.goals.all(walks, |walk| walk.undisturbed(&enough));
        let (counted, watched) = tokio::join!(
            async {
                let counted = counting.await;
                enough.cancel();
                counted
            },
            watch
        );
        counted.map_err(Ending::Failed)?;
        watched?;
        Ok(())
    }
}
