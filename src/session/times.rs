//! How long connects took, collected from all sessions of a fleet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::dial::Phases;

/// Most connects that are kept; later ones are only counted.
const MAX_KEPT: usize = 100_000;

/// Times of connects, until somebody takes them.
#[derive(Debug, Clone, Default)]
pub struct Times(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    count: u64,
    times: Vec<Timed>,
}

/// One connect that ended with the session restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// From the first dial until the first message came back.
    pub since_dial: Duration,
    /// The parts of the attempt that worked.
    pub phases: Phases,
}

impl Times {
    pub(super) fn add(&self, timed: Timed) {
        let mut kept = self.lock();
        kept.count += 1;
        if kept.times.len() < MAX_KEPT {
            kept.times.push(timed);
        }
    }

    /// Connects so far.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// What was collected since the last time.
    pub fn take(&self) -> Vec<Timed> {
        std::mem::take(&mut self.lock().times)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
