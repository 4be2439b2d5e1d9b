//! One step, taken by all sessions at once, and the sentence for what was missed.

use futures_util::future::join_all;

use super::job::RehearsalTimeouts;
use super::walk::{Miss, Step, Walk};
use crate::engine::evidence::RehearsalFailure;

/// What the steps of a run must reach, for the sentences about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goals {
    pub(super) timeouts: RehearsalTimeouts,
    pub(super) close_code: u16,
}

impl Goals {
    /// Takes the step with every session. All must hold it; what each brought, in order.
    pub(super) async fn all<'w, T, F>(
        &self,
        walks: &'w mut [Walk],
        step: impl Fn(&'w mut Walk) -> F,
    ) -> Result<Vec<T>, RehearsalFailure>
    where
        F: Future<Output = Step<T>>,
    {
        self.judge(join_all(walks.iter_mut().map(step)).await)
    }

    /// All outcomes must hold; what each brought, in order.
    pub(super) fn judge<T>(&self, outcomes: Vec<Step<T>>) -> Result<Vec<T>, RehearsalFailure> {
        let sessions = outcomes.len();
        let mut held = Vec::with_capacity(sessions);
        let mut misses = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(value) => held.push(value),
                Err(miss) => misses.push(miss),
            }
        }
        match commonest(&misses) {
            None => Ok(held),
            Some(miss) => Err(RehearsalFailure {
                check: miss.check.to_owned(),
                message: format!(
                    "{} of {sessions} sessions {}: {}",
                    held.len(),
                    self.goal(miss.check),
                    miss.detail
                ),
            }),
        }
    }

    fn goal(&self, check: &str) -> String {
        let restored = self.timeouts.restored.as_secs();
        let exchange = self.timeouts.exchange.as_secs();
        match check {
            "connected" => format!("connected within {restored} s"),
            "firstMessage" => format!("got a first message within {restored} s"),
            "restored" => format!("were restored within {restored} s"),
            "exchange" => format!("got an answer within {exchange} s"),
            "stateEqual" => "found their state as written".to_owned(),
            "revision" => "reached the revision under test".to_owned(),
            "notice" => "got a notice".to_owned(),
            "closeCode" => format!("were closed with the ordered code {}", self.close_code),
            "unannounced" => "kept their socket until its announced close".to_owned(),
            "crashed" => "lost their socket with their pod".to_owned(),
            "refused" => "were refused as ordered".to_owned(),
            "schedule" | "attempts" => "kept to the schedule of their back-off".to_owned(),
            other => format!("passed {other}"),
        }
    }
}

/// The check that most sessions missed; of equals the first.
fn commonest(misses: &[Miss]) -> Option<&Miss> {
    let count = |check: &str| misses.iter().filter(|miss| miss.check == check).count();
    misses.iter().rev().max_by_key(|miss| count(miss.check))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::walk::miss;

    #[test]
    fn the_commonest_miss_is_reported_and_of_equals_the_first() {
        let misses: Vec<Miss> = ["restored", "unannounced", "unannounced"]
            .map(|check| miss(check, String::new()))
            .into();
        assert_eq!(commonest(&misses).unwrap().check, "unannounced");
        assert_eq!(commonest(&misses[..2]).unwrap().check, "restored");
        assert_eq!(commonest(&[]), None);
    }
}
