//! Letting go of sessions when the operator asks: orders in, notices and paced closes out.
//!
//! One order runs at a time. `order` reads and checks it, `running` keeps its lease and deadline, `pacer` says who
//! goes when, `events` who came and went, `api` is the HTTP side; this file holds them together and is the only part that knows the clock.

mod api;
mod events;
mod order;
mod pacer;
mod running;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::seq::SliceRandom as _;
use tokio::{
    sync::Notify,
    time::{self, Duration, Instant},
};

pub(crate) use self::{
    api::serve,
    events::Events,
    running::{Notice, Tally},
};
use self::{
    order::Order,
    pacer::{Manner, Step},
    running::{Progress, Running, State},
};
use crate::{
    server::App,
    session::{Goodbye, SharedPeer},
};

/// The drain side of a server.
#[derive(Debug)]
pub(crate) struct Drain {
    running: Mutex<Option<Running<SharedPeer>>>,
    changed: Notify,
    /// Times are durations since here.
    start: Instant,
}

/// An order that was cancelled is not started again.
#[derive(Debug, thiserror::Error)]
#[error("this order was cancelled; a new one needs a new id")]
pub(crate) struct WasCancelled;

// === impl Drain ===

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            running: Mutex::default(),
            changed: Notify::new(),
            start: Instant::now(),
        }
    }

    /// Starts an order, or renews it if it is the running one. A new order takes the place of an older one.
    fn put(&self, order: Order, app: &App) -> Result<Progress, WasCancelled> {
        let now = self.now();
        let mut slot = self.lock();
        match slot.as_mut() {
            Some(running) if running.order.id == order.id && running.is_cancelled() => {
                return Err(WasCancelled);
            }
            Some(running) if running.order.id == order.id => running.renew(&order, now),
            _ => {
                let mut peers = app.registry.peers();
                peers.shuffle(&mut rand::rng());
                // Whoever an older order told already keeps its turn there and is not told twice.
                peers.retain(|peer| peer.told.get().is_none());
                peers.truncate(order.select.count_of(peers.len()));
                let sessions = peers
                    .into_iter()
                    .map(|peer| (Arc::clone(&peer), manner(&peer, app)))
                    .collect();
                tracing::info!(order = order.id, rate = order.rate, "drain order started");
                let mut running = Running::start(order, now, sessions);
                if let Some(earlier) = slot.take() {
                    running.pacer.inherit(earlier.pacer);
                }
                *slot = Some(running);
            }
        }
        let progress = slot.as_ref().map(|running| running.progress(now));
        drop(slot);
        self.changed.notify_one();
        // There is one: it was put there above.
        progress.ok_or(WasCancelled)
    }

    /// Cancels the order of this id; false if there is none.
    fn delete(&self, id: &str) -> bool {
        let mut slot = self.lock();
        let Some(running) = slot.as_mut().filter(|running| running.order.id == id) else {
            return false;
        };
        running.cancel();
        drop(slot);
        tracing::info!(order = id, "drain order cancelled");
        self.changed.notify_one();
        true
    }

    /// How far the running or last order has come.
    fn progress(&self) -> Option<Progress> {
        let now = self.now();
        let mut slot = self.lock();
        let running = slot.as_mut()?;
        running.pacer.sweep(|peer| peer.is_closed());
        Some(running.progress(now))
    }

    /// Something that orders heed has changed.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// A socket has opened.
    pub(crate) fn opened(&self, peer: &SharedPeer, app: &App) {
        if let Some(running) = self.lock().as_mut() {
            running.add(Arc::clone(peer), manner(peer, app));
            self.changed.notify_one();
        }
    }

    /// The code and id of the order under which `peer` stands, if any: it was told, or an order is at work here.
    pub(crate) fn code_for(&self, peer: &crate::session::Peer) -> Option<(u16, String)> {
        let slot = self.lock();
        let live = slot
            .as_ref()
            .filter(|running| running.is_live(self.now()))
            .map(|running| &running.tally);
        peer.told
            .get()
            .or(live)
            .map(|tally| (tally.close_code, tally.id.clone()))
    }

    /// The close code of the order that is at work, if one is. A paused one is not: nobody is there to renew it.
    pub(crate) fn active_code(&self) -> Option<u16> {
        let now = self.now();
        let slot = self.lock();
        let running = slot
            .as_ref()
            .filter(|running| running.state(now) == State::Active)?;
        Some(running.order.close_code)
    }

    /// Works on orders for as long as the server runs.
    pub(crate) async fn run(&self, app: &App) {
        loop {
            let due = self.step(app);
            let wake = async {
                match due {
                    Some(due) => time::sleep_until(self.start + due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wake => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Does what is due, and says when the next is.
    fn step(&self, app: &App) -> Option<Duration> {
        let now = self.now();
        let mut slot = self.lock();
        let running = slot.as_mut()?;
        running.heed(now, |peer| {
            let until = peer.busy_until()?.saturating_duration_since(self.start);
            (until > now).then_some(until)
        });
        for step in running.poll(now, |peer| peer.is_closed()) {
            match step {
                Step::Notice(peer) => {
                    let overlaps = peer.overlaps && app.config.make_before_break;
                    let notice = running.notice(&peer.session, app.config.store.ttl(), overlaps);
                    let _ = peer.told.set(Arc::clone(&running.tally));
                    peer.mailbox.post_notice(notice);
                }
                Step::Close(peer) => {
                    let tally = Arc::clone(peer.told.get_or_init(|| Arc::clone(&running.tally)));
                    peer.mailbox.post_goodbye(Goodbye::Drain {
                        code: tally.close_code,
                        order: tally.id.clone(),
                        forced: running.deadline_passed(),
                    });
                }
            }
        }
        running.next_due()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running<SharedPeer>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn manner(peer: &SharedPeer, app: &App) -> Manner {
    match (
        peer.mute,
        peer.takes_notices,
        peer.overlaps && app.config.make_before_break,
    ) {
        (true, ..) | (_, false, _) => Manner::Untold,
        (_, true, false) => Manner::Told,
        (_, true, true) => Manner::Overlapping,
    }
}
