//! Who in a wave is under an order now, and at which rate.
//!
//! What all pods may be working at adds up to what the pace allows at any time, renewals, changes and silence included: a rate is
//! raised only by what others are known to have given up, and who fell silent keeps its share until its lease is over.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::{LEASE, LONGEST_LEAD, Progress, Terms, order_id, running};
use crate::api::status::{Wave, WavePod, WaveReason};
use crate::engine::budget;
use crate::engine::observed::{DrainView, PodView};
use crate::engine::plan::{Action, Order};

/// Rates that differ by less than this share are the same until the next renewal: each change re-spreads a pod's places.
const SAME_RATE: f64 = 0.2;
/// Ends of leases that differ by less are the same.
const NEWS_MS: i64 = 2_000;
/// Rates below this are none: the wire has three decimals.
const LEAST_RATE: f64 = 0.001;

/// A pod that is under an order in this round.
struct Asked<'a> {
    index: usize,
    pod: &'a PodView,
    /// Its share of the pace.
    share: f64,
    /// What it may be working at now.
    current: f64,
    /// What it says it works at, where it follows this order.
    running: Option<f64>,
    /// Whether most of its lease is left.
    leased: bool,
}

/// Takes over what a pod says of its order: how long its lease is, and at which rate it works.
pub(super) fn note_lease(entry: &mut WavePod, order: &DrainView, elapsed_ms: i64) {
    if matches!(order.state.as_str(), "done" | "cancelled") {
        (entry.leased_ms, entry.leased_rate) = (None, None);
        return;
    }
    if let Some(left) = order.lease_expires_ms {
        let until = elapsed_ms + left.min(LEASE.as_millis() as u64) as i64;
        // The time that answers take is no news, and nothing to write down.
        if entry.leased_ms.is_none_or(|old| (old - until).abs() > NEWS_MS) {
            entry.leased_ms = Some(until);
        }
    }
    if let Some(rate) = order.rate_per_second {
        entry.leased_rate = Some(rate);
    }
}

/// The rate that a pod may be working at: the last one it had, until its lease is over and the last told session is gone.
/// An empty pod has nobody to move.
fn current(entry: &WavePod, elapsed_ms: i64) -> f64 {
    let lead = LONGEST_LEAD.as_millis() as i64;
    let live = entry.done_at.is_none() && entry.leased_ms.is_some_and(|until| elapsed_ms < until + lead);
    entry.leased_rate.filter(|_| live).unwrap_or_default()
}

/// Gives orders: first ones, renewals, and new rates.
pub(super) fn give(
    wave: &mut Wave,
    askable: &[(usize, &PodView)],
    terms: &Terms,
    now: Timestamp,
    progress: &mut Progress,
) {
    let elapsed = wave.elapsed_ms;
    let working: f64 = wave.pods.iter().map(|entry| current(entry, elapsed)).sum();
    let usable = terms.usable();
    let mut free = (usable - working).max(0.0);
    let crowded = working > usable + 1e-6;
    let mut asked = choose(wave, askable, terms);
    // Slower ones first: should a later call fail, the sum is still within the budget.
    asked.sort_by_key(|a| Reverse(a.current > a.share));
    let reason: &'static str = wave.reason.into();
    for pod in asked {
        let raised = pod.share > pod.current;
        let rate = if raised {
            pod.share.min(pod.current + free)
        } else {
            pod.share
        };
        let rate = (rate * 1_000.0).floor() / 1_000.0;
        if rate < LEAST_RATE {
            // Others have to give up their shares first: they do so in this round.
            continue;
        }
        wave.ordered_at.get_or_insert(now);
        let id = order_id(wave, &pod.pod.uid);
        let entry = &mut wave.pods[pod.index];
        entry.ordered_ms.get_or_insert(elapsed);
        let same = pod.running.is_some_and(|r| (r - rate).abs() <= rate * SAME_RATE);
        if pod.leased && same && (raised || !crowded) {
            progress.rate += pod.current;
            continue;
        }
        progress.rate += rate;
        free -= (rate - pod.current).max(0.0);
        entry.leased_ms = Some(elapsed + LEASE.as_millis() as i64);
        entry.leased_rate = Some(rate.max(pod.current));
        progress.actions.push(Action::Order(Order {
            pod: pod.pod.name.clone(),
            uid: pod.pod.uid.clone(),
            id,
            reason,
            count: entry.count.map(|c| c as u64),
            mode: terms.mode,
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

/// As many pods as the budget paces exactly. Who follows an order already goes on; then those that answer; who says nothing,
/// or is past a deadline that only waits, comes last, so that it keeps nobody waiting.
///
/// Who fell silent under a lease keeps its place and its rate, and gets no order before that lease is over; who says nothing
/// beside others that answer gets a hundredth.
fn choose<'a>(wave: &Wave, askable: &[(usize, &'a PodView)], terms: &Terms) -> Vec<Asked<'a>> {
    let elapsed = wave.elapsed_ms;
    let mut askable = askable.to_vec();
    let held = |index: usize, pod: &PodView| {
        pod.sessions.is_none() && current(&wave.pods[index], elapsed) >= LEAST_RATE
    };
    askable.sort_by_key(|(index, pod)| {
        let entry = &wave.pods[*index];
        let waits = !terms.close_at_deadline && terms.overdue(entry, elapsed);
        let reported =
            running(pod, &wave.id).is_some_and(|d| matches!(d.state.as_str(), "active" | "paused"));
        let works = reported || held(*index, pod);
        (waits && !works, !works, pod.sessions.is_none(), *index)
    });
    askable.truncate(budget::concurrent_pods(terms.budget, terms.max_pods));
    // Who works and is not asked in this round, or holds what it has, is not shared out again.
    let kept: f64 = wave
        .pods
        .iter()
        .enumerate()
        .filter(|(index, _)| !askable.iter().any(|(i, pod)| i == index && !held(*i, pod)))
        .map(|(_, entry)| current(entry, elapsed))
        .sum();
    askable.retain(|(index, pod)| !held(*index, pod));
    let left: Vec<u64> = askable
        .iter()
        .map(|(index, pod)| remaining(wave, *index, pod))
        .collect();
    let shares = budget::share(terms.usable() - kept, &left);
    askable
        .into_iter()
        .zip(shares)
        .map(|((index, pod), share)| {
            let order = running(pod, &wave.id).filter(|d| d.state != "done");
            Asked {
                index,
                pod,
                share,
                current: current(&wave.pods[index], elapsed),
                running: order.and_then(|d| d.rate_per_second),
                leased: order
                    .and_then(|d| d.lease_expires_ms)
                    .is_some_and(|ms| ms > LEASE.as_millis() as u64 * 2 / 3),
            }
        })
        .collect()
}

/// Sessions that a pod has left to move, as far as that is known: dormant ones are closed outside the budget.
fn remaining(wave: &Wave, index: usize, pod: &PodView) -> u64 {
    let entry = &wave.pods[index];
    let open = pod
        .sessions
        .as_ref()
        .map_or(0, |s| s.open.saturating_sub(s.dormant.unwrap_or_default()));
    entry.count.map_or(open, |count| open.min(count.max(0) as u64))
}
