//! What people read: events, metrics.

pub mod events;
pub mod metrics;
