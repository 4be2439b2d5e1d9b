//! Which samples count now. An epoch begins with each part of a release and after each passed verdict, so that a version that breaks
//! later is met with fresh evidence. The error rate of a release is spent over its epochs.

use jiff::Timestamp;

use crate::api::status::{State, Tally, Trial};
use crate::engine::evidence::ProbeEvidence;

/// A part of a release: the same evidence counts in all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Index of the step; the number of steps in the monitoring window.
    pub step: u32,
    /// Whether the step's sessions have moved.
    pub settled: bool,
}

impl Part {
    /// The part that a phase belongs to; `None` where it belongs to whatever was before (a pause).
    pub fn of(state: &State, steps: u32) -> Option<Self> {
        match state {
            State::Surging(at) | State::Shifting(at) | State::Moving(at) => Some(Self {
                step: at.step,
                settled: false,
            }),
            State::Analysing(at) => Some(Self {
                step: at.step,
                settled: true,
            }),
            State::Soaking(_) => Some(Self {
                step: steps,
                settled: true,
            }),
            _ => None,
        }
    }

    /// Whether a trial is of this part.
    pub fn is_of(self, trial: &Trial) -> bool {
        (self.step, self.settled) == (trial.step, trial.settled)
    }
}

/// The trial of a part: the one before, where it is of the same part; else a new epoch.
pub fn begin(before: Option<&Trial>, part: Part, now: Timestamp) -> Trial {
    match before {
        Some(before) if part.is_of(before) => before.clone(),
        // Without a sample nothing was risked: the epoch goes on under another name.
        Some(before) if before.canary.attempts == 0 => Trial {
            step: part.step,
            settled: part.settled,
            since: now,
            passed: None,
            ..before.clone()
        },
        Some(before) => Trial {
            step: part.step,
            settled: part.settled,
            passed: None,
            ..before.next_epoch(now)
        },
        None => Trial {
            epoch: 1,
            step: part.step,
            settled: part.settled,
            since: now,
            canary: Tally::default(),
            stable: Tally::default(),
            interval: None,
            passed: None,
        },
    }
}

/// Takes over what the probes have counted since the last time. Counts of a run never decrease, and what was taken over is written
/// together with how far it went: an operator that dies in between counts nothing twice. `aside` keeps them out of the evidence.
pub fn take_over(tally: &mut Tally, evidence: &ProbeEvidence, aside: bool) {
    if tally.run != Some(evidence.since) {
        tally.run = Some(evidence.since);
        (tally.seen_attempts, tally.seen_restored) = (0, 0);
    }
    let attempts = evidence.total.attempts.saturating_sub(tally.seen_attempts);
    let restored = evidence.total.restored.saturating_sub(tally.seen_restored);
    (tally.seen_attempts, tally.seen_restored) =
        (tally.seen_attempts + attempts, tally.seen_restored + restored);
    if aside {
        tally.aside += attempts;
    } else {
        tally.attempts += attempts;
        tally.restored += restored.min(attempts);
    }
}

impl Trial {
    /// The same part with fresh evidence.
    #[must_use]
    pub fn next_epoch(&self, now: Timestamp) -> Self {
        Self {
            epoch: self.epoch + 1,
            since: now,
            canary: self.canary.afresh(),
            stable: self.stable.afresh(),
            interval: None,
            ..self.clone()
        }
    }

    /// What the error rate of a release leaves for this epoch: its sum over all epochs is the whole.
    pub fn alpha(&self, confidence_percent: u8) -> f64 {
        let whole = 1.0 - f64::from(confidence_percent.min(99)) / 100.0;
        let k = f64::from(self.epoch.max(1));
        whole / (k * (k + 1.0))
    }
}

impl Tally {
    fn afresh(&self) -> Self {
        Self {
            attempts: 0,
            restored: 0,
            aside: 0,
            ..self.clone()
        }
    }
}
