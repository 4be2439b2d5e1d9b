//! The audit trail: every connection event that a rollout causes or sees, one JSON line each.
//!
//! - `record`: the lines, a stable format (docs/audit.md)
//! - `ledger`: what is news in a round, and was not told before. Pure
//! - `scrub`: what never gets into a line
//! - `trail`: hands lines to the sinks without ever waiting; drops are counted and told
//! - `sink`: stdout, a file that is rotated, an HTTP collector

mod changes;
mod ledger;
mod metrics;
mod record;
mod scrub;
mod sink;
mod trail;

#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod ledger_tests;

pub(crate) use changes::reason_of;
pub(crate) use ledger::outcome_of;
pub use ledger::{Cut, Ledger, PodSeen, Round};
pub use metrics::AuditMetrics;
pub use record::{
    AuditRecord, By, DrainCounts, Event, OrderData, PodData, ProbeData, ScenarioData, SeenAs, VERSION,
};
pub use scrub::{Scrub, cut};
pub use sink::{FileSettings, HttpSettings, Sinks, Target};
pub use trail::{Trail, Writer};
