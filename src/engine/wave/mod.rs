//! Waves: which pods let go of their sessions together, and what each of them is told next.
//!
//! Whole pods, emptiest first, so that capacity moves with the sessions. A pod leaves rotation first, then it gets its order,
//! then it is empty; what becomes of it is decided elsewhere.

mod orders;
pub mod signal;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

use super::budget;
use super::observed::{DrainView, PodView, RevisionView};
use super::plan::{Action, Hint, Role};
use crate::api::spec::DrainMode;
use crate::api::status::{Wave, WavePod};

/// Lease of an order: who has not heard from the operator for so long, stops moving sessions.
pub const LEASE: Duration = Duration::from_secs(30);
/// Longest time between a pod's notice to a session and its close.
pub const LONGEST_LEAD: Duration = Duration::from_secs(2);
/// Most pods in a wave: status stays small.
pub const MAX_PODS: usize = 32;

/// How a wave's orders read.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// First connects per second over all pods, never exceeded.
    pub budget: f64,
    /// What reconnects are seen to bear now, at most the budget.
    pub pace: f64,
    /// Whether the pace follows what is seen of reconnects.
    pub adaptive: bool,
    /// Whether nobody is asked in this round, though pods may leave rotation.
    pub hold: bool,
    /// How politely sessions are asked.
    pub mode: DrainMode,
    /// Most pods under orders at one time.
    pub max_pods: Option<u32>,
    /// Deadline per pod from its first order.
    pub deadline: Duration,
    /// Close at the deadline, or wait.
    pub close_at_deadline: bool,
    /// Most time between notice and close.
    pub reconnect_window: Duration,
    /// What leads the client on.
    pub hint: Option<Hint>,
    /// Close code.
    pub close_code: u16,
    /// How long the data plane needs to follow a change.
    pub settle: Duration,
}

/// What a wave needs next, and how far it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// What to do.
    pub actions: Vec<Action>,
    /// Sessions per second that are under orders now.
    pub rate: f64,
    /// Sessions left on its pods, as far as known.
    pub left: u64,
    /// Sessions told since the last round, by the pods' own count.
    pub notified: i64,
    /// Sessions gone in their turn since the last round.
    pub closed_clean: i64,
    /// Sessions closed at a deadline since the last round.
    pub closed_forced: i64,
    /// Whether every pod has done its part.
    pub done: bool,
    /// Pods that are past their deadline with sessions left.
    pub overdue: Vec<String>,
}

/// Chooses pods, emptiest first, for `need` sessions: whole pods, at most `max` of them.
///
/// A pod whose sessions are unknown is never chosen here. Where the emptiest pod holds far more than is needed, only
/// `need` of its sessions are asked, and it stays.
pub fn choose<'a>(pods: impl Iterator<Item = &'a PodView>, need: u64, max: usize) -> Vec<WavePod> {
    let mut candidates: Vec<(&PodView, u64)> = pods
        .filter(|p| p.ready && !p.terminating)
        .filter_map(|p| p.sessions.as_ref().map(|s| (p, s.open)))
        .collect();
    candidates.sort_by(|a, b| (a.1, &a.0.name).cmp(&(b.1, &b.0.name)));
    let mut chosen = Vec::new();
    let mut left = need;
    for (pod, open) in candidates.into_iter().take(max.min(MAX_PODS)) {
        if left == 0 {
            break;
        }
        // A fifth too many is better than a pod that stays half full.
        let all = open <= left.saturating_add((need / 5).max(1));
        if !all && !chosen.is_empty() {
            break;
        }
        chosen.push(WavePod {
            count: (!all).then_some(left as i64),
            ..whole(pod)
        });
        left = left.saturating_sub(open);
    }
    chosen
}

/// At most `max` of these pods, where it is known what is on them.
pub fn known<'a>(pods: impl Iterator<Item = &'a PodView>, max: usize) -> Vec<WavePod> {
    pods.filter(|pod| pod.sessions.is_some())
        .take(max.min(MAX_PODS))
        .map(whole)
        .collect()
}

/// A pod whose sessions all leave.
pub fn whole(pod: &PodView) -> WavePod {
    WavePod {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        sessions: pod.sessions.as_ref().map(|s| s.open as i64),
        ..blank()
    }
}

/// All live pods of a revision, empty ones included; at most [`MAX_PODS`].
pub fn all(revision: &RevisionView) -> Vec<WavePod> {
    revision.live().take(MAX_PODS).map(whole).collect()
}

/// All live pods of a revision that have sessions, or of which that is not known; at most [`MAX_PODS`].
pub fn everyone(revision: &RevisionView) -> Vec<WavePod> {
    revision
        .live()
        .filter(|pod| pod.sessions.as_ref().is_none_or(|s| s.open > 0))
        .take(MAX_PODS)
        .map(whole)
        .collect()
}

fn blank() -> WavePod {
    WavePod {
        name: String::new(),
        uid: String::new(),
        sessions: None,
        count: None,
        left_at: None,
        ordered_ms: None,
        leased_ms: None,
        leased_rate: None,
        done_at: None,
        notified: 0,
        closed_clean: 0,
        closed_forced: 0,
    }
}

/// The id of a pod's order in a wave.
pub fn order_id(wave: &Wave, uid: &str) -> String {
    format!("{}-{uid}", wave.id)
}

/// Moves a wave on by what is seen of its pods.
pub fn advance(wave: &mut Wave, revision: &RevisionView, terms: &Terms, now: Timestamp) -> Progress {
    tick(wave, now);
    let settle = jiff::SignedDuration::try_from(terms.settle).unwrap_or_default();
    let mut progress = Progress {
        done: true,
        ..Progress::default()
    };
    let mut askable: Vec<(usize, &PodView)> = Vec::new();
    let (wave_id, elapsed) = (wave.id.clone(), wave.elapsed_ms);

    for (index, entry) in wave.pods.iter_mut().enumerate() {
        let Some(pod) = revision.pods.iter().find(|p| p.uid == entry.uid) else {
            entry.done_at.get_or_insert(now);
            continue;
        };
        let order = running(pod, &wave_id);
        if let Some(drain) = order {
            orders::note_lease(entry, drain, elapsed);
            progress.notified += grow(&mut entry.notified, drain.notified);
            progress.closed_clean += grow(&mut entry.closed_clean, drain.closed_clean);
            progress.closed_forced += grow(&mut entry.closed_forced, drain.closed_forced);
        }
        let given_up = terms.given_up(entry, elapsed);
        if entry.done_at.is_some() && !pod.terminating && !given_up && !finished(entry, pod, order) {
            // Somebody came late, or the pod fell silent: unknown is not zero.
            entry.done_at = None;
        }
        if entry.done_at.is_some() {
            continue;
        }
        progress.done = false;
        progress.left += pod.sessions.as_ref().map_or(0, |s| s.open);
        if pod.terminating {
            continue;
        }
        if wave.leave_rotation && pod.serving {
            progress.actions.push(Action::LeaveRotation {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
            });
            continue;
        }
        if !wave.leave_rotation && pod.role.as_deref() != Some("draining") {
            progress.actions.push(Action::SetRole {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
                role: Role::Draining,
            });
        }
        let left_at = *entry.left_at.get_or_insert(now);
        if now.duration_since(left_at) < settle {
            continue;
        }
        if given_up || finished(entry, pod, order) {
            entry.done_at = Some(now);
            continue;
        }
        if terms.overdue(entry, elapsed) {
            progress.overdue.push(pod.name.clone());
        }
        askable.push((index, pod));
    }
    if !terms.hold {
        orders::give(wave, &askable, terms, now, &mut progress);
    }
    progress
}

/// Adds the time since the last round, one lease at most: the clock stands still while no operator is there.
fn tick(wave: &mut Wave, now: Timestamp) {
    let passed = now.duration_since(wave.ticked_at).as_millis();
    wave.ticked_at = now;
    wave.elapsed_ms += passed.clamp(0, LEASE.as_millis() as i128) as i64;
}

/// The wave's own order, where the pod reports it.
fn running<'a>(pod: &'a PodView, wave_id: &str) -> Option<&'a DrainView> {
    let drain = pod.sessions.as_ref()?.drain.as_ref()?;
    (drain.id == format!("{wave_id}-{}", pod.uid)).then_some(drain)
}

/// Whether a pod has done its part: it is known to be empty, or as many have left as were asked.
fn finished(entry: &WavePod, pod: &PodView, order: Option<&DrainView>) -> bool {
    let Some(sessions) = &pod.sessions else {
        return false;
    };
    if sessions.open == 0 {
        return true;
    }
    let Some(count) = entry.count else { return false };
    // Out of rotation nobody comes, so what is missing has left, whether or not the pod counts it.
    let missing = entry.sessions.unwrap_or_default() - sessions.open as i64;
    let counted = order.map_or(0, |d| (d.closed_clean + d.closed_forced) as i64);
    counted.max(missing) >= count || order.is_some_and(|d| d.state == "done")
}

impl Terms {
    /// What the rates of all pods may add up to.
    pub fn usable(&self) -> f64 {
        budget::usable(self.budget).min(self.pace * budget::HEADROOM)
    }

    fn spent(entry: &WavePod, elapsed_ms: i64) -> i64 {
        entry.ordered_ms.map_or(0, |at| elapsed_ms - at)
    }

    /// Whether a pod's deadline has passed.
    fn overdue(&self, entry: &WavePod, elapsed_ms: i64) -> bool {
        Self::spent(entry, elapsed_ms) > self.deadline.as_millis() as i64
    }

    /// Whether a pod is let go of with whatever is on it. It closes at its own deadline; who still says nothing, or holds on,
    /// a lease later, is not waited for.
    pub fn given_up(&self, entry: &WavePod, elapsed_ms: i64) -> bool {
        self.close_at_deadline && Self::spent(entry, elapsed_ms) > (self.deadline + LEASE).as_millis() as i64
    }
}

/// Takes over a greater count; returns by how much it grew. A pod that restarts counts from zero: nothing is taken back.
fn grow(known: &mut i64, reported: u64) -> i64 {
    let grown = (reported as i64 - *known).max(0);
    *known += grown;
    grown
}
