//! Hands records to the sinks. Nobody who tells something ever waits: every sink has a queue of its own with a bound, what does
//! not fit is dropped and counted, and the next record that gets through says how many were lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::metrics::AuditMetrics;
use super::record::AuditRecord;
use super::scrub::Scrub;
use super::sink::{Refusal, Sink};

/// Records that wait for one sink; about 5 MB.
const QUEUE: usize = 16_384;
/// Most records of one write.
pub(super) const BATCH: usize = 500;
/// How long the write under way may take at shutdown, and as long again what waits. Together less than the lease is vacated in.
const FLUSH: Duration = Duration::from_secs(2);

/// A record as it is written, without a line break.
pub(super) type Line = Arc<str>;

/// Takes records and never waits. Clones share the queues.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    outlets: Arc<[Outlet]>,
}

/// The way to one sink.
#[derive(Debug)]
struct Outlet {
    queue: mpsc::Sender<Line>,
    shared: Arc<Shared>,
}

/// What both ends of a queue know.
#[derive(Debug)]
struct Shared {
    sink: &'static str,
    metrics: AuditMetrics,
    /// Lost, and not told yet.
    lost: AtomicU64,
}

/// Writes what one sink's queue holds; run it as a task.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Line>,
    shared: Arc<Shared>,
    sink: Sink,
}

// === impl Trail ===

impl Trail {
    /// A trail to these sinks, and the writers that serve it.
    pub fn new(sinks: Vec<Sink>, metrics: &AuditMetrics) -> (Self, Vec<Writer>) {
        Self::with_queue(sinks, metrics, QUEUE)
    }

    pub(super) fn with_queue(sinks: Vec<Sink>, metrics: &AuditMetrics, bound: usize) -> (Self, Vec<Writer>) {
        let (mut outlets, mut writers) = (Vec::new(), Vec::new());
        for sink in sinks {
            let (send, queue) = mpsc::channel(bound);
            let shared = Arc::new(Shared {
                sink: sink.kind(),
                metrics: metrics.clone(),
                lost: AtomicU64::new(0),
            });
            outlets.push(Outlet {
                queue: send,
                shared: shared.clone(),
            });
            writers.push(Writer { queue, shared, sink });
        }
        let outlets = outlets.into();
        (Self { outlets }, writers)
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        !self.outlets.is_empty()
    }

    /// Queues records for every sink, without what `scrub` knows to be secret.
    pub fn tell(&self, records: &[AuditRecord], scrub: &Scrub) {
        if !self.is_on() {
            return;
        }
        for record in records {
            let line: Line = scrub.line(record).into();
            for outlet in self.outlets.iter() {
                outlet.put(&line, record);
            }
        }
    }
}

// === impl Outlet ===

impl Outlet {
    fn put(&self, line: &Line, record: &AuditRecord) {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let told = AuditRecord::lost(lost, record.time);
            let told: Line = Scrub::default().line(&told).into();
            if self.queue.try_send(told).is_err() {
                self.shared.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if self.queue.try_send(line.clone()).is_err() {
            self.shared.lose("full", 1);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lose(&self, reason: &'static str, records: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
        self.metrics.dropped(self.sink, reason, records);
    }
}

// === impl Writer ===

impl Writer {
    /// Writes until `stop`, and then what still waits, within a limit.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            batch.clear();
            let linger = self.sink.linger();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                taken = self.queue.recv_many(&mut batch, BATCH) => if taken == 0 { return },
            }
            if let Some(linger) = linger {
                self.gather(&mut batch, linger, &stop).await;
            }
            self.shared.metrics.queued(self.shared.sink, self.queue.len());
            let Self { sink, shared, .. } = &mut self;
            let written = tokio::select! {
                written = sink.write(&batch) => Some(written),
                () = limit(&stop) => None,
            };
            shared.count(&batch, written);
        }
        self.flush().await;
    }

    /// Waits a little for more: few large writes instead of many small ones.
    async fn gather(&mut self, batch: &mut Vec<Line>, linger: Duration, stop: &CancellationToken) {
        let until = Instant::now() + linger;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                () = stop.cancelled() => return,
                taken = timeout_at(until, self.queue.recv_many(batch, room)) => {
                    if !matches!(taken, Ok(more) if more > 0) {
                        return;
                    }
                }
            }
        }
    }

    async fn flush(mut self) {
        self.queue.close();
        let until = Instant::now() + FLUSH;
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            let written = timeout_at(until, self.sink.write(&batch)).await.ok();
            self.shared.count(&batch, written);
            batch.clear();
        }
        if timeout_at(until, self.sink.finish()).await.is_err() {
            tracing::warn!(sink = self.shared.sink, "the audit sink did not finish in time");
        }
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(sink = self.shared.sink, records = lost, "audit records were lost");
        }
    }
}

/// A write that is under way when the operator stops has the flush's time, and no more.
async fn limit(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(FLUSH).await;
}

impl Shared {
    /// Counts a batch: written, refused, or (`None`) given up.
    fn count(&self, batch: &[Line], written: Option<Result<(), Refusal>>) {
        let records = batch.len() as u64;
        match written {
            Some(Ok(())) => self.metrics.written(self.sink, records),
            Some(Err(refusal)) => {
                self.lose(refusal.category(), records);
                tracing::warn!(
                    sink = self.sink,
                    records,
                    error = &refusal as &dyn std::error::Error,
                    "audit records were dropped"
                );
            }
            None => self.lose("shutdown", records),
        }
    }
}

#[cfg(test)]
#[path = "trail_tests.rs"]
mod tests;
