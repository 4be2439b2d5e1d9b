//! What people read: events, metrics.
