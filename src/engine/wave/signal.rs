//! A pod that is let go of by its own SIGTERM handler (`via: Signal`): deletion is the order.
//!
//! Such a wave has one pod. It leaves rotation, is dismissed when it is known what is on it (unknown is not zero: else at its
//! deadline), and the wave is over when it is gone and those who were on it have come back.

use std::time::Duration;

use jiff::Timestamp;

use super::{Progress, Terms, tick};
use crate::api::status::{Settling, Wave, WavePod};
use crate::engine::observed::{PodView, RevisionView};
use crate::engine::plan::{Action, Role};

/// After so many reconnect windows the next pod goes, whether or not users come and go all the time.
const MOST_WINDOWS: u32 = 12;
/// Sessions that come or go in a quiet service: this many, or one in a hundred.
const QUIET: i64 = 2;

/// The pod to go next: the emptiest that is known, else one of which nothing is known.
pub fn next_pod(pods: Vec<WavePod>) -> Vec<WavePod> {
    let emptiest = pods
        .into_iter()
        .min_by(|a, b| key(a).cmp(&key(b)))
        .map(|pod| WavePod { count: None, ..pod });
    emptiest.into_iter().collect()
}

fn key(pod: &WavePod) -> (bool, Option<i64>, &str) {
    (pod.sessions.is_none(), pod.sessions, &pod.name)
}

/// Moves a wave of one pod on. `others` is the sum of sessions on all other pods that tell them; `None` where nobody tells.
pub fn advance(
    wave: &mut Wave,
    revision: &RevisionView,
    terms: &Terms,
    others: Option<i64>,
    now: Timestamp,
) -> Progress {
    tick(wave, now);
    let mut progress = Progress::default();
    let Some(entry) = wave.pods.first_mut() else {
        progress.done = true;
        return progress;
    };
    let Some(pod) = revision.pods.iter().find(|p| p.uid == entry.uid) else {
        if entry.done_at.is_none() {
            entry.done_at = Some(now);
            let left = entry.sessions.unwrap_or_default() - entry.closed_clean;
            entry.closed_clean += left.max(0);
            progress.closed_clean = left.max(0);
        }
        progress.done = settled(wave, terms, others, now);
        return progress;
    };
    progress.left = pod.sessions.as_ref().map_or(0, |s| s.open);
    if pod.terminating {
        return progress;
    }
    if wave.leave_rotation && pod.serving {
        progress.actions.push(Action::LeaveRotation {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        });
        return progress;
    }
    if !wave.leave_rotation && pod.role.as_deref() != Some("draining") {
        progress.actions.push(Action::SetRole {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            role: Role::Draining,
        });
    }
    let left_at = *entry.left_at.get_or_insert(now);
    if since(now, left_at) < terms.settle {
        return progress;
    }
    wave.ordered_at.get_or_insert(now);
    entry.ordered_ms.get_or_insert(wave.elapsed_ms);
    let overdue = terms.overdue(entry, wave.elapsed_ms);
    match &pod.sessions {
        Some(sessions) => entry.sessions = Some(sessions.open as i64),
        None if !overdue => return progress,
        None => progress.overdue.push(pod.name.clone()),
    }
    // A ReplicaSet deletes unready pods before cheap ones: none may be unready that might hold a session.
    let stays = |p: &&PodView| p.uid != pod.uid;
    let empty = |p: &PodView| p.sessions.as_ref().is_some_and(|s| s.open == 0);
    let safe = revision.live().filter(stays).all(|p| p.ready || empty(p));
    let alone = revision.pods.iter().all(|p| !p.terminating);
    if safe && alone && revision.live().count() as u32 == revision.replicas {
        progress.actions.push(Action::Dismiss {
            revision: wave.revision.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            from: revision.replicas,
        });
    }
    progress
}

/// Whether those who were on the pod have come back: what is known of the others has stood still for a reconnect window.
fn settled(wave: &mut Wave, terms: &Terms, others: Option<i64>, now: Timestamp) -> bool {
    let Some(entry) = wave.pods.first() else {
        return true;
    };
    let window = terms.reconnect_window;
    let gone_for = entry.done_at.map_or(Duration::ZERO, |at| since(now, at));
    if entry.sessions == Some(0) || gone_for >= window * MOST_WINDOWS {
        return true;
    }
    let Some(sum) = others else {
        return gone_for >= window;
    };
    let moved = |before: &Settling| (before.sessions - sum).abs() > QUIET.max(sum / 100);
    let still = wave.settling.take().filter(|before| !moved(before));
    let still = still.unwrap_or(Settling {
        sessions: sum,
        since: now,
    });
    let done = since(now, still.since) >= window;
    wave.settling = Some(still);
    done
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}
