//! Go on, wait, or go back: thresholds against evidence. Missing data is never success, small samples decide nothing.
//!
//! - `sequence`: bounds for a share of successes that hold at every look
//! - `trial`: which samples count now: epochs, and what is set aside
//! - `success`: the share of reconnects that succeed, and the control group
//! - `counts`: what acts on the event: failures in a row, lost state, cut sessions
//! - `time`: reconnect times against the baseline
//! - `metrics`: what other systems say
//! - `users`: what the pods tell of users' sessions
//! - `alerts`: what people are told; it decides nothing

mod alerts;
mod counts;
mod metrics;
mod sequence;
#[cfg(test)]
mod simulation;
mod success;
#[cfg(test)]
mod tests;
mod time;
mod trial;
mod users;

pub use alerts::{Found, alerts};
pub use sequence::Sequence;
pub(super) use success::interval;
pub use success::{Rule, Standing};
pub use trial::{Part, begin, take_over};

use super::evidence::ProbeEvidence;
use super::observed::MetricView;
use crate::api::spec::{Analysis, BreachAction, Thresholds};
use crate::api::status::{Baseline, Returned, Trial};

/// What the evidence says. Each carries one sentence with its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Every threshold that decides is held, on enough samples.
    Pass(String),
    /// Not enough samples, or between the bounds.
    Inconclusive(String),
    /// A threshold is breached.
    Breach(Breach),
    /// Canary and stable cannot be told apart: it is not the new revision.
    ControlFailing(String),
}

/// A threshold that is breached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// The threshold, as an identifier.
    pub reason: String,
    /// One sentence with its numbers.
    pub message: String,
    /// What the spec says about it.
    pub action: BreachAction,
}

/// A judgement, and what is only to be warned of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What decides.
    pub judgement: Judgement,
    /// Breaches whose action is `Warn`.
    pub warnings: Vec<Breach>,
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The samples that count now.
    pub trial: &'a Trial,
    /// The probes on the new revision.
    pub canary: Option<&'a ProbeEvidence>,
    /// The probes on the old one: the control group.
    pub stable: Option<&'a ProbeEvidence>,
    /// Names of the new revision's ready pods.
    pub pods: &'a [String],
    /// Whether our own pace is easing off: what fails or is slow now may be its doing.
    pub easing: bool,
    /// Users' sessions whose state the new revision's pods did not find.
    pub users_state_lost: u64,
    /// What became of the users' sessions that were moved.
    pub users: Option<&'a Returned>,
    /// Sessions of users that resumed on the new revision, and resumes that failed there, by its pods' count.
    pub resumes: (u64, u64),
    /// Reconnect times before the release moved anybody.
    pub baseline: Option<Baseline>,
    /// Users' sessions before the last moves and after them, where they were counted lately.
    pub conserved: Option<(i64, i64)>,
    /// What other systems are asked.
    pub analysis: &'a [Analysis],
    /// What they have answered.
    pub metrics: &'a [MetricView],
}

/// What one rule says.
enum Said {
    Breach(Breach),
    Control(String),
}

/// Judges the new revision. Breaches come first: those that roll back before those that pause; of equals the more serious one.
pub fn judge(thresholds: &Thresholds, evidence: Evidence<'_>) -> Outcome {
    let said = [
        counts::state_loss(thresholds, evidence),
        counts::failures_in_a_row(thresholds, evidence),
        success::too_low(thresholds, evidence),
        counts::unannounced(thresholds, evidence),
        time::slower_than_before(thresholds, evidence),
        users::returned(thresholds, evidence),
        users::resumes(thresholds, evidence),
        users::conserved(thresholds, evidence),
    ];
    let mut warnings = Vec::new();
    let mut worst: Option<(u8, Judgement)> = None;
    let metrics = metrics::breaches(evidence).into_iter().map(Said::Breach);
    for said in said.into_iter().flatten().chain(metrics) {
        let (rank, judgement) = match said {
            Said::Breach(breach) => match breach.action {
                BreachAction::Rollback => (0, Judgement::Breach(breach)),
                BreachAction::Pause => (1, Judgement::Breach(breach)),
                BreachAction::Warn => {
                    warnings.push(breach);
                    continue;
                }
            },
            Said::Control(message) => (2, Judgement::ControlFailing(message)),
        };
        if worst.as_ref().is_none_or(|(known, _)| rank < *known) {
            worst = Some((rank, judgement));
        }
    }
    let judgement = match worst {
        Some((_, judgement)) => judgement,
        None => match (success::standing(thresholds, evidence), metrics::waits(evidence)) {
            (Judgement::Pass(message), Some(waits)) => Judgement::Inconclusive(format!("{message}; {waits}")),
            (judgement, _) => judgement,
        },
    };
    Outcome { judgement, warnings }
}

fn breach(reason: &str, message: String, action: BreachAction) -> Said {
    Said::Breach(Breach {
        reason: reason.to_owned(),
        message,
        action,
    })
}

/// A percentage, cut after one decimal: a bound is never shown on the other side of a bar.
fn percent(share: f64) -> String {
    let tenths = (share * 1_000.0 + 1e-9).floor() / 10.0;
    format!("{tenths}")
}
