//! What people read: events, metrics, the audit trail, and the stories of releases.

pub mod audit;
pub mod events;
pub mod metrics;
pub mod story;
