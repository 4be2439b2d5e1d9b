//! The session client, probes and load against real servers of `examples/session-server`, over real sockets.

// Clippy takes only the test functions themselves for tests; here the helpers may fail a test too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod accounts;
mod commands;
mod dialects;
mod fleets;
mod loads;
mod network;
mod rehearsals;
mod scenarios;
mod stage;
mod theatre;
