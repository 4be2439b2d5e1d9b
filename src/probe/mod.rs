//! Embedded probe clients: rehearsal before users, a fleet beside them, and a look at who answers.
//!
//! [`ProbeSupervisor`] runs them in the background for the operator; what they saw is plain data in
//! [`crate::engine::evidence`], which the engine judges.

mod board;
mod fleet;
mod job;
mod once;
mod record;
mod rehearsal;
mod scenario;
mod schedule;
mod sight;
mod stage;
mod supervisor;
#[cfg(test)]
mod tests;
mod together;
mod walk;
mod written;

pub use board::{Board, limit as service_level};
pub use job::{
    FleetJob, Manner, PURPOSE_HEADER, ProbeDial, ProbeJob, ProbeKind, RehearsalJob, RehearsalTimeouts,
};
pub use once::hold_and_reconnect;
pub use scenario::{Setting, rehearse};
pub use sight::{Sight, sight};
pub use stage::{Declined, Stage, Victim, Way};
pub use supervisor::{ProbeObservation, ProbeSupervisor, Seen};
pub use walk::Farewell;
