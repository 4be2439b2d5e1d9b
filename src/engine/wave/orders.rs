//! Who in a wave is under an order now, and at which rate.
//!
//! The rates of all pods that follow an order add up to what the budget allows at any time, renewals and changes included.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::{LEASE, LONGEST_LEAD, Progress, Terms, order_id, running};
use crate::api::spec::DrainMode;
use crate::api::status::{Wave, WaveReason};
use crate::engine::budget;
use crate::engine::observed::PodView;
use crate::engine::plan::{Action, Order};

/// Rates that differ by less than this share are the same until the next renewal: each change re-spreads a pod's places.
const SAME_RATE: f64 = 0.2;

/// A pod that is under an order in this round.
struct Asked<'a> {
    index: usize,
    pod: &'a PodView,
    /// Its share of the budget.
    share: f64,
    /// What it works at, where it follows this order.
    running: Option<f64>,
    /// Whether its order stays as it is.
    keep: bool,
}

/// Gives orders: first ones, renewals, and new rates.
pub(super) fn give(
    wave: &mut Wave,
    askable: &[(usize, &PodView)],
    terms: &Terms,
    now: Timestamp,
    progress: &mut Progress,
) {
    let mut asked = choose(wave, askable, terms);
    progress.rate = asked.iter().map(|a| a.share).sum();
    // Who kept a rate above its share would put the sum above the budget.
    let effective = |asked: &[Asked<'_>]| -> f64 {
        let rate = |a: &Asked<'_>| {
            if a.keep {
                a.running.unwrap_or(a.share)
            } else {
                a.share
            }
        };
        asked.iter().map(rate).sum()
    };
    if effective(&asked) > budget::usable(terms.budget) + 1e-6 {
        for pod in &mut asked {
            pod.keep = pod.keep && pod.running.is_some_and(|r| r <= pod.share);
        }
    }
    // Slower ones first: should a later call fail, the sum is still within the budget.
    asked.sort_by_key(|a| Reverse(a.running.is_some_and(|r| r > a.share)));
    let reason: &'static str = wave.reason.into();
    for pod in asked {
        wave.ordered_at.get_or_insert(now);
        let elapsed = wave.elapsed_ms;
        let id = order_id(wave, &pod.pod.uid);
        let entry = &mut wave.pods[pod.index];
        entry.ordered_ms.get_or_insert(elapsed);
        if pod.keep {
            continue;
        }
        progress.actions.push(Action::Order(Order {
            pod: pod.pod.name.clone(),
            uid: pod.pod.uid.clone(),
            id,
            reason,
            count: entry.count.map(|c| c as u64),
            mode: DrainMode::Ask,
            rate_per_second: pod.share,
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

/// As many pods as the budget paces exactly. Who follows an order already goes on; then those that answer; who says nothing,
/// or is past a deadline that only waits, comes last, so that it keeps nobody waiting.
fn choose<'a>(wave: &Wave, askable: &[(usize, &'a PodView)], terms: &Terms) -> Vec<Asked<'a>> {
    let mut askable = askable.to_vec();
    askable.sort_by_key(|(index, pod)| {
        let entry = &wave.pods[*index];
        let waits = !terms.close_at_deadline && terms.overdue(entry, wave.elapsed_ms);
        let reported =
            running(pod, &wave.id).is_some_and(|d| matches!(d.state.as_str(), "active" | "paused"));
        // Who fell silent under its first lease may be at work: nobody gets its share before that has run out.
        let lease = (LEASE + LONGEST_LEAD).as_millis() as i64;
        let leased = entry.ordered_ms.is_some_and(|at| wave.elapsed_ms - at < lease);
        let works = reported || (leased && pod.sessions.is_none());
        (waits, !works, pod.sessions.is_none(), *index)
    });
    askable.truncate(budget::concurrent_pods(terms.budget, terms.max_pods));
    let left: Vec<u64> = askable
        .iter()
        .map(|(index, pod)| remaining(wave, *index, pod))
        .collect();
    let shares = budget::split(terms.budget, &left);
    askable
        .into_iter()
        .zip(shares)
        .map(|((index, pod), share)| {
            let order = running(pod, &wave.id).filter(|d| d.state != "done");
            let running = order.and_then(|d| d.rate_per_second);
            let leased = order
                .and_then(|d| d.lease_expires_ms)
                .is_some_and(|ms| ms > LEASE.as_millis() as u64 * 2 / 3);
            let same = running.is_some_and(|r| (r - share).abs() <= share * SAME_RATE);
            Asked {
                index,
                pod,
                share,
                running,
                keep: leased && same,
            }
        })
        .collect()
}

fn remaining(wave: &Wave, index: usize, pod: &PodView) -> u64 {
    let entry = &wave.pods[index];
    let chosen = || entry.sessions.unwrap_or(1).max(0) as u64;
    let open = pod.sessions.as_ref().map_or_else(chosen, |s| s.open);
    entry.count.map_or(open, |count| open.min(count.max(0) as u64))
}
