//! What can go wrong in a round, by kind: the kind is the metric label, the Event reason and the retry policy.

use std::time::Duration;

/// The result of an operator's step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a round ended early. The next one starts from what is then seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("failed to {call}")]
    Api {
        /// What was asked.
        call: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("failed to {call}: no answer within {} s", .limit.as_secs())]
    Timeout {
        /// What was asked.
        call: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// Somebody else wrote in between: look again.
    #[error("{call} met a newer version")]
    Raced {
        /// What was asked.
        call: &'static str,
    },
    /// This process does not lead, or no longer.
    #[error("the lease is not held")]
    NotLeading,
    /// The rollout's pods cannot be built from its template.
    #[error("failed to build the ReplicaSet")]
    Template(#[source] crate::workload::replica_set::Error),
    /// The sidecars' certificate cannot be issued.
    #[error("failed to make a revision's keys")]
    Certificate(#[source] crate::workload::certificate::Error),
    /// The pins route cannot be built from the user's routes.
    #[error("failed to build the pins route")]
    Pins(#[source] crate::traffic::pins::Error),
    /// A pod did not take an order.
    #[error("pod {pod} did not take its order")]
    Order {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: crate::drain::client::Error,
    },
    /// A Service that we would need carries somebody else's selector.
    #[error("service {name} exists and is not this rollout's: rename it, or the rollout")]
    SlotTaken {
        /// The Service.
        name: String,
    },
    /// An object under a name that we would need is somebody else's.
    #[error("{kind} {name} exists and is not this rollout's: rename it, or the rollout")]
    NameTaken {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
    },
}

impl Error {
    /// Wraps an API error, telling races apart.
    pub fn api(call: &'static str, source: kube::Error) -> Self {
        if crate::workload::scale::raced(&source) {
            Self::Raced { call }
        } else {
            Self::Api {
                call,
                source: Box::new(source),
            }
        }
    }

    /// One of a closed set: metric label and Event reason.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { .. } => "Api",
            Self::Timeout { .. } => "Timeout",
            Self::Raced { .. } => "Raced",
            Self::NotLeading => "NotLeading",
            Self::Template(_) => "InvalidTemplate",
            Self::Certificate(_) => "Certificate",
            Self::Pins(_) => "InvalidRoute",
            Self::Order { .. } => "OrderRefused",
            Self::SlotTaken { .. } => "SlotTaken",
            Self::NameTaken { .. } => "NameTaken",
        }
    }

    /// When to try again, after so many failures in a row: races at once, the rest with doubling pauses up to 30 s.
    pub fn retry_after(&self, failures: u32) -> Duration {
        match self {
            Self::Raced { .. } => Duration::from_millis(200),
            Self::NotLeading => Duration::from_secs(2),
            _ => Duration::from_millis(500)
                .saturating_mul(1 << failures.min(6))
                .min(Duration::from_secs(30)),
        }
    }
}
