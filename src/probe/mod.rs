//! Embedded probe clients: rehearsal, fleet, evidence.
