//! Lets sessions through at a rate. Pure: times are durations since any fixed moment, given by the caller.

use std::collections::VecDeque;
use std::time::Duration;

/// How far late wake-ups are caught up with; what was missed beyond it is not.
const SLACK: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);

/// Lets through at most `rate` per second, evenly, and in any one second (sliding, so also aligned) at most
/// `ceil(rate)`, however late it is asked.
#[derive(Debug)]
pub(super) struct Gate {
    interval: Duration,
    /// How many may pass within one second.
    most: usize,
    next: Duration,
    /// When those of the last second passed.
    passed: VecDeque<Duration>,
}

// === impl Gate ===

impl Gate {
    /// A gate whose first passage is at `start`.
    pub(super) fn new(rate: f64, start: Duration) -> Self {
        Self {
            interval: interval(rate),
            most: most(rate),
            next: start,
            passed: VecDeque::new(),
        }
    }

    /// When the next may pass.
    pub(super) fn ready_at(&self) -> Duration {
        match self.passed.len().checked_sub(self.most) {
            Some(at) => self.next.max(self.passed[at] + SECOND),
            None => self.next,
        }
    }

    /// Passes one if it is time.
    pub(super) fn pass(&mut self, now: Duration) -> bool {
        let ready = self.ready_at();
        if ready > now {
            return false;
        }
        // From when it should have been, so that lateness does not add up.
        self.next = ready.max(now.saturating_sub(SLACK)) + self.interval;
        self.passed.push_back(now);
        while self.passed.front().is_some_and(|at| *at + SECOND <= now) {
            self.passed.pop_front();
        }
        true
    }

    /// Changes the rate; those still to come are spaced by it from the last one that passed.
    pub(super) fn set_rate(&mut self, rate: f64) {
        let interval = interval(rate);
        if !self.passed.is_empty() {
            self.next = (self.next + interval).saturating_sub(self.interval);
        }
        self.interval = interval;
        self.most = most(rate);
    }

    /// Nothing that was due before `now` is caught up with.
    pub(super) fn restart(&mut self, now: Duration) {
        self.next = self.next.max(now);
    }

    /// The next may pass at `at`, if not earlier.
    pub(super) fn start_by(&mut self, at: Duration) {
        self.next = self.next.min(at);
    }

    /// Goes on from an earlier gate: what passed there counts here.
    pub(super) fn inherit(&mut self, earlier: Self) {
        self.passed = earlier.passed;
    }
}

fn interval(rate: f64) -> Duration {
    Duration::from_secs_f64(1.0 / rate)
}

fn most(rate: f64) -> usize {
    (rate.ceil() as usize).max(1)
}
