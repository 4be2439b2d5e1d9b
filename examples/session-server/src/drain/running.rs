//! A running order: its lease, its deadline and its sessions. Pure like the pacer; the caller gives the time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use super::{
    order::{Hint, Mode, OnDeadline, Order, Reason, Select},
    pacer::{Manner, OVERLAP_GRACE, Pacer, Step},
};
use crate::session::{Ending, bump};

/// What an order has done so far; sockets that it told keep a reference.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The order's id.
    pub(crate) id: String,
    /// The code with which it closes.
    pub(crate) close_code: u16,
    /// Sessions it covers.
    pub(crate) eligible: AtomicU64,
    /// Notices sent.
    pub(crate) notified: AtomicU64,
    acked: AtomicU64,
    closed_clean: AtomicU64,
    closed_forced: AtomicU64,
}

/// An order with its clocks.
#[derive(Debug)]
pub(super) struct Running<T> {
    pub(super) order: Order,
    pub(super) tally: Arc<Tally>,
    pub(super) pacer: Pacer<T>,
    cancelled: bool,
    lease_until: Duration,
    /// Time under a valid lease, up to `as_of`.
    active_for: Duration,
    as_of: Duration,
    paused: bool,
}

/// What an order is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Sessions are being moved.
    Active,
    /// The lease ran out.
    Paused,
    /// Nothing is left to move.
    Done,
    /// The order was deleted.
    Cancelled,
    /// The deadline passed, and the rest stays.
    Deadline,
}

/// How far an order has come, as the operator reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Progress {
    id: String,
    state: State,
    eligible: u64,
    notified: u64,
    acked: u64,
    closed_clean: u64,
    closed_forced: u64,
    busy: u64,
    rate_per_second: f64,
    lease_expires_ms: u64,
}

/// The notice to a client.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Notice {
    v: u8,
    id: String,
    reason: Reason,
    deadline_ms: u64,
    reconnect: NoticeReconnect,
    resume: Resume,
    close_code: u16,
    make_before_break: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NoticeReconnect {
    after_ms: u64,
    /// Always 0: places are spaced exactly, and chance would only make two of them meet.
    within_ms: u64,
    url: Option<String>,
    query: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resume {
    token: String,
    expires_ms: u64,
}

// === impl Tally ===

impl Tally {
    fn new(order: &Order, eligible: u64) -> Self {
        Self {
            id: order.id.clone(),
            close_code: order.close_code,
            eligible: AtomicU64::new(eligible),
            notified: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            closed_clean: AtomicU64::new(0),
            closed_forced: AtomicU64::new(0),
        }
    }

    /// A client has understood the notice of order `id`.
    pub(crate) fn ack(&self, id: &str) {
        if id == self.id {
            bump(&self.acked);
        }
    }

    /// A socket that the order told is closed.
    pub(crate) fn closed(&self, ending: Ending) {
        if ending.clean && !ending.forced {
            bump(&self.closed_clean);
        } else {
            bump(&self.closed_forced);
        }
    }
}

// === impl Running ===

impl<T: Clone> Running<T> {
    /// Starts an order on `sessions`, which are in random order and already as many as selected.
    pub(super) fn start(order: Order, now: Duration, sessions: Vec<(T, Manner)>) -> Self {
        let tally = Arc::new(Tally::new(&order, sessions.len() as u64));
        let untold = order.mode == Mode::Leave;
        let sessions = sessions
            .into_iter()
            .map(|(s, manner)| (s, if untold { Manner::Untold } else { manner }));
        Self {
            pacer: Pacer::new(order.rate, order.lead, now, sessions),
            lease_until: now + order.lease,
            tally,
            order,
            cancelled: false,
            active_for: Duration::ZERO,
            as_of: now,
            paused: false,
        }
    }

    /// The same order again: the lease is renewed, rate and deadline are taken over.
    pub(super) fn renew(&mut self, order: &Order, now: Duration) {
        self.advance(now);
        self.lease_until = now + order.lease;
        if (order.rate - self.order.rate).abs() > f64::EPSILON {
            self.pacer.set_rate(order.rate);
        }
        let Order {
            rate,
            lease,
            deadline,
            on_deadline,
            ..
        } = *order;
        self.order = Order {
            rate,
            lease,
            deadline,
            on_deadline,
            ..self.order.clone()
        };
        if std::mem::take(&mut self.paused) {
            self.as_of = now;
            self.pacer.resume(now);
        }
    }

    /// With `whenIdle`, skips who is busy; `busy` says until when. At a deadline that closes nobody is spared any more.
    pub(super) fn heed(&mut self, now: Duration, busy: impl Fn(&T) -> Option<Duration>) {
        if self.order.mode == Mode::WhenIdle {
            self.advance(now);
            let spare = !(self.deadline_passed() && self.order.on_deadline == OnDeadline::Close);
            self.pacer.rest(|session| busy(session).filter(|_| spare));
        }
    }

    /// Does what is due at `now`.
    pub(super) fn poll(&mut self, now: Duration, gone: impl Fn(&T) -> bool) -> Vec<Step<T>> {
        self.advance(now);
        let open = self.is_open();
        if !open && self.order.mode == Mode::Leave && !self.deadline_passed() {
            // Nothing was due yet: places count from the deadline.
            self.pacer.resume(now);
        }
        self.pacer.poll(now, open, gone)
    }

    /// When to poll again if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let turn = self.pacer.next_due(self.is_open());
        if self.paused || self.cancelled {
            return turn;
        }
        let deadline = self
            .order
            .deadline
            .filter(|_| !self.deadline_passed())
            .map(|deadline| self.as_of + deadline.saturating_sub(self.active_for));
        [turn, Some(self.lease_until), deadline]
            .into_iter()
            .flatten()
            .min()
    }

    /// Adds a session that connected while the order runs, if the order means all.
    pub(super) fn add(&mut self, session: T, manner: Manner) {
        if self.order.select == (Select::All {}) && !self.cancelled {
            let manner = if self.order.mode == Mode::Leave {
                Manner::Untold
            } else {
                manner
            };
            bump(&self.tally.eligible);
            self.pacer.add(session, manner);
        }
    }

    /// Stops the order; who was told stays told.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
        self.pacer.cancel();
    }

    /// Whether the order is still to be worked on, or to be gone on with by a renewal.
    pub(super) fn is_live(&self, now: Duration) -> bool {
        matches!(self.state(now), State::Active | State::Paused)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Whether closes now come after the deadline.
    pub(super) fn deadline_passed(&self) -> bool {
        self.order
            .deadline
            .is_some_and(|deadline| self.active_for >= deadline)
    }

    pub(super) fn state(&self, now: Duration) -> State {
        if self.cancelled {
            State::Cancelled
        } else if self.pacer.is_done() {
            State::Done
        } else if self.deadline_passed() && self.order.on_deadline == OnDeadline::Wait {
            State::Deadline
        } else if now >= self.lease_until {
            State::Paused
        } else {
            State::Active
        }
    }

    pub(super) fn progress(&self, now: Duration) -> Progress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            id: self.order.id.clone(),
            state: self.state(now),
            eligible: read(&self.tally.eligible),
            notified: read(&self.tally.notified),
            acked: read(&self.tally.acked),
            closed_clean: read(&self.tally.closed_clean),
            closed_forced: read(&self.tally.closed_forced),
            busy: self.pacer.resting() as u64,
            rate_per_second: self.order.rate,
            lease_expires_ms: millis(self.lease_until.saturating_sub(now)),
        }
    }

    /// The notice for a session, whose resume token is its id.
    pub(super) fn notice(&self, session: &str, session_ttl: Duration, overlaps: bool) -> Notice {
        let patience = self.order.lead + OVERLAP_GRACE;
        let hint = self.order.hint.clone();
        Notice {
            v: 1,
            id: self.order.id.clone(),
            reason: self.order.reason,
            deadline_ms: millis(patience),
            reconnect: NoticeReconnect {
                after_ms: millis(self.order.lead),
                within_ms: 0,
                url: None,
                query: hint.as_ref().and_then(Hint::query),
                path: hint.as_ref().and_then(Hint::path),
                header: hint.as_ref().and_then(Hint::header),
            },
            resume: Resume {
                token: session.to_owned(),
                expires_ms: millis(session_ttl),
            },
            close_code: self.order.close_code,
            make_before_break: overlaps,
        }
    }

    /// Moves the clocks: time counts towards the deadline only while the lease holds.
    fn advance(&mut self, now: Duration) {
        if !self.paused {
            let until = now.min(self.lease_until);
            self.active_for += until.saturating_sub(self.as_of);
            self.as_of = self.as_of.max(until);
            if now >= self.lease_until {
                self.paused = true;
                self.pacer.pause();
            }
        }
    }

    /// Whether sessions may be told now.
    fn is_open(&self) -> bool {
        if self.paused || self.cancelled {
            return false;
        }
        match (self.deadline_passed(), self.order.on_deadline) {
            (false, _) => self.order.mode != Mode::Leave,
            (true, OnDeadline::Close) => true,
            (true, OnDeadline::Wait) => false,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "running_tests.rs"]
mod tests;
