//! ReplicaSets and pods.

use std::collections::VecDeque;

use super::Dice;
use crate::api::spec::DrainMode;
use crate::engine::plan::{Hint, Order};

/// A pod with the order that it follows.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub name: String,
    pub uid: String,
    pub revision: String,
    pub serving: bool,
    pub role: String,
    pub cost: i32,
    /// When its container is up; later than now: it is not ready.
    pub up_at: i64,
    /// Until then it does not answer the operator.
    pub silent_until: i64,
    /// On its way out, and gone then.
    pub gone_at: Option<i64>,
    /// Process, counted.
    pub instance: u32,
    pub order: Option<Running>,
    /// Who was told to go: when, who, and with which hint.
    pub told: VecDeque<Told>,
}

/// An order at work.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub id: String,
    pub rate: f64,
    /// How many may still be told; none: all.
    pub left: Option<u64>,
    pub lease_until: i64,
    /// When the last place was, and whether it was that of a session.
    pub last_place: f64,
    pub lead: i64,
    pub hint: Option<Hint>,
    pub cancelled: bool,
    pub mode: DrainMode,
    /// Time under a lease, and when its deadline is, by the same clock.
    pub clock: i64,
    pub ticked: i64,
    pub deadline: i64,
    pub closes: bool,
    pub told: u64,
    pub closed: u64,
}

/// A session that was told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub at: i64,
    pub session: usize,
    pub hint: Option<Hint>,
    pub order: String,
}

impl Running {
    /// Whether it has to begin to close so that it ends at its deadline.
    fn closing(&self, open: usize) -> bool {
        let takes = (open as f64 / self.rate * 1_000.0) as i64 + self.lead;
        self.closes && self.clock + takes >= self.deadline
    }
}

impl Pod {
    pub(super) fn new(revision: &str, number: u64, up_at: i64) -> Self {
        Self {
            name: format!("{revision}-{number}"),
            uid: format!("u{number}"),
            revision: revision.to_owned(),
            serving: true,
            role: "stable".to_owned(),
            cost: 0,
            up_at,
            silent_until: 0,
            gone_at: None,
            instance: 0,
            order: None,
            told: VecDeque::new(),
        }
    }

    pub(super) fn up(&self, now: i64) -> bool {
        self.up_at <= now && self.gone_at.is_none()
    }

    pub(super) fn take(&mut self, order: &Order, now: i64) {
        let lease_until = now + order.lease.as_millis() as i64;
        match &mut self.order {
            Some(running) if running.id == order.id => {
                if running.cancelled {
                    return;
                }
                running.lease_until = lease_until;
                running.rate = order.rate_per_second;
            }
            _ => {
                let lead = (order.reconnect_window.as_millis() as i64).min(2_000);
                self.order = Some(Running {
                    id: order.id.clone(),
                    rate: order.rate_per_second,
                    left: order.count,
                    lease_until,
                    last_place: (now + lead) as f64,
                    lead,
                    hint: order.hint.clone(),
                    cancelled: false,
                    mode: order.mode,
                    clock: 0,
                    ticked: now,
                    deadline: order.deadline.as_millis() as i64,
                    closes: order.close_at_deadline,
                    told: 0,
                    closed: 0,
                });
            }
        }
    }

    /// Tells whose place is near, at even distances; returns who goes now.
    pub(super) fn work(&mut self, now: i64, here: &[usize], dice: &mut Dice) -> Vec<Told> {
        if let Some(order) = self
            .order
            .as_mut()
            .filter(|o| !o.cancelled && now <= o.lease_until)
        {
            order.clock += now - order.ticked;
            let closing = order.closing(here.len());
            let busy = |session: usize| {
                order.mode == DrainMode::WhenIdle && !closing && (session as i64 + now / 5_000) % 4 == 0
            };
            let mut untold: Vec<usize> = here
                .iter()
                .copied()
                .filter(|s| !self.told.iter().any(|t| t.session == *s) && !busy(*s))
                .collect();
            if order.mode == DrainMode::Leave && !closing {
                untold.clear();
            }
            loop {
                let place = order.last_place + 1_000.0 / order.rate;
                if place > (now + order.lead) as f64 {
                    break;
                }
                if untold.is_empty() || order.left == Some(0) {
                    // Who comes later gets a place of its own time.
                    order.last_place = order
                        .last_place
                        .max((now + order.lead) as f64 - 1_000.0 / order.rate);
                    break;
                }
                order.last_place = place;
                let session = untold.swap_remove(dice.below(untold.len()));
                order.left = order.left.map(|left| left - 1);
                order.told += 1;
                self.told.push_back(Told {
                    at: place as i64,
                    session,
                    hint: order.hint.clone(),
                    order: order.id.clone(),
                });
            }
        }
        if let Some(order) = &mut self.order {
            order.ticked = now;
        }
        let mut gone = Vec::new();
        while self.told.front().is_some_and(|t| t.at <= now) {
            gone.extend(self.told.pop_front());
        }
        gone.retain(|t| here.contains(&t.session));
        if let Some(order) = &mut self.order {
            order.closed += gone.iter().filter(|t| t.order == order.id).count() as u64;
        }
        gone
    }

    /// Its process ends and another begins.
    pub(super) fn crash(&mut self, up_at: i64) {
        self.instance += 1;
        self.up_at = up_at;
        self.order = None;
        self.told.clear();
    }
}
