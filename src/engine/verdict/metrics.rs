//! What other systems say of the new revision. An error of a source is never a failure of the version: it only keeps a step waiting.

use super::{Breach, Evidence};
use crate::api::spec::Analysis;
use crate::engine::observed::MetricView;

/// Analyses that were broken too often in a row.
pub(super) fn breaches(evidence: Evidence<'_>) -> Vec<Breach> {
    let broken = |(asked, view): (&Analysis, Option<&MetricView>)| {
        let view = view.filter(|view| view.broken_in_a_row >= asked.failure_limit)?;
        Some(Breach {
            reason: "Analysis".to_owned(),
            message: format!(
                "analysis {}: {} was not so {} times in a row, at most {} may be; {}",
                asked.name,
                asked.condition,
                view.broken_in_a_row,
                asked.failure_limit.saturating_sub(1),
                view.last.as_deref().unwrap_or("no detail")
            ),
            action: asked.action,
        })
    };
    each(evidence).filter_map(broken).collect()
}

/// Why a step has to wait for a required analysis; `None` where it has not.
pub(super) fn waits(evidence: Evidence<'_>) -> Option<String> {
    let waits = |(asked, view): (&Analysis, Option<&MetricView>)| {
        let waits = asked.required && asked.action != crate::api::spec::BreachAction::Warn;
        let unknown = MetricView::default();
        let view = view.unwrap_or(&unknown);
        let why = match &view.error {
            Some(error) => error.clone(),
            None if view.broken_in_a_row > 0 => format!(
                "{} is not so; {}",
                asked.condition,
                view.last.as_deref().unwrap_or("no detail")
            ),
            None if view.samples < asked.min_samples => {
                format!("{} of {} answers at this step", view.samples, asked.min_samples)
            }
            None => return None,
        };
        waits.then(|| format!("waiting for analysis {}: {why}", asked.name))
    };
    each(evidence).find_map(waits)
}

fn each(evidence: Evidence<'_>) -> impl Iterator<Item = (&Analysis, Option<&MetricView>)> {
    let of = move |asked: &Analysis| evidence.metrics.iter().find(|m| m.name == asked.name);
    evidence.analysis.iter().map(move |asked| (asked, of(asked)))
}
