//! Asks what other systems say of a new revision (`spec.analysis`), in the background, and counts the answers for the engine to judge.
//!
//! - `source`: a call to Prometheus or a webhook, and what is made of its answer
//! - `condition`: whether a CEL condition holds of an answer

mod condition;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::api::spec::Analysis;
use crate::engine::observed::MetricView;
use crate::outbound::{self, Policy};
pub use source::Subject;

/// Asks in the background. One per operator; rollouts are told apart by key.
pub struct Gatherer {
    client: Option<outbound::Client>,
    tasks: TaskTracker,
    runs: Mutex<HashMap<String, Run>>,
}

/// What is asked at one part of a release.
struct Run {
    id: String,
    metrics: Vec<Shared>,
}

type Shared = Arc<Mutex<Metric>>;

struct Metric {
    asked: Analysis,
    due: Instant,
    busy: bool,
    view: MetricView,
}

// === impl Gatherer ===

impl Gatherer {
    /// A gatherer that calls what the policy lets it call; without a client (there is no way to make one) every source is in error.
    pub fn new(policy: Arc<Policy>) -> Self {
        let client = source::client(policy);
        if let Err(error) = &client {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "sources of analysis cannot be asked"
            );
        }
        Self {
            client: client.ok(),
            tasks: TaskTracker::new(),
            runs: Mutex::default(),
        }
    }

    /// Asks what is due, and tells what is known by now; waits for nobody. Another `run` counts from nothing. `None` stops asking.
    pub fn observe(&self, key: &str, asked: Option<(&str, &[Analysis], &Subject)>) -> Vec<MetricView> {
        let mut runs = lock(&self.runs);
        let Some((id, wanted, subject)) = asked.filter(|(_, wanted, _)| !wanted.is_empty()) else {
            runs.remove(key);
            return Vec::new();
        };
        let run = runs.entry(key.to_owned()).or_insert_with(|| Run {
            id: String::new(),
            metrics: Vec::new(),
        });
        let same = |metric: &&Shared, analysis: &Analysis| lock(metric).asked == *analysis;
        let old = std::mem::take(&mut run.metrics);
        let keep = run.id == id;
        id.clone_into(&mut run.id);
        // What an edit changed is asked anew.
        run.metrics = wanted
            .iter()
            .map(|analysis| {
                let known = old.iter().filter(|_| keep).find(|m| same(m, analysis));
                known.cloned().unwrap_or_else(|| Metric::shared(analysis))
            })
            .collect();
        run.metrics
            .iter()
            .map(|metric| {
                self.ask(metric, subject);
                lock(metric).view.clone()
            })
            .collect()
    }

    /// Asks, where it is time; one call at a time.
    fn ask(&self, metric: &Shared, subject: &Subject) {
        let now = Instant::now();
        let analysis = {
            let mut metric = lock(metric);
            if metric.busy || now < metric.due {
                return;
            }
            metric.busy = true;
            metric.due = now + metric.asked.interval.0;
            metric.asked.clone()
        };
        let (metric, subject, client) = (metric.clone(), subject.clone(), self.client.clone());
        self.tasks.spawn(async move {
            let answer = match &client {
                Some(client) => source::ask(client, &analysis, &subject).await,
                None => Err(source::Error::NoClient),
            };
            let held = answer.and_then(|answer| condition::holds(&analysis.condition, answer));
            let mut metric = lock(&metric);
            metric.busy = false;
            metric.count(held);
        });
    }
}

// === impl Metric ===

impl Metric {
    fn shared(analysis: &Analysis) -> Shared {
        Arc::new(Mutex::new(Self {
            asked: analysis.clone(),
            due: Instant::now(),
            busy: false,
            view: MetricView {
                name: analysis.name.clone(),
                ..MetricView::default()
            },
        }))
    }

    /// An error is no answer: it neither breaks a row nor makes one longer.
    fn count(&mut self, held: Result<condition::Held, source::Error>) {
        match held {
            Ok(held) => {
                self.view.error = None;
                self.view.last = Some(held.shown);
                self.view.samples += 1;
                self.view.broken_in_a_row = if held.holds {
                    0
                } else {
                    self.view.broken_in_a_row + 1
                };
            }
            Err(error) => {
                tracing::debug!(
                    analysis = self.view.name,
                    category = error.category(),
                    "a source did not answer"
                );
                self.view.error = Some(error.to_string());
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts stay meaningful even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
