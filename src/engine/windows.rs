//! Windows: while a wave's clients come back, the new revision gets every new connection, so that each of them is moved once
//! without a hint.
//!
//! The pods leave rotation first. Then the window is written to status, and weight 100 is asked for; orders are given when the
//! gateway was seen to follow, for as many seconds as leave time for the last to come back; then the step's weight returns: when
//! all are back, at the latest at `until`, and at once where a wave is dropped (a pause, a rollback).

use std::time::Duration;

use super::plan::{Action, Note};
use super::wave;
use super::work::Work;
use crate::api::status::{State, Wave, Window};

/// A window is open for so long at most.
const LONGEST: Duration = Duration::from_secs(10);
/// Orders run for so long of it: who was told last has its place within 2 s, and as much time to come back.
const ORDERS: Duration = Duration::from_secs(6);
/// Sessions of so many seconds at the pace are asked in one window: the first places are 2 s after the order.
const MOVES: Duration = Duration::from_secs(4);
/// A gateway that follows more slowly would keep the window open for longer than it moves anybody.
pub(super) const SLOWEST_GATEWAY_MS: u64 = 2_000;

impl Work<'_> {
    /// Sessions that one window may move.
    pub(super) fn window_holds(&self) -> u64 {
        (self.terms(false).usable() * MOVES.as_secs_f64())
            .floor()
            .max(1.0) as u64
    }

    /// The weight that the step asks for, whatever a window does to it now.
    pub(super) fn step_weight(&self) -> i32 {
        let window = self.status.wave.as_ref().and_then(|w| w.window.as_ref());
        window.map_or_else(|| self.desired_weight(), |window| window.weight)
    }

    /// Opens, watches and closes the window of the wave that is under way. Runs before anything else is decided: an old window is
    /// closed first.
    pub(super) fn windows(&mut self) {
        let Some(mut wave) = self.status.wave.take_if(|w| w.windowed) else {
            return;
        };
        match wave.window.take() {
            None => self.open_window(&mut wave),
            Some(window) => self.watch_window(&mut wave, window),
        }
        self.status.wave = Some(wave);
    }

    /// Whether a windowed wave may give orders now.
    pub(super) fn window_is_open(&self, wave: &Wave) -> bool {
        let open = wave.window.as_ref().and_then(|w| w.open_since);
        open.is_some_and(|at| self.since(at) < ORDERS)
    }

    fn open_window(&mut self, wave: &mut Wave) {
        let settle = self.settle();
        let out = |pod: &crate::api::status::WavePod| {
            pod.done_at.is_some() || pod.left_at.is_some_and(|at| self.since(at) >= settle)
        };
        let ready = wave.pods.iter().all(out) && self.canary().in_rotation() > 0;
        let moving = matches!(self.state(), State::Moving(_));
        if !ready || !moving || self.earlier_orders(wave) {
            return;
        }
        let follow = Duration::from_millis(2 * SLOWEST_GATEWAY_MS);
        let until = jiff::SignedDuration::try_from(follow + LONGEST).unwrap_or_default();
        wave.window = Some(Window {
            weight: self.desired_weight(),
            since: self.now,
            open_since: None,
            until: self.now.saturating_add(until).unwrap_or(self.now),
        });
        self.ask_weight(100);
    }

    fn watch_window(&mut self, wave: &mut Wave, mut window: Window) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        if window.open_since.is_none() && self.weight_is_programmed() && self.weight_is(&release, 100) {
            window.open_since = Some(self.now);
            let end = jiff::SignedDuration::try_from(LONGEST).unwrap_or_default();
            let end = self.now.saturating_add(end).unwrap_or(self.now);
            window.until = window.until.min(end);
        }
        let over = self.now >= window.until;
        let last = wave.pods.iter().filter_map(|p| p.done_at).max();
        let done = wave.pods.iter().all(|p| p.done_at.is_some());
        let back = self.terms(false).reconnect_window.max(wave::LONGEST_LEAD);
        let returned = done && last.is_some_and(|at| self.since(at) >= back);
        // Weight goes back to pods that can take it.
        let takes = self.stable().in_rotation() > 0;
        if !((over || returned) && takes) {
            if window.open_since.is_some_and(|at| self.since(at) >= ORDERS) {
                self.cancel_orders(wave);
            }
            wave.window = Some(window);
            return;
        }
        if window.open_since.is_none() {
            let took = self.since(window.since).as_millis() as u64;
            self.notes.push(Note::warning(
                "WindowNotOpened",
                format!(
                    "the gateway did not follow within {took} ms: steps before the last move nobody any more"
                ),
            ));
            if let Some(release) = self.status.release.as_mut() {
                release.programming_ms = Some(took.max(SLOWEST_GATEWAY_MS + 1));
            }
        }
        self.ask_weight(window.weight);
        wave.windowed = false;
        if !done {
            // Who was not moved stays for the next window.
            self.cancel_orders(wave);
            self.end_unmoved(wave);
        }
    }

    /// Who was told stays told; the rest stay.
    fn cancel_orders(&mut self, wave: &Wave) {
        for pod in self.obs.revision(&wave.revision).live() {
            let Some(order) = pod.sessions.as_ref().and_then(|s| s.drain.as_ref()) else {
                continue;
            };
            let works = matches!(order.state.as_str(), "active" | "paused");
            if works && order.id == wave::order_id(wave, &pod.uid) {
                self.actions.push(Action::CancelOrder {
                    pod: pod.name.clone(),
                    uid: pod.uid.clone(),
                    id: order.id.clone(),
                });
            }
        }
    }

    /// Forgets the pods that still hold sessions: they return to rotation, and what was not moved counts as not asked.
    fn end_unmoved(&mut self, wave: &mut Wave) {
        let (done, unmoved): (Vec<_>, Vec<_>) = wave.pods.drain(..).partition(|p| p.done_at.is_some());
        wave.pods = done;
        if let Some(drain) = &mut self.status.drain {
            for pod in unmoved {
                let asked = pod.count.or(pod.sessions).unwrap_or_default();
                drain.total -= (asked - pod.closed_clean - pod.closed_forced).max(0);
            }
            drain.total = drain.total.max(0);
        }
    }
}
