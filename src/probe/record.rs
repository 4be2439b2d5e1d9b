//! Samples of one target, and the figures made of them. Times are parameters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::engine::evidence::{ProbeEvidence, ProbeFigures, ProbeTarget, RECENT};

/// Samples kept for the window; older ones make room, since a window longer than the memory is better than a leak.
const MAX_SAMPLES: usize = 8_192;

/// One thing that happened to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sample {
    /// A session was restored, this long after its first dial.
    Restored(Duration),
    /// An attempt, or a health check, failed.
    Failed,
    /// A session's state was gone, twice.
    StateLost,
    /// A socket was closed or cut by nobody's order.
    Unannounced,
}

/// What the sessions of one target report into.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    record: Arc<Mutex<Record>>,
    /// What is recorded here counts there as well.
    whole: Option<Arc<Mutex<Record>>>,
}

#[derive(Debug)]
struct Record {
    since: Timestamp,
    samples: VecDeque<(Instant, Sample)>,
    total: Counts,
    open: u32,
    failures_in_a_row: u32,
    last_failure: Option<String>,
}

/// Counters, with restore times to take percentiles of.
#[derive(Debug, Default)]
struct Counts {
    figures: ProbeFigures,
    restored_ms: VecDeque<u32>,
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(since: Timestamp) -> Self {
        Self {
            record: Arc::new(Mutex::new(Record {
                since,
                samples: VecDeque::new(),
                total: Counts::default(),
                open: 0,
                failures_in_a_row: 0,
                last_failure: None,
            })),
            whole: None,
        }
    }

    /// A recorder for a part: what it records counts here as well.
    pub(super) fn part(&self) -> Self {
        let since = self.lock().since;
        Self {
            whole: Some(self.record.clone()),
            ..Self::new(since)
        }
    }

    pub(super) fn restored(&self, after: Duration, now: Instant) {
        self.add(Sample::Restored(after), None, now);
    }

    fn add(&self, sample: Sample, sentence: Option<&String>, now: Instant) {
        for record in [Some(&self.record), self.whole.as_ref()].into_iter().flatten() {
            lock(record).add(sample, sentence.cloned(), now);
        }
    }

    /// `sentence` holds no token and no payload.
    pub(super) fn failed(&self, sample: Sample, sentence: String, now: Instant) {
        self.add(sample, Some(&sentence), now);
    }

    /// A session came up or went down.
    pub(super) fn opened(&self, open: bool) {
        let mut record = self.lock();
        record.open = if open {
            record.open + 1
        } else {
            record.open.saturating_sub(1)
        };
    }

    /// The figures of the whole run.
    pub(super) fn figures(&self) -> ProbeFigures {
        self.lock().total.figures()
    }

    /// The last failure in one sentence.
    pub(super) fn last_failure(&self) -> Option<String> {
        self.lock().last_failure.clone()
    }

    pub(super) fn evidence(&self, target: ProbeTarget, window: Duration, now: Instant) -> ProbeEvidence {
        let record = self.lock();
        let figures = |window: Duration| {
            let mut counts = Counts::default();
            for (at, sample) in &record.samples {
                if now.duration_since(*at) <= window {
                    counts.add(*sample);
                }
            }
            counts.figures()
        };
        ProbeEvidence {
            target,
            since: record.since,
            open: record.open,
            total: record.total.figures(),
            window: figures(window),
            recent: figures(RECENT),
            failures_in_a_row: record.failures_in_a_row,
            last_failure: record.last_failure.clone(),
            pods: BTreeMap::new(),
        }
    }

    /// The mean time from the first dial to restored.
    pub(super) fn mean(&self) -> Option<Duration> {
        self.lock().total.mean()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    // Counters stay meaningful even if a holder panicked.
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Record ===

impl Record {
    fn add(&mut self, sample: Sample, sentence: Option<String>, now: Instant) {
        self.total.add(sample);
        match sample {
            Sample::Restored(_) => self.failures_in_a_row = 0,
            Sample::Failed => self.failures_in_a_row += 1,
            Sample::StateLost | Sample::Unannounced => {}
        }
        if sentence.is_some() {
            self.last_failure = sentence;
        }
        self.samples.push_back((now, sample));
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
    }
}

// === impl Counts ===

impl Counts {
    fn add(&mut self, sample: Sample) {
        let figures = &mut self.figures;
        match sample {
            Sample::Restored(after) => {
                figures.attempts += 1;
                figures.restored += 1;
                self.restored_ms.push_back(after.as_millis() as u32);
                if self.restored_ms.len() > MAX_SAMPLES {
                    self.restored_ms.pop_front();
                }
            }
            Sample::Failed => {
                figures.attempts += 1;
                figures.failed += 1;
            }
            Sample::StateLost => figures.state_lost += 1,
            Sample::Unannounced => figures.unannounced += 1,
        }
    }

    fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.restored_ms.len())
            .ok()
            .filter(|count| *count > 0)?;
        let sum: u64 = self.restored_ms.iter().map(|&ms| u64::from(ms)).sum();
        Some(Duration::from_millis(sum) / count)
    }

    fn figures(&self) -> ProbeFigures {
        let mut sorted: Vec<u32> = self.restored_ms.iter().copied().collect();
        sorted.sort_unstable();
        ProbeFigures {
            restored_p50_ms: percentile(&sorted, 50),
            restored_p95_ms: percentile(&sorted, 95),
            ..self.figures.clone()
        }
    }
}

/// The nearest-rank percentile of sorted values.
fn percentile(sorted: &[u32], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|&ms| u64::from(ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_window_forgets_and_the_total_does_not() {
        let recorder = Recorder::new(Timestamp::UNIX_EPOCH);
        let begun = Instant::now();
        recorder.failed(Sample::Failed, "refused".into(), begun);
        recorder.restored(ms(100), begun + ms(9_000));
        recorder.failed(Sample::Unannounced, "cut".into(), begun + ms(9_500));
        let evidence = recorder.evidence(ProbeTarget::Canary, ms(5_000), begun + ms(10_000));
        assert_eq!((evidence.total.attempts, evidence.total.failed), (2, 1));
        assert_eq!((evidence.window.attempts, evidence.window.failed), (1, 0));
        assert_eq!(evidence.window.success_percent(), Some(100.0));
        assert_eq!(evidence.window.unannounced, 1);
        let later = recorder.evidence(ProbeTarget::Canary, ms(60_000), begun + ms(18_000));
        assert_eq!((later.window.attempts, later.recent.attempts), (2, 1));
        assert_eq!(evidence.failures_in_a_row, 0);
        assert_eq!(evidence.last_failure.as_deref(), Some("cut"));
    }

    #[test]
    fn failures_in_a_row_end_with_a_restored_session() {
        let recorder = Recorder::new(Timestamp::UNIX_EPOCH);
        let now = Instant::now();
        for expected in 1..=3 {
            recorder.failed(Sample::Failed, String::new(), now);
            let evidence = recorder.evidence(ProbeTarget::Stable, ms(1), now);
            assert_eq!(evidence.failures_in_a_row, expected);
        }
        recorder.restored(ms(1), now);
        let evidence = recorder.evidence(ProbeTarget::Stable, ms(1), now);
        assert_eq!(evidence.failures_in_a_row, 0);
    }

    #[test]
    fn a_part_counts_in_the_whole_and_not_the_other_way() {
        let whole = Recorder::new(Timestamp::UNIX_EPOCH);
        let (part, now) = (whole.part(), Instant::now());
        part.restored(ms(100), now);
        part.restored(ms(300), now);
        whole.restored(ms(800), now);
        assert_eq!((part.mean(), whole.mean()), (Some(ms(200)), Some(ms(400))));
        assert_eq!((part.figures().restored, whole.figures().restored), (2, 3));
    }

    #[test]
    fn no_sample_is_no_percentile() {
        let recorder = Recorder::new(Timestamp::UNIX_EPOCH);
        assert_eq!(recorder.mean(), None);
        let figures = recorder.figures();
        assert_eq!((figures.restored_p50_ms, figures.success_percent()), (None, None));
    }

    proptest! {
        #[test]
        fn percentiles_are_values_in_order(mut values in proptest::collection::vec(0_u32..100_000, 1..200)) {
            values.sort_unstable();
            let (p50, p95) = (percentile(&values, 50).unwrap(), percentile(&values, 95).unwrap());
            prop_assert!(p50 <= p95);
            prop_assert!(values.iter().any(|&v| u64::from(v) == p95));
            let below = values.iter().filter(|&&v| u64::from(v) <= p95).count();
            prop_assert!(below * 100 >= values.len() * 95);
        }
    }
}
