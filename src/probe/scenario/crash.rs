//! Unexpected crash: a pod that carries none but probes dies, and its sessions come back elsewhere, with everything. The sessions of
//! other pods notice nothing.

use std::collections::BTreeMap;
use std::future::ready;

use futures_util::future::{Either, join_all};
use tokio_util::sync::CancellationToken;

use super::{Ending, Played, Scene};
use crate::engine::evidence::{RehearsalFailure, RehearsalPods};
use crate::probe::stage::{Stage, Victim, Way};
use crate::probe::walk::{Miss, Step, Walk, miss};
use crate::session::End;

impl<S: Stage> Scene<'_, S> {
    pub(super) async fn crash(&self, walks: &mut Vec<Walk>) -> Played {
        self.opened(walks, Way::New).await?;
        let mut pods: BTreeMap<String, u32> = BTreeMap::new();
        for walk in &*walks {
            *pods.entry(walk.pod.clone()).or_default() += 1;
        }
        let known = CancellationToken::new();
        let kill = async {
            let victim = self.stage.crash(RehearsalPods { pods }).await;
            known.cancel();
            victim
        };
        let watch = join_all(walks.iter_mut().map(|walk| walk.watched(&known)));
        let (victim, ends) = tokio::join!(kill, watch);
        let victim = victim?;
        let ends = self.goals.judge(ends)?;

        let over = CancellationToken::new();
        let was_on = |walk: &Walk| match &victim {
            Victim::Pod(pod) => walk.pod == *pod,
            Victim::All => true,
        };
        let hit = walks.iter().filter(|walk| was_on(walk)).count();
        if hit == 0 {
            return Err(Ending::Failed(nobody_was_there(&victim)));
        }
        let (mut struck, mut spared) = (Vec::new(), Vec::new());
        for (walk, end) in walks.iter_mut().zip(ends) {
            if was_on(walk) {
                struck.push(self.comes_back(walk, end));
            } else {
                spared.push(match end {
                    Some(end) => Either::Left(ready(Err(cut_elsewhere(end)))),
                    None => Either::Right(walk.undisturbed(&over)),
                });
            }
        }
        let back = async {
            let back = join_all(struck).await;
            over.cancel();
            back
        };
        let (back, undisturbed) = tokio::join!(back, join_all(spared));
        self.goals.judge(back)?;
        let others = self.goals.judge(undisturbed)?.len();
        Ok(format!(
            "{hit} sessions came back from the pod that died, {others} on other pods noticed nothing"
        ))
    }

    async fn comes_back(&self, walk: &mut Walk, end: Option<End>) -> Step {
        let timeouts = self.set.timeouts;
        if end.is_none() {
            walk.lost(timeouts.crash).await?;
        }
        walk.restored(timeouts.crash).await?;
        walk.exchange(timeouts.exchange).await?;
        walk.check_state(timeouts.exchange).await
    }
}

fn cut_elsewhere(end: End) -> Miss {
    let detail = format!(
        "a session on another pod than the one that died ended with {}",
        end.code()
    );
    miss("unannounced", detail)
}

fn nobody_was_there(victim: &Victim) -> RehearsalFailure {
    let pod = match victim {
        Victim::Pod(pod) => pod.as_str(),
        Victim::All => "the only one",
    };
    RehearsalFailure {
        check: "crashed".to_owned(),
        message: format!("pod {pod:?} died, and no probe was on it"),
    }
}
