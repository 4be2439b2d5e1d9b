//! Letting go of sessions when the operator asks, or when the pod is about to end: orders in, notices and paced closes out.
//!
//! One order runs at a time. `order` reads and checks it, `running` keeps its lease and deadline, `pacer` says who goes
//! when, `gate` how many; this file holds them together and is the only part that knows the clock.

mod gate;
mod notice;
pub(super) mod order;
mod pacer;
mod running;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::sync::Notify;
use tokio::time;

use self::pacer::{Standing, Step};
pub use self::running::Tally;
pub(super) use self::running::Went;
use self::running::{Haste, Running};
use super::Proxy;
use super::clock::millis;
use super::peer::{Goodbye, Mail, Peer, Why};
use crate::drain::protocol::{DrainOrder, DrainProgress, Mode, OnDeadline, Reason, Reconnect, Select};

/// The id of the order that a pod gives itself when it is about to end.
const OWN_ORDER: &str = "wsroll-shutdown";

/// The drain side of a sidecar.
#[derive(Debug, Default)]
pub(super) struct Drain {
    slot: Mutex<Slot>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    running: Option<Running<Arc<Peer>>>,
    /// The pod is about to end.
    haste: Option<Haste>,
}

/// An order that was cancelled is not started again.
#[derive(Debug, thiserror::Error)]
#[error("this order was cancelled; a new one needs a new id")]
pub(super) struct WasCancelled;

// === impl Drain ===

impl Drain {
    /// Starts an order, or renews it if it is the running one. A new order takes the place of an older one.
    pub(super) fn put(&self, order: DrainOrder, proxy: &Proxy) -> Result<DrainProgress, WasCancelled> {
        let now = proxy.clock.now();
        let mut slot = self.lock();
        let Slot { running, haste } = &mut *slot;
        let progress = match running {
            Some(same) if same.order.id == order.id && same.is_cancelled() => return Err(WasCancelled),
            Some(same) if same.order.id == order.id => {
                same.renew(&order, now);
                same.progress(now)
            }
            _ => {
                let sessions = selected(&order, proxy);
                tracing::info!(order = order.id, sessions = sessions.len(), "drain order started");
                let mut started = Running::start(order, *haste, now, sessions);
                if let Some(earlier) = running.take() {
                    started.pacer.inherit(earlier.pacer);
                }
                running.insert(started).progress(now)
            }
        };
        drop(slot);
        self.changed.notify_one();
        Ok(progress)
    }

    /// Cancels the order of this id; none if there is none.
    pub(super) fn delete(&self, id: &str, proxy: &Proxy) -> Option<DrainProgress> {
        let mut slot = self.lock();
        let running = slot.running.as_mut().filter(|running| running.order.id == id)?;
        running.cancel();
        let progress = running.progress(proxy.clock.now());
        drop(slot);
        tracing::info!(order = id, "drain order cancelled");
        self.changed.notify_one();
        Some(progress)
    }

    /// The pod is about to end: everybody goes, at least as fast as the settings say and as the time left asks for.
    pub(super) fn hasten(&self, proxy: &Proxy) {
        let shutdown = &proxy.settings.shutdown;
        let now = proxy.clock.now();
        let in_time = proxy.registry.len() as f64 / shutdown.within.as_secs_f64().max(0.001);
        let haste = Haste {
            rate: shutdown.rate_per_second.max(in_time.ceil()).min(10_000.0),
        };
        let mut slot = self.lock();
        slot.haste = Some(haste);
        let everybody =
            |running: &Running<_>| running.order.select == Select::All {} && !running.is_cancelled();
        if let Some(running) = slot.running.as_mut().filter(|running| everybody(running)) {
            running.hasten(haste, now);
            drop(slot);
            self.changed.notify_one();
        } else {
            drop(slot);
            // It cannot have been cancelled: nobody else knows it.
            let _ = self.put(own_order(proxy), proxy);
        }
    }

    /// Whether the pod is about to end.
    pub(super) fn is_ending(&self) -> bool {
        self.lock().haste.is_some()
    }

    /// How far the running or last order has come.
    pub(super) fn progress(&self, proxy: &Proxy) -> Option<DrainProgress> {
        let mut slot = self.lock();
        let running = slot.running.as_mut()?;
        running.pacer.forget(|peer| peer.is_gone());
        Some(running.progress(proxy.clock.now()))
    }

    /// Whether an order for all sessions is at work: then nobody is to be bound to this pod.
    pub(super) fn is_emptying(&self) -> bool {
        let slot = self.lock();
        let all = |running: &Running<_>| running.order.select == Select::All {} && !running.is_cancelled();
        slot.haste.is_some() || slot.running.as_ref().is_some_and(all)
    }

    /// A session has begun.
    pub(super) fn opened(&self, peer: &Arc<Peer>) {
        if let Some(running) = self.lock().running.as_mut() {
            running.add(Arc::clone(peer));
            self.changed.notify_one();
        }
    }

    /// Works on orders for as long as the sidecar runs.
    pub(super) async fn run(&self, proxy: &Proxy) {
        loop {
            let due = self.step(proxy);
            let wake = async {
                match due {
                    Some(due) => time::sleep_until(proxy.clock.instant(due)).await,
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
    fn step(&self, proxy: &Proxy) -> Option<Duration> {
        let now = proxy.clock.now();
        let mut slot = self.lock();
        let running = slot.running.as_mut()?;
        let look = |peer: &Arc<Peer>| standing(peer, proxy, millis(now));
        for step in running.poll(now, look, |peer| peer.notice.is_some()) {
            match step {
                Step::Notice(peer) => tell(&peer, running, proxy),
                Step::Close(peer) if running.deadline_passed() => close(&peer, running, proxy, Why::Forced),
                Step::Close(peer) => close(&peer, running, proxy, Why::Turn),
                Step::Dormant(peer) => close(&peer, running, proxy, Why::Dormant),
            }
        }
        running.next_due()
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions that an order means, in random order. Whoever an older order told keeps its turn there and is not told
/// twice.
fn selected(order: &DrainOrder, proxy: &Proxy) -> Vec<Arc<Peer>> {
    let mut peers = proxy.registry.peers();
    peers.shuffle(&mut rand::rng());
    peers.retain(|peer| peer.told.get().is_none());
    peers.truncate(order::count_of(order.select, peers.len()));
    peers
}

fn standing(peer: &Peer, proxy: &Proxy, now_ms: u64) -> Standing {
    if peer.is_gone() {
        return Standing::Gone;
    }
    if proxy.is_dormant(peer, now_ms) {
        return Standing::Dormant;
    }
    let idle_ms = millis(proxy.settings.idle_for);
    if peer.is_in_message() || now_ms.saturating_sub(peer.data_ms()) < idle_ms {
        return Standing::Busy;
    }
    Standing::Ready
}

fn tell(peer: &Arc<Peer>, running: &Running<Arc<Peer>>, proxy: &Proxy) {
    let notice = peer
        .notice
        .and_then(|at| proxy.settings.notices.get(usize::from(at)));
    let code = code(peer, running.order.close_code, proxy);
    let Some(text) = notice.and_then(|notice| notice::text(notice, &running.order, code)) else {
        return;
    };
    let _ = peer.told.set(Arc::clone(&running.tally));
    running.tally.notified();
    peer.post(Mail::Notice(text.into()));
}

fn close(peer: &Arc<Peer>, running: &Running<Arc<Peer>>, proxy: &Proxy, why: Why) {
    let _ = peer.told.set(Arc::clone(&running.tally));
    let code = code(peer, running.order.close_code, proxy);
    peer.post(Mail::Close(Goodbye { code, why }));
}

/// The close code toward a client: its subprotocol's own, or the order's.
fn code(peer: &Peer, ordered: u16, proxy: &Proxy) -> u16 {
    let own = proxy.codes(peer).and_then(|codes| codes.client);
    own.unwrap_or(ordered)
}

fn own_order(proxy: &Proxy) -> DrainOrder {
    let shutdown = &proxy.settings.shutdown;
    DrainOrder {
        id: OWN_ORDER.to_owned(),
        reason: Reason::NodeDrain,
        select: Select::All {},
        mode: Mode::Ask,
        rate_per_second: shutdown.rate_per_second,
        lease_seconds: 86_400,
        deadline_ms: None,
        on_deadline: OnDeadline::Wait,
        // Nothing but the pod's own end is known: clients come back as soon as their place is.
        reconnect: Reconnect::default(),
        close_code: shutdown.close_code,
    }
}
