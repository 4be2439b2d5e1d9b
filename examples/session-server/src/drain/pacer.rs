//! When each session of a drain order goes. Pure: times are durations since any fixed moment, given by the caller.
//!
//! Sessions get *places*, spaced by `1 / rate`. At its place a session is told; `lead` later its socket closes, so the
//! clients' new connects come spaced like the places. A client that opens its new socket first (it overlaps) does so
//! `lead` after its notice by itself, and closes nothing until it is done; if it has not left after a grace, it gets a
//! place like everybody who cannot be told.

use std::{collections::VecDeque, time::Duration};

/// How far late wake-ups are caught up with; what was missed beyond it is not.
const SLACK: Duration = Duration::from_millis(250);
/// How long a client that overlaps may take for its new socket.
pub(crate) const OVERLAP_GRACE: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

/// Lets through at most `rate` per second, evenly, and in any one second (sliding, so also aligned) at most
/// `ceil(rate)`, however late it is asked.
#[derive(Debug)]
pub(crate) struct Gate {
    interval: Duration,
    /// How many may pass in one second.
    most: usize,
    next: Duration,
    /// When the last ones passed, at most `most`.
    passed: VecDeque<Duration>,
}

/// How a session is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It gets no notice, only its close.
    Untold,
    /// It gets a notice, and waits for its close.
    Told,
    /// It gets a notice, and opens its new socket first.
    Overlapping,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<T> {
    /// Tell it that its turn is `lead` from now.
    Notice(T),
    /// Close it.
    Close(T),
}

/// The sessions of an order.
#[derive(Debug)]
pub(crate) struct Pacer<T> {
    lead: Duration,
    places: Gate,
    closes: Gate,
    waiting: VecDeque<(T, Manner)>,
    /// With the time when each closes, earliest first.
    told: VecDeque<(T, Manner, Duration)>,
    /// With the time when patience ends, earliest first.
    overlapping: VecDeque<(T, Duration)>,
    /// Busy for now, with the time until when.
    resting: Vec<(T, Manner, Duration)>,
}

// === impl Gate ===

impl Gate {
    /// A gate whose first passage is at `start`.
    pub(crate) fn new(rate: f64, start: Duration) -> Self {
        let mut gate = Self {
            interval: Duration::ZERO,
            most: 1,
            next: start,
            passed: VecDeque::new(),
        };
        gate.set_rate(rate);
        gate
    }

    /// When the next may pass.
    pub(crate) fn ready_at(&self) -> Duration {
        match self.passed.front() {
            Some(oldest) if self.passed.len() >= self.most => self.next.max(*oldest + SECOND),
            _ => self.next,
        }
    }

    /// Passes one if it is time.
    pub(crate) fn pass(&mut self, now: Duration) -> bool {
        let ready = self.ready_at();
        if ready > now {
            return false;
        }
        // From when it should have been, so that lateness does not add up.
        self.next = ready.max(now.saturating_sub(SLACK)) + self.interval;
        self.passed.push_back(now);
        while self.passed.len() > self.most {
            self.passed.pop_front();
        }
        true
    }

    /// Changes the rate; those still to come are spaced by it from the last one that passed.
    pub(crate) fn set_rate(&mut self, rate: f64) {
        let interval = Duration::from_secs_f64(1.0 / rate);
        if !self.passed.is_empty() {
            self.next = (self.next + interval).saturating_sub(self.interval);
        }
        self.interval = interval;
        self.most = (rate.ceil() as usize).max(1);
        while self.passed.len() > self.most {
            self.passed.pop_front();
        }
    }

    /// Nothing that was due before `now` is caught up with.
    fn restart(&mut self, now: Duration) {
        self.next = self.next.max(now);
    }
}

// === impl Pacer ===

impl<T> Pacer<T> {
    /// An order's sessions from `start` on; `sessions` are in random order already.
    pub(crate) fn new(
        rate: f64,
        lead: Duration,
        start: Duration,
        sessions: impl IntoIterator<Item = (T, Manner)>,
    ) -> Self {
        Self {
            lead,
            places: Gate::new(rate, start),
            closes: Gate::new(rate, start + lead),
            waiting: sessions.into_iter().collect(),
            told: VecDeque::new(),
            overlapping: VecDeque::new(),
            resting: Vec::new(),
        }
    }

    /// Skips those that are busy, and takes those back that are not any more: they are next. `busy` says until when.
    pub(crate) fn rest(&mut self, busy: impl Fn(&T) -> Option<Duration>) {
        for (session, manner, _) in std::mem::take(&mut self.resting) {
            self.waiting.push_front((session, manner));
        }
        let mut rest = VecDeque::with_capacity(self.waiting.len());
        for (session, manner) in std::mem::take(&mut self.waiting) {
            match busy(&session) {
                Some(until) => self.resting.push((session, manner, until)),
                None => rest.push_back((session, manner)),
            }
        }
        self.waiting = rest;
    }

    /// How many are busy.
    pub(crate) fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Does what is due. `open` is whether sessions may be told at all; `gone` are skipped and cost no place.
    pub(crate) fn poll(&mut self, now: Duration, open: bool, gone: impl Fn(&T) -> bool) -> Vec<Step<T>>
    where
        T: Clone,
    {
        let mut steps = Vec::new();
        self.overlapping.retain(|(session, _)| !gone(session));
        while let Some((session, _)) = self.overlapping.pop_front_if(|(_, until)| *until <= now) {
            self.waiting.push_front((session, Manner::Untold));
        }
        if open {
            self.tell(now, &gone, &mut steps);
        }
        self.told.retain(|(session, ..)| !gone(session));
        while self.told.front().is_some_and(|(.., at)| *at <= now) && self.closes.pass(now) {
            if let Some((session, ..)) = self.told.pop_front() {
                steps.push(Step::Close(session));
            }
        }
        steps
    }

    /// Gives places to those whose turn it is.
    fn tell(&mut self, now: Duration, gone: impl Fn(&T) -> bool, steps: &mut Vec<Step<T>>)
    where
        T: Clone,
    {
        loop {
            while self.waiting.pop_front_if(|(session, _)| gone(session)).is_some() {}
            if self.waiting.is_empty() {
                return;
            }
            if !self.places.pass(now) {
                return;
            }
            let Some((session, manner)) = self.waiting.pop_front() else {
                return;
            };
            if manner != Manner::Untold {
                steps.push(Step::Notice(session.clone()));
            }
            if manner == Manner::Overlapping {
                self.overlapping
                    .push_back((session, now + self.lead + OVERLAP_GRACE));
            } else {
                self.told.push_back((session, manner, now + self.lead));
            }
        }
    }

    /// When to poll again if nothing else happens.
    pub(crate) fn next_due(&self, open: bool) -> Option<Duration> {
        let place = (open && !self.waiting.is_empty()).then(|| self.places.ready_at());
        let close = self.told.front().map(|(.., at)| self.closes.ready_at().max(*at));
        let grace = self.overlapping.front().map(|(_, until)| *until);
        let idle = self
            .resting
            .iter()
            .map(|(.., until)| *until)
            .min()
            .filter(|_| open);
        [place, close, grace, idle].into_iter().flatten().min()
    }

    /// Adds a session that came late.
    pub(crate) fn add(&mut self, session: T, manner: Manner) {
        self.waiting.push_back((session, manner));
    }

    /// Re-spaces all that is still to come.
    pub(crate) fn set_rate(&mut self, rate: f64) {
        self.places.set_rate(rate);
        self.closes.set_rate(rate);
    }

    /// Pauses: those who were told keep their turn, those who know of nothing go back to waiting.
    pub(crate) fn pause(&mut self) {
        let (told, untold) = std::mem::take(&mut self.told)
            .into_iter()
            .partition(|(_, m, _)| *m == Manner::Told);
        self.told = told;
        let untold: VecDeque<_> = untold;
        for (session, manner, _) in untold.into_iter().rev() {
            self.waiting.push_front((session, manner));
        }
    }

    /// Goes on after a pause; what was missed is not made up for.
    pub(crate) fn resume(&mut self, now: Duration) {
        self.places.restart(now);
    }

    /// Lets all go who were not told.
    pub(crate) fn cancel(&mut self) {
        self.pause();
        self.waiting.clear();
        self.resting.clear();
    }

    /// Takes over those whom an earlier order has told already; they keep their turn.
    pub(crate) fn inherit(&mut self, mut earlier: Self) {
        earlier.cancel();
        self.told = earlier.told;
        self.overlapping = earlier.overlapping;
        self.places.passed.clone_from(&earlier.places.passed);
        self.closes.passed = earlier.closes.passed;
        self.closes.next = self.closes.next.min(earlier.closes.next);
    }

    /// Whether nobody is left to be told or closed.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty()
            && self.told.is_empty()
            && self.overlapping.is_empty()
            && self.resting.is_empty()
    }

    /// Drops those who are gone.
    pub(crate) fn sweep(&mut self, gone: impl Fn(&T) -> bool) {
        self.waiting.retain(|(session, _)| !gone(session));
        self.told.retain(|(session, ..)| !gone(session));
        self.overlapping.retain(|(session, _)| !gone(session));
        self.resting.retain(|(session, ..)| !gone(session));
    }
}

#[cfg(test)]
#[path = "pacer_tests.rs"]
mod tests;
