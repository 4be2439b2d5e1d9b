//! When each session of a drain order goes. Pure like the gate.
//!
//! Sessions get *places*, spaced by `1 / rate`. At its place a session is told, if it can be; `lead` later it is closed.
//! So the clients' new connects come spaced like the places, whether they left upon the notice or upon the close.

use std::collections::VecDeque;
use std::time::Duration;

use super::gate::Gate;

/// How often sessions that are busy are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often dormant ones are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It can go.
    Ready,
    /// It is not to be disturbed now.
    Busy,
    /// Nobody is there: it costs no place.
    Dormant,
    /// It has left.
    Gone,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<T> {
    /// Tell it that its turn is `lead` from now.
    Notice(T),
    /// Close it.
    Close(T),
    /// Close it: nobody is there.
    Dormant(T),
}

/// The sessions of an order.
#[derive(Debug)]
pub(super) struct Pacer<T> {
    lead: Duration,
    places: Gate,
    closes: Gate,
    waiting: VecDeque<T>,
    /// Those that had their place, whether they were told, and when each closes; earliest first.
    placed: VecDeque<(T, bool, Duration)>,
    /// How many of those who wait were busy at the last look.
    busy: usize,
    look_at: Duration,
    sweep_at: Duration,
}

// === impl Pacer ===

impl<T: Clone> Pacer<T> {
    /// An order's sessions from `start` on; `sessions` are in random order already.
    pub(super) fn new(
        rate: f64,
        lead: Duration,
        start: Duration,
        sessions: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            lead,
            places: Gate::new(rate, start),
            closes: Gate::new(rate, start + lead),
            waiting: sessions.into_iter().collect(),
            placed: VecDeque::new(),
            busy: 0,
            look_at: Duration::ZERO,
            sweep_at: start,
        }
    }

    /// Does what is due. `open` is whether sessions may be given places at all; `told` whether one gets a notice.
    pub(super) fn poll(
        &mut self,
        now: Duration,
        open: bool,
        look: impl Fn(&T) -> Standing,
        told: impl Fn(&T) -> bool,
    ) -> Vec<Step<T>> {
        let mut steps = Vec::new();
        if open {
            self.sweep(now, &look, &mut steps);
            self.place(now, &look, told, &mut steps);
        }
        self.close(now, open, &look, &mut steps);
        steps
    }

    /// Lets dormant sessions go, and forgets those that are gone.
    fn sweep(&mut self, now: Duration, look: impl Fn(&T) -> Standing, steps: &mut Vec<Step<T>>) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + SWEEP;
        self.waiting.retain(|session| match look(session) {
            Standing::Ready | Standing::Busy => true,
            Standing::Gone => false,
            Standing::Dormant => {
                steps.push(Step::Dormant(session.clone()));
                false
            }
        });
    }

    /// Gives places to those whose turn it is. Who is busy goes back to the end.
    fn place(
        &mut self,
        now: Duration,
        look: impl Fn(&T) -> Standing,
        told: impl Fn(&T) -> bool,
        steps: &mut Vec<Step<T>>,
    ) {
        if now < self.look_at {
            return;
        }
        self.look_at = Duration::ZERO;
        let mut skipped = 0;
        while skipped < self.waiting.len() && self.places.ready_at() <= now {
            let Some(session) = self.waiting.pop_front() else {
                break;
            };
            match look(&session) {
                Standing::Gone => {}
                Standing::Dormant => steps.push(Step::Dormant(session)),
                Standing::Busy => {
                    self.waiting.push_back(session);
                    skipped += 1;
                }
                Standing::Ready => {
                    self.places.pass(now);
                    let told = told(&session);
                    if told {
                        steps.push(Step::Notice(session.clone()));
                    }
                    self.placed.push_back((session, told, now + self.lead));
                }
            }
        }
        self.busy = skipped;
        if skipped > 0 && skipped == self.waiting.len() {
            self.look_at = now + LOOK_AGAIN;
            // Places that nobody could take are not made up for.
            self.places.restart(now);
        }
    }

    /// Closes those whose time has come. Who was not told and has become busy goes back to waiting.
    fn close(&mut self, now: Duration, open: bool, look: impl Fn(&T) -> Standing, steps: &mut Vec<Step<T>>) {
        self.placed
            .retain(|(session, ..)| look(session) != Standing::Gone);
        while self.placed.front().is_some_and(|(.., at)| *at <= now) {
            let busy =
                |(session, told, _): &(T, bool, Duration)| open && !told && look(session) == Standing::Busy;
            if self.placed.front().is_some_and(busy) {
                let back = self.placed.pop_front();
                self.waiting.extend(back.map(|(session, ..)| session));
                continue;
            }
            if !self.closes.pass(now) {
                return;
            }
            let next = self.placed.pop_front();
            steps.extend(next.map(|(session, ..)| Step::Close(session)));
        }
    }

    /// When to poll again if nothing else happens.
    pub(super) fn next_due(&self, open: bool) -> Option<Duration> {
        let waits = open && !self.waiting.is_empty();
        let place = waits.then(|| self.places.ready_at().max(self.look_at));
        let sweep = waits.then_some(self.sweep_at);
        let close = self
            .placed
            .front()
            .map(|(.., at)| self.closes.ready_at().max(*at));
        [place, sweep, close].into_iter().flatten().min()
    }

    /// Adds a session that came late.
    pub(super) fn add(&mut self, session: T) {
        self.waiting.push_back(session);
    }

    /// Re-spaces all that is still to come.
    pub(super) fn set_rate(&mut self, rate: f64) {
        self.places.set_rate(rate);
        self.closes.set_rate(rate);
    }

    /// Pauses: those who were told keep their turn, those who know of nothing go back to waiting.
    pub(super) fn pause(&mut self) {
        let placed = std::mem::take(&mut self.placed);
        let (told, untold): (VecDeque<_>, VecDeque<_>) = placed.into_iter().partition(|(_, told, _)| *told);
        self.placed = told;
        for (session, ..) in untold.into_iter().rev() {
            self.waiting.push_front(session);
        }
    }

    /// Goes on after a pause; what was missed is not made up for.
    pub(super) fn resume(&mut self, now: Duration) {
        self.places.restart(now);
    }

    /// Lets all stay who were not told.
    pub(super) fn cancel(&mut self) {
        self.pause();
        self.waiting.clear();
        self.busy = 0;
    }

    /// Takes over those whom an earlier order has told already; they keep their turn, and what passed there counts.
    pub(super) fn inherit(&mut self, mut earlier: Self) {
        earlier.cancel();
        self.placed = earlier.placed;
        self.places.inherit(earlier.places);
        self.closes.inherit(earlier.closes);
        if let Some((.., at)) = self.placed.front() {
            self.closes.start_by(*at);
        }
    }

    /// How many were busy at the last look.
    pub(super) fn busy(&self) -> usize {
        self.busy.min(self.waiting.len())
    }

    /// Whether nobody is left to be told or closed.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.placed.is_empty()
    }

    /// Drops those who are gone.
    pub(super) fn forget(&mut self, gone: impl Fn(&T) -> bool) {
        self.waiting.retain(|session| !gone(session));
        self.placed.retain(|(session, ..)| !gone(session));
    }
}

#[cfg(test)]
#[path = "pacer_tests.rs"]
mod tests;
