//! Waves: which pods let go of their sessions together, and what each of them is told next.
//!
//! Whole pods, emptiest first, so that capacity moves with the sessions. A pod leaves rotation first, then it gets its order,
//! then it is empty; what becomes of it is decided elsewhere.

use std::time::Duration;

use jiff::Timestamp;

use super::budget;
use super::observed::{PodView, RevisionView};
use super::plan::{Action, Order, Role};
use crate::api::status::{Wave, WavePod, WaveReason};

/// Lease of an order: who has not heard from the operator for so long, stops moving sessions.
pub const LEASE: Duration = Duration::from_secs(30);
/// Most pods in a wave: status stays small.
pub const MAX_PODS: usize = 32;

/// How a wave's orders read.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// First connects per second over all pods.
    pub budget: f64,
    /// Most pods under orders at one time.
    pub max_pods: Option<u32>,
    /// Deadline per pod from its first order.
    pub deadline: Duration,
    /// Close at the deadline, or wait.
    pub close_at_deadline: bool,
    /// Most time between notice and close.
    pub reconnect_window: Duration,
    /// Query that leads the client on.
    pub hint: Option<String>,
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
        let whole = open <= left + (need / 5).max(1);
        if !whole && !chosen.is_empty() {
            break;
        }
        chosen.push(WavePod {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            sessions: Some(open as i64),
            count: (!whole).then_some(left as i64),
            ..blank()
        });
        left = left.saturating_sub(open);
    }
    chosen
}

/// All live pods of a revision that have sessions, or of which that is not known; at most [`MAX_PODS`].
pub fn everyone(revision: &RevisionView) -> Vec<WavePod> {
    revision
        .live()
        .filter(|pod| pod.sessions.as_ref().is_none_or(|s| s.open > 0))
        .take(MAX_PODS)
        .map(|pod| WavePod {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            sessions: pod.sessions.as_ref().map(|s| s.open as i64),
            ..blank()
        })
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
    let tick = now
        .duration_since(wave.ticked_at)
        .as_millis()
        .clamp(0, LEASE.as_millis() as i128) as i64;
    wave.ticked_at = now;
    wave.elapsed_ms += tick;
    let settle = jiff::SignedDuration::try_from(terms.settle).unwrap_or_default();
    let mut progress = Progress {
        done: true,
        ..Progress::default()
    };
    let mut active: Vec<(usize, &PodView)> = Vec::new();
    let concurrent = budget::concurrent_pods(terms.budget, terms.max_pods);
    let id = wave.id.clone();

    for (index, entry) in wave.pods.iter_mut().enumerate() {
        let Some(pod) = revision.pods.iter().find(|p| p.uid == entry.uid) else {
            entry.done_at.get_or_insert(now);
            continue;
        };
        let mine = pod
            .sessions
            .as_ref()
            .and_then(|s| s.drain.as_ref())
            .filter(|d| d.id == format!("{id}-{}", entry.uid));
        if let Some(drain) = mine {
            progress.notified += grow(&mut entry.notified, drain.notified);
            progress.closed_clean += grow(&mut entry.closed_clean, drain.closed_clean);
            progress.closed_forced += grow(&mut entry.closed_forced, drain.closed_forced);
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
        let gone = mine.map_or(0, |d| d.closed_clean + d.closed_forced);
        let finished = match (&pod.sessions, entry.count) {
            (Some(sessions), None) => sessions.open == 0,
            (Some(sessions), Some(count)) => gone >= count as u64 || sessions.open == 0,
            (None, _) => false,
        };
        if finished {
            entry.done_at = Some(now);
            continue;
        }
        let spent = entry.ordered_ms.map_or(0, |at| wave.elapsed_ms - at);
        if spent > terms.deadline.as_millis() as i64 {
            progress.overdue.push(pod.name.clone());
            // The pod closes at its own deadline; who still says nothing, or holds on, a lease later, is let go of.
            if terms.close_at_deadline && spent > (terms.deadline + LEASE).as_millis() as i64 {
                entry.done_at = Some(now);
                continue;
            }
        }
        if active.len() < concurrent {
            active.push((index, pod));
        }
    }
    order(wave, &active, terms, now, &mut progress);
    progress
}

/// Takes over a greater count; returns by how much it grew. A pod that restarts counts from zero: nothing is taken back.
fn grow(known: &mut i64, reported: u64) -> i64 {
    let grown = (reported as i64 - *known).max(0);
    *known += grown;
    grown
}

/// Gives orders to the active pods: first ones, renewals, and new rates.
fn order(
    wave: &mut Wave,
    active: &[(usize, &PodView)],
    terms: &Terms,
    now: Timestamp,
    progress: &mut Progress,
) {
    let left = |index: usize, pod: &PodView| {
        let open = pod
            .sessions
            .as_ref()
            .map_or_else(|| wave.pods[index].sessions.unwrap_or(1) as u64, |s| s.open);
        wave.pods[index]
            .count
            .map_or(open, |count| open.min(count as u64))
    };
    let remaining: Vec<u64> = active.iter().map(|(index, pod)| left(*index, pod)).collect();
    let rates = budget::split(terms.budget, &remaining);
    progress.rate = rates.iter().sum();
    let reason: &'static str = wave.reason.into();
    for ((index, pod), rate) in active.iter().zip(rates) {
        wave.ordered_at.get_or_insert(now);
        let elapsed = wave.elapsed_ms;
        wave.pods[*index].ordered_ms.get_or_insert(elapsed);
        let id = order_id(wave, &pod.uid);
        let running = pod
            .sessions
            .as_ref()
            .and_then(|s| s.drain.as_ref())
            .filter(|d| d.id == id);
        let fresh = running.is_some_and(|d| {
            let lease = d
                .lease_expires_ms
                .is_some_and(|ms| ms > LEASE.as_millis() as u64 * 2 / 3);
            // Small changes of the split wait for the next renewal: each one re-spreads the pod's places.
            let same = d.rate_per_second.is_some_and(|r| (r - rate).abs() <= rate * 0.2);
            lease && same
        });
        if fresh {
            continue;
        }
        progress.actions.push(Action::Order(Order {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            id,
            reason,
            count: wave.pods[*index].count.map(|c| c as u64),
            rate_per_second: rate,
            lease: LEASE,
            deadline: terms.deadline,
            close_at_deadline: terms.close_at_deadline,
            reconnect_window: terms.reconnect_window,
            hint: terms
                .hint
                .clone()
                .filter(|_| wave.reason != WaveReason::ScaleDown),
            close_code: terms.close_code,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::observed::{DrainView, SessionsView};
    use proptest::prelude::*;

    fn pod(name: &str, open: Option<u64>) -> PodView {
        PodView {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ready: true,
            terminating: false,
            serving: true,
            role: Some("stable".to_owned()),
            deletion_cost: None,
            trouble: None,
            sessions: open.map(|open| SessionsView {
                open,
                ..SessionsView::default()
            }),
        }
    }

    fn terms() -> Terms {
        Terms {
            budget: 50.0,
            max_pods: None,
            deadline: Duration::from_secs(60),
            close_at_deadline: false,
            reconnect_window: Duration::from_secs(5),
            hint: Some("wsroll=x".to_owned()),
            close_code: 1012,
            settle: Duration::from_secs(1),
        }
    }

    fn wave(pods: Vec<WavePod>) -> Wave {
        Wave {
            id: "r1-w1".to_owned(),
            reason: WaveReason::Rollout,
            revision: "aaa".to_owned(),
            since: at(0),
            ordered_at: None,
            elapsed_ms: 0,
            ticked_at: at(0),
            leave_rotation: true,
            pods,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn orders(progress: &Progress) -> Vec<&Order> {
        progress
            .actions
            .iter()
            .filter_map(|a| if let Action::Order(o) = a { Some(o) } else { None })
            .collect()
    }

    #[test]
    fn the_emptiest_pods_go_first_and_whole() {
        let pods = [
            pod("a", Some(120)),
            pod("b", Some(90)),
            pod("c", Some(100)),
            pod("d", None),
        ];
        let names = |need, max| -> Vec<String> {
            choose(pods.iter(), need, max)
                .into_iter()
                .map(|p| p.name)
                .collect()
        };
        assert_eq!(names(100, 3), ["b"], "ten more are not worth half a pod");
        assert_eq!(names(200, 3), ["b", "c"]);
        assert_eq!(names(200, 1), ["b"]);
        assert_eq!(names(1_000, 9), ["b", "c", "a"], "unknown is never chosen");
    }

    #[test]
    fn less_than_a_pod_is_asked_by_count() {
        let pods = [pod("a", Some(100)), pod("b", Some(100))];
        let chosen = choose(pods.iter(), 20, 2);
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].count, Some(20));
    }

    #[test]
    fn a_pod_leaves_rotation_settles_and_only_then_gets_its_order() {
        let mut view = RevisionView {
            replicas: 1,
            pods: vec![pod("a", Some(10))],
        };
        let mut wave = wave(choose(view.pods.iter(), 10, 1));
        let first = advance(&mut wave, &view, &terms(), at(0));
        assert!(matches!(first.actions[..], [Action::LeaveRotation { .. }]));
        view.pods[0].serving = false;
        assert!(
            advance(&mut wave, &view, &terms(), at(1)).actions.is_empty(),
            "not settled"
        );
        let ordered = advance(&mut wave, &view, &terms(), at(3));
        assert_eq!(orders(&ordered)[0].id, "r1-w1-uid-a");
        assert!(orders(&ordered)[0].rate_per_second <= 45.0);
        view.pods[0].sessions.as_mut().unwrap().open = 0;
        assert!(
            !advance(&mut wave, &view, &terms(), at(4)).done,
            "done is seen in the next round"
        );
        assert!(advance(&mut wave, &view, &terms(), at(5)).done);
    }

    #[test]
    fn orders_are_renewed_before_their_lease_runs_out_and_not_every_round() {
        let mut view = RevisionView {
            replicas: 1,
            pods: vec![pod("a", Some(10))],
        };
        view.pods[0].serving = false;
        let mut wave = wave(choose(view.pods.iter(), 10, 1));
        advance(&mut wave, &view, &terms(), at(0));
        let rate = orders(&advance(&mut wave, &view, &terms(), at(2)))[0].rate_per_second;
        let mut running = |lease_ms, at_second| {
            view.pods[0].sessions.as_mut().unwrap().drain = Some(DrainView {
                id: "r1-w1-uid-a".to_owned(),
                lease_expires_ms: Some(lease_ms),
                rate_per_second: Some(rate),
                ..DrainView::default()
            });
            orders(&advance(&mut wave, &view, &terms(), at(at_second))).len()
        };
        assert_eq!(running(29_000, 3), 0);
        assert_eq!(running(19_000, 12), 1);
    }

    #[test]
    fn unknown_is_not_empty_and_waits_for_the_deadline() {
        let mut view = RevisionView {
            replicas: 1,
            pods: vec![pod("a", None)],
        };
        view.pods[0].serving = false;
        let mut wave = wave(everyone(&view));
        for second in 0..120 {
            assert!(!advance(&mut wave, &view, &terms(), at(second)).done);
        }
        assert_eq!(
            advance(&mut wave, &view, &terms(), at(120)).overdue,
            ["a"],
            "onDeadline Wait only tells"
        );
        let closing = Terms {
            close_at_deadline: true,
            ..terms()
        };
        advance(&mut wave, &view, &closing, at(121));
        assert!(advance(&mut wave, &view, &closing, at(122)).done);
    }

    #[test]
    fn the_deadlines_clock_stands_still_while_no_operator_is_there() {
        let mut view = RevisionView {
            replicas: 1,
            pods: vec![pod("a", Some(5))],
        };
        view.pods[0].serving = false;
        let mut wave = wave(everyone(&view));
        for second in 0..10 {
            advance(&mut wave, &view, &terms(), at(second));
        }
        let back = advance(&mut wave, &view, &terms(), at(10_000));
        assert!(back.overdue.is_empty(), "three hours away cost one lease at most");
    }

    proptest! {
        #[test]
        fn rates_of_a_wave_never_exceed_the_budget(
            opens in proptest::collection::vec(1u64..400, 1..20), budget in 1.0f64..300.0,
        ) {
            let mut view = RevisionView {
                replicas: opens.len() as u32,
                pods: opens.iter().enumerate().map(|(i, n)| pod(&format!("p{i}"), Some(*n))).collect(),
            };
            view.pods.iter_mut().for_each(|p| p.serving = false);
            let mut wave = wave(everyone(&view));
            let terms = Terms { budget, ..terms() };
            advance(&mut wave, &view, &terms, at(0));
            let progress = advance(&mut wave, &view, &terms, at(2));
            let sum: f64 = orders(&progress).iter().map(|o| o.rate_per_second).sum();
            prop_assert!(sum <= budget * 0.9 + 1e-6);
            prop_assert!(!orders(&progress).is_empty());
        }
    }
}
