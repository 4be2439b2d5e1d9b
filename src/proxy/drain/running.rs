//! A running order: its lease, its deadline and its sessions. Pure like the pacer; the caller gives the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::order;
use super::pacer::{Pacer, Standing, Step};
use crate::drain::protocol::{DrainOrder, DrainProgress, DrainState, Mode, OnDeadline, Select};
use crate::proxy::clock::millis;

/// What an order has done so far; sessions that it told or closes keep a reference.
#[derive(Debug)]
pub struct Tally {
    /// The order's id.
    pub id: String,
    eligible: AtomicU64,
    notified: AtomicU64,
    acked: AtomicU64,
    closed_clean: AtomicU64,
    closed_forced: AtomicU64,
    dormant: AtomicU64,
}

/// How a session under an order went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Went {
    /// In its turn, or by itself after a notice.
    Clean,
    /// At the deadline, or without an answer.
    Forced,
    /// At once: nobody was there.
    Dormant,
}

/// The pace of a pod that is about to end: it goes whether anybody renews an order or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Haste {
    /// Sessions per second, at least.
    pub(super) rate: f64,
}

/// An order with its clocks.
#[derive(Debug)]
pub(super) struct Running<T> {
    pub(super) order: DrainOrder,
    pub(super) tally: Arc<Tally>,
    pub(super) pacer: Pacer<T>,
    haste: Option<Haste>,
    cancelled: bool,
    lease_until: Duration,
    /// Time under a valid lease, up to `as_of`.
    active_for: Duration,
    as_of: Duration,
    paused: bool,
}

// === impl Tally ===

impl Tally {
    fn new(id: &str, eligible: u64) -> Self {
        Self {
            id: id.to_owned(),
            eligible: AtomicU64::new(eligible),
            notified: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            closed_clean: AtomicU64::new(0),
            closed_forced: AtomicU64::new(0),
            dormant: AtomicU64::new(0),
        }
    }

    /// A notice was sent.
    pub(super) fn notified(&self) {
        bump(&self.notified);
    }

    /// A client has understood the notice.
    pub(in crate::proxy) fn acked(&self) {
        bump(&self.acked);
    }

    /// A session is gone.
    pub(in crate::proxy) fn closed(&self, went: Went) {
        bump(match went {
            Went::Clean => &self.closed_clean,
            Went::Forced => &self.closed_forced,
            Went::Dormant => &self.dormant,
        });
    }
}

// === impl Running ===

impl<T: Clone> Running<T> {
    /// Starts an order on `sessions`, which are in random order and already as many as selected.
    pub(super) fn start(order: DrainOrder, haste: Option<Haste>, now: Duration, sessions: Vec<T>) -> Self {
        let tally = Arc::new(Tally::new(&order.id, sessions.len() as u64));
        let rate = fastest(order.rate_per_second, haste);
        Self {
            pacer: Pacer::new(rate, order::lead(&order), now, sessions),
            lease_until: now + lease(&order),
            tally,
            order,
            haste,
            cancelled: false,
            active_for: Duration::ZERO,
            as_of: now,
            paused: false,
        }
    }

    /// The same order again: the lease is renewed, rate and deadline are taken over.
    pub(super) fn renew(&mut self, order: &DrainOrder, now: Duration) {
        self.advance(now);
        self.lease_until = now + lease(order);
        self.order.lease_seconds = order.lease_seconds;
        self.order.deadline_ms = order.deadline_ms;
        self.order.on_deadline = order.on_deadline;
        self.set_rate(order.rate_per_second, self.haste);
        self.go_on(now);
    }

    /// The pod is about to end: from now on nothing pauses the order.
    pub(super) fn hasten(&mut self, haste: Haste, now: Duration) {
        self.advance(now);
        self.set_rate(self.order.rate_per_second, Some(haste));
        self.go_on(now);
    }

    fn set_rate(&mut self, rate: f64, haste: Option<Haste>) {
        let before = self.rate();
        self.order.rate_per_second = rate;
        self.haste = haste;
        if (self.rate() - before).abs() > f64::EPSILON {
            self.pacer.set_rate(self.rate());
        }
    }

    fn go_on(&mut self, now: Duration) {
        if std::mem::take(&mut self.paused) {
            self.as_of = now;
            self.pacer.resume(now);
        }
    }

    /// The rate in force.
    fn rate(&self) -> f64 {
        fastest(self.order.rate_per_second, self.haste)
    }

    /// Does what is due at `now`. Whoever is busy is only spared by an order that says so, and not after its deadline.
    pub(super) fn poll(
        &mut self,
        now: Duration,
        look: impl Fn(&T) -> Standing,
        told: impl Fn(&T) -> bool,
    ) -> Vec<Step<T>> {
        self.advance(now);
        let open = self.is_open();
        if !open && self.order.mode == Mode::Leave {
            // Nothing was due yet: places count from the deadline.
            self.pacer.resume(now);
        }
        let sparing = self.order.mode == Mode::WhenIdle && !self.deadline_passed() && self.haste.is_none();
        let look = |session: &T| match look(session) {
            Standing::Busy if !sparing => Standing::Ready,
            standing => standing,
        };
        // At a deadline there is no time for a notice, and with `leave` nobody is told before.
        let telling = !self.deadline_passed();
        self.pacer
            .poll(now, open, look, |session| telling && told(session))
    }

    /// When to poll again if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let turn = self.pacer.next_due(self.is_open());
        if self.paused || self.cancelled || self.pacer.is_done() {
            return turn;
        }
        let deadline = self.deadline().filter(|_| !self.deadline_passed());
        let deadline = deadline.map(|deadline| self.as_of + deadline.saturating_sub(self.active_for));
        let lease = self.haste.is_none().then_some(self.lease_until);
        [turn, lease, deadline].into_iter().flatten().min()
    }

    /// Adds a session that began while the order runs, if the order means all.
    pub(super) fn add(&mut self, session: T) {
        let all = self.order.select == (Select::All {}) || self.haste.is_some();
        if all && !self.cancelled {
            bump(&self.tally.eligible);
            self.pacer.add(session);
        }
    }

    /// Stops the order; who was told stays told.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
        self.pacer.cancel();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Whether closes now come after the deadline.
    pub(super) fn deadline_passed(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| self.active_for >= deadline)
    }

    fn deadline(&self) -> Option<Duration> {
        self.order.deadline_ms.map(Duration::from_millis)
    }

    pub(super) fn state(&self, now: Duration) -> DrainState {
        if self.cancelled {
            DrainState::Cancelled
        } else if self.pacer.is_done() {
            DrainState::Done
        } else if now >= self.lease_until && self.haste.is_none() {
            DrainState::Paused
        } else {
            DrainState::Active
        }
    }

    pub(super) fn progress(&self, now: Duration) -> DrainProgress {
        let read = |counter: &AtomicU64| Some(counter.load(Ordering::Relaxed));
        let Tally {
            id,
            eligible,
            notified,
            acked,
            closed_clean,
            closed_forced,
            dormant,
        } = &*self.tally;
        DrainProgress {
            id: id.clone(),
            state: self.state(now),
            eligible: read(eligible),
            notified: read(notified),
            acked: read(acked),
            closed_clean: read(closed_clean),
            closed_forced: read(closed_forced),
            busy: Some(self.pacer.busy() as u64),
            dormant: read(dormant),
            rate_per_second: Some(self.rate()),
            lease_expires_ms: Some(millis(self.lease_until.saturating_sub(now))),
        }
    }

    /// Moves the clocks: time counts towards the deadline only while the lease holds.
    fn advance(&mut self, now: Duration) {
        if self.paused {
            return;
        }
        let end = if self.haste.is_some() {
            now
        } else {
            self.lease_until
        };
        let until = now.min(end);
        self.active_for += until.saturating_sub(self.as_of);
        self.as_of = self.as_of.max(until);
        if now >= end && self.haste.is_none() {
            self.paused = true;
            self.pacer.pause();
        }
    }

    /// Whether sessions may be told now.
    fn is_open(&self) -> bool {
        if self.cancelled {
            return false;
        }
        if self.haste.is_some() {
            return true;
        }
        match (self.deadline_passed(), self.order.on_deadline) {
            _ if self.paused => false,
            (false, _) => self.order.mode != Mode::Leave,
            (true, OnDeadline::Close) => true,
            (true, OnDeadline::Wait) => false,
        }
    }
}

fn lease(order: &DrainOrder) -> Duration {
    Duration::from_secs(order.lease_seconds.into())
}

fn fastest(rate: f64, haste: Option<Haste>) -> f64 {
    haste.map_or(rate, |haste| haste.rate.max(rate))
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "running_tests.rs"]
mod tests;
