//! Rules about time that belongs to the order: leases, deadlines.

use std::time::Duration;

use tokio::time::Instant;

use super::crowd::{Crowd, OpenError};
use super::moves::{PATIENCE, RATE, WATCH};
use super::rule;
use super::run::Run;
use crate::drain::protocol::DrainState;

/// Longer than a lease of a second and what was told before its end.
const LEASE_OVER: Duration = Duration::from_millis(1_400);

// === impl Run ===

impl Run {
    /// Nobody renews the order; then somebody does, with another rate.
    pub(super) async fn unrenewed(&mut self, crowd: &mut Crowd) -> Result<(), OpenError> {
        crowd.open(12_usize.saturating_sub(crowd.open_count())).await?;
        let mut order = self.order("unrenewed");
        order["leaseSeconds"] = 1.into();
        order["ratePerSecond"] = 3.into();
        order["reconnect"]["maxMs"] = 0.into();
        self.start(&order).await;
        crowd.watch(LEASE_OVER).await;
        let then = crowd.open_count();
        crowd.watch(WATCH).await;
        let lost = then - crowd.open_count();
        let state = self
            .port
            .progress(&self.id("unrenewed"))
            .await
            .map(|drain| drain.state);
        let paused = matches!(state, None | Some(DrainState::Paused));
        let evidence = format!(
            "a lease of 1 s: {lost} closes after its end, state {}",
            state.map_or("not told".to_owned(), |state| format!("{state:?}"))
        );
        self.report
            .check(&rule::DRAIN_LEASE, lost == 0 && paused && then > 0, evidence);

        let left = crowd.open_count();
        let first_left: Vec<usize> = open_places(crowd);
        order["leaseSeconds"] = 30.into();
        order["ratePerSecond"] = RATE.into();
        let begun = Instant::now();
        self.start(&order).await;
        let needed = Duration::from_secs_f64(left as f64 / RATE);
        let gone = crowd
            .until(begun + needed + PATIENCE, |members| {
                members.iter().all(|m| m.end.is_some())
            })
            .await;
        let evidence = format!(
            "{left} were left, {} still open {} ms after the renewal",
            crowd.open_count(),
            begun.elapsed().as_millis()
        );
        self.report.check(&rule::DRAIN_RENEWED, gone, evidence);
        let times = closed_at(crowd, &first_left, begun);
        self.paced(&rule::DRAIN_RENEWED, &times, RATE);
        // At the old rate the rest would have taken so long.
        let slow = Duration::from_secs_f64((left.saturating_sub(2)) as f64 / 3.0);
        let evidence = format!(
            "3 per second made {RATE}: {left} closes took {} ms",
            begun.elapsed().as_millis()
        );
        self.report
            .check(&rule::DRAIN_RATE, left < 6 || begun.elapsed() < slow, evidence);
        self.port.delete(&self.id("unrenewed")).await;
        Ok(())
    }

    /// Nothing happens before the deadline, whose clock stands still with the lease; then all are closed in turn.
    pub(super) async fn left_alone(&mut self, crowd: &mut Crowd) -> Result<(), OpenError> {
        crowd.open(12_usize.saturating_sub(crowd.open_count())).await?;
        let mut order = self.order("left-alone");
        order["mode"] = "leave".into();
        order["leaseSeconds"] = 1.into();
        order["deadlineMs"] = 2_000.into();
        order["onDeadline"] = "close".into();
        self.start(&order).await;
        let all = open_places(crowd);
        crowd.watch(Duration::from_millis(900)).await;
        let touched = |crowd: &Crowd| {
            let members = all.iter().map(|place| &crowd.members[*place]);
            members
                .filter(|m| m.end.is_some() || !m.notices.is_empty())
                .count()
        };
        let early = touched(crowd);
        let evidence = format!(
            "{early} of {} were told or closed within 900 ms of a deadline of 2 s",
            all.len()
        );
        self.report.check(&rule::DRAIN_LEAVE, early == 0, evidence);
        // The lease is over after one second; two seconds later a clock that went on would be past its deadline.
        crowd.watch(Duration::from_millis(2_100)).await;
        let paused = touched(crowd);
        order["leaseSeconds"] = 30.into();
        let begun = Instant::now();
        self.start(&order).await;
        // A second was left. Half of it has to pass without a close.
        crowd.watch(Duration::from_millis(500)).await;
        let early = touched(crowd);
        let evidence = format!(
            "{paused} were touched in the pause, {early} within 500 ms of the renewal, 1 s before the deadline"
        );
        self.report
            .check(&rule::DRAIN_DEADLINE_CLOCK, early == 0, evidence);

        let needed = Duration::from_secs_f64(1.0 + all.len() as f64 / RATE);
        let gone = crowd
            .until(begun + needed + PATIENCE, |members| {
                members.iter().all(|m| m.end.is_some())
            })
            .await;
        let evidence = format!(
            "{} of {} still open {} ms after the renewal",
            crowd.open_count(),
            all.len(),
            begun.elapsed().as_millis()
        );
        self.report.check(&rule::DRAIN_DEADLINE_CLOSE, gone, evidence);
        let times = closed_at(crowd, &all, begun);
        self.paced(&rule::DRAIN_DEADLINE_CLOSE, &times, RATE);
        Ok(())
    }
}

fn open_places(crowd: &Crowd) -> Vec<usize> {
    let open = crowd
        .members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.end.is_none());
    open.map(|(place, _)| place).collect()
}

fn closed_at(crowd: &Crowd, places: &[usize], begun: Instant) -> Vec<Duration> {
    let ended = places
        .iter()
        .filter_map(|place| crowd.members[*place].end.as_ref());
    let mut times: Vec<Duration> = ended.map(|(at, _)| at.saturating_duration_since(begun)).collect();
    times.sort_unstable();
    times
}
