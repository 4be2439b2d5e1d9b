//! Time as the proxy counts it: milliseconds since it started, small enough for an atomic.

use std::time::Duration;

use tokio::time::Instant;

/// Counts from its making.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// Since the start, milliseconds.
    pub fn now_ms(&self) -> u64 {
        millis(self.now())
    }

    /// The instant at which so much has passed since the start.
    pub fn instant(&self, at: Duration) -> Instant {
        self.0 + at
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
