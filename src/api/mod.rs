//! The custom resource: spec, status, conditions, validation. No I/O.
