//! How late we are ourselves: on a busy machine, closes that came evenly are seen in bunches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

const TICK: Duration = Duration::from_millis(10);
/// Beyond this nothing could be told any more.
const MOST: Duration = Duration::from_millis(600);

/// Watches the process's own timers until it is dropped.
pub(super) struct Lag {
    most_ms: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

// === impl Lag ===

impl Lag {
    pub(super) fn watch() -> Self {
        let most_ms = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&most_ms);
        let task = tokio::spawn(async move {
            loop {
                let begun = Instant::now();
                sleep(TICK).await;
                let late = begun.elapsed().saturating_sub(TICK);
                noted.fetch_max(late.as_millis() as u64, Ordering::Relaxed);
            }
        });
        Self {
            most_ms,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The most by which a timer was late so far.
    pub(super) fn most(&self) -> Duration {
        Duration::from_millis(self.most_ms.load(Ordering::Relaxed)).min(MOST)
    }
}
