//! The share of reconnects that restore their session: by bounds that hold at every look.

use super::sequence::Sequence;
use super::{Evidence, Judgement, Said, breach, percent};
use crate::api::spec::{BreachAction, SuccessThreshold, Thresholds};
use crate::api::status::{Interval, Tally, Trial};

/// The share of a service level; reported, it decides nothing.
const SERVICE_LEVEL: f64 = 0.999;

/// The rule of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    advance: f64,
    rollback: f64,
    at_once: f64,
    min_samples: u64,
    alpha: f64,
}

/// Where the bounds are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The upper bound is below what goes back at once.
    AtOnce,
    /// The upper bound is below what goes back.
    Below,
    /// Not enough samples, or between the bounds.
    Between,
    /// The lower bound is at least what goes on.
    Above,
}

// === impl Rule ===

impl Rule {
    /// The rule of a trial's epoch.
    pub fn of(limits: &SuccessThreshold, trial: &Trial) -> Self {
        let share = |percent: u8| f64::from(percent) / 100.0;
        Self {
            advance: share(limits.advance_above_percent),
            rollback: share(limits.rollback_below_percent),
            at_once: share(
                limits
                    .rollback_at_once_below_percent
                    .min(limits.rollback_below_percent),
            ),
            min_samples: u64::from(limits.min_samples),
            alpha: trial.alpha(limits.confidence_percent),
        }
    }

    /// What so many reconnects say.
    pub fn stand(&self, tally: &Tally) -> Standing {
        let sequence = self.read(tally);
        if sequence.is_below(self.at_once) {
            Standing::AtOnce
        } else if tally.attempts < self.min_samples {
            Standing::Between
        } else if sequence.is_below(self.rollback) {
            Standing::Below
        } else if sequence.is_above(self.advance) {
            Standing::Above
        } else {
            Standing::Between
        }
    }

    fn read(&self, tally: &Tally) -> Sequence {
        Sequence::new(tally.attempts, tally.restored, self.alpha)
    }

    /// Whether both are below what goes on, and cannot be told apart. No sample of the control group excuses nothing.
    fn alike(&self, trial: &Trial) -> bool {
        let (canary, stable) = (self.read(&trial.canary), self.read(&trial.stable));
        if !(canary.is_below(self.advance) && stable.is_below(self.advance)) {
            return false;
        }
        let (canary, stable) = (canary.bounds(), stable.bounds());
        canary.0 <= stable.1 && stable.0 <= canary.1
    }

    fn sentence(&self, tally: &Tally) -> String {
        let Tally {
            attempts, restored, ..
        } = *tally;
        let share = restored as f64 / attempts.max(1) as f64;
        let (lower, upper) = self.read(tally).bounds();
        format!(
            "{restored} of {attempts} probe reconnects restored ({} %, interval {}–{} %)",
            percent(share),
            percent(lower),
            percent(upper)
        )
    }
}

/// The bounds of an epoch, in percent, for status; `None` without a sample.
pub(in crate::engine) fn interval(limits: &SuccessThreshold, trial: &Trial) -> Option<Interval> {
    if trial.canary.attempts == 0 {
        return None;
    }
    let (lower, upper) = Rule::of(limits, trial).read(&trial.canary).bounds();
    let tenths = |share: f64| (share * 1_000.0 + 1e-9).floor() / 10.0;
    Some(Interval {
        lower_percent: tenths(lower),
        upper_percent: tenths(upper),
    })
}

/// The upper bound is too low. A broken pod is a breach whether or not the others were met: failures name no pod.
pub(super) fn too_low(thresholds: &Thresholds, evidence: Evidence<'_>) -> Option<Said> {
    let limits = &thresholds.reconnect_success;
    let trial = evidence.trial;
    let rule = Rule::of(limits, trial);
    let standing = rule.stand(&trial.canary);
    let enough = trial.canary.attempts >= rule.min_samples && trial.stable.attempts >= rule.min_samples;
    let below = matches!(standing, Standing::AtOnce | Standing::Below);
    if (below || enough) && rule.alike(trial) {
        return Some(Said::Control(format!(
            "{}; on the stable revision {} of {} ({} %): they cannot be told apart, so it is not the new revision",
            rule.sentence(&trial.canary),
            trial.stable.restored,
            trial.stable.attempts,
            percent(trial.stable.restored as f64 / trial.stable.attempts.max(1) as f64)
        )));
    }
    let bar = match standing {
        Standing::AtOnce => format!("rollback at once below {} %", percent(rule.at_once)),
        Standing::Below => format!("rollback below {} %", percent(rule.rollback)),
        Standing::Between | Standing::Above => return None,
    };
    let message = format!("{}, {bar}", rule.sentence(&trial.canary));
    Some(breach("ReconnectSuccess", message, limits.action))
}

/// Whether the sample is large and good enough to go on.
pub(super) fn standing(thresholds: &Thresholds, evidence: Evidence<'_>) -> Judgement {
    let limits = &thresholds.reconnect_success;
    let trial = evidence.trial;
    let rule = Rule::of(limits, trial);
    let tally = &trial.canary;
    if evidence.canary.is_none() && tally.attempts == 0 {
        return Judgement::Inconclusive("no probe has reported yet".to_owned());
    }
    if tally.attempts == 0 {
        let aside = match tally.aside {
            0 => String::new(),
            aside => format!(" ({aside} are set aside: our own pace was too fast for the service)"),
        };
        return Judgement::Inconclusive(format!("no reconnect of a probe has ended yet{aside}"));
    }
    let sentence = rule.sentence(tally);
    if tally.attempts < rule.min_samples {
        return Judgement::Inconclusive(format!("{sentence}, {} are needed", rule.min_samples));
    }
    let spread = spread(evidence);
    if let Spread::Waits(why) = spread {
        return Judgement::Inconclusive(format!("{sentence}, {why}"));
    }
    let standing = rule.stand(tally);
    // What is only warned of holds nobody up.
    let warned = standing <= Standing::Below && limits.action == BreachAction::Warn;
    if standing != Standing::Above && !warned {
        return Judgement::Inconclusive(format!("{sentence}, {}", rule.missing(tally)));
    }
    let sequence = rule.read(tally);
    let took = evidence.canary.and_then(|c| c.window.restored_p95_ms);
    let took = took.map(|p95| format!(", 95 % of them within {p95} ms"));
    let strays = match spread {
        Spread::NotMet(pods) => format!("; no probe met {pods}: the gateway may keep clients on a pod"),
        Spread::Fine | Spread::Waits(_) => String::new(),
    };
    Judgement::Pass(format!(
        "{sentence}{}; target {} %: {}, service level {} %: {}{strays}",
        took.unwrap_or_default(),
        limits.target_percent,
        against(&sequence, f64::from(limits.target_percent) / 100.0),
        percent(SERVICE_LEVEL),
        against(&sequence, SERVICE_LEVEL),
    ))
}

impl Rule {
    /// How many samples more it would take.
    fn missing(&self, tally: &Tally) -> String {
        let sequence = self.read(tally);
        let share = percent(tally.restored as f64 / tally.attempts.max(1) as f64);
        let bars = format!(
            "to go on the lower bound has to reach {} %, to go back the upper one has to fall below {} %",
            percent(self.advance),
            percent(self.rollback)
        );
        let ahead = sequence.samples_until(self.advance, true);
        let back = sequence.samples_until(self.rollback, false);
        match ahead.or(back) {
            Some(more) => format!("{bars}: about {more} reconnects more at this share"),
            None => format!("{bars}: at {share} % no number of reconnects is enough for either"),
        }
    }
}

fn against(sequence: &Sequence, bar: f64) -> &'static str {
    if sequence.is_above(bar) {
        "met"
    } else if sequence.is_below(bar) {
        "missed"
    } else {
        "open"
    }
}

/// How the samples are spread over the pods.
enum Spread {
    /// Over all of them, or the service names none.
    Fine,
    /// Some were not met, and not for want of trying.
    NotMet(String),
    /// Some were not met yet.
    Waits(String),
}

/// Every ready pod has to be met, where the service says which pod welcomes. By chance each of n is met after about n (ln n + 5)
/// reconnects but for one time in 150 (the coupon collector's); after three times as many it is no chance: a gateway may keep clients on a pod.
fn spread(evidence: Evidence<'_>) -> Spread {
    let Some(canary) = evidence.canary else {
        return Spread::Fine;
    };
    let met = |pod: &String| canary.pods.get(pod).is_some_and(|count| *count > 0);
    // Names that are no pod's tell nothing about pods.
    if !evidence.pods.iter().any(met) {
        return Spread::Fine;
    }
    let missing: Vec<&str> = evidence
        .pods
        .iter()
        .filter(|pod| !met(pod))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Spread::Fine;
    }
    let pods = evidence.pods.len() as f64;
    let tried = 3.0 * pods * (pods.ln() + 5.0);
    let shown = missing.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    let more = match missing.len().saturating_sub(3) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = format!(
        "{} of {} ready pods ({shown}{more})",
        missing.len(),
        evidence.pods.len()
    );
    if evidence.trial.canary.attempts as f64 >= tried {
        Spread::NotMet(named)
    } else {
        Spread::Waits(format!("no probe has met {named} yet"))
    }
}
