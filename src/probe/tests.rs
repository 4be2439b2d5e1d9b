//! Supervised probes against a real service.
