//! The sidecar in front of a real server, with real clients, over real sockets.

// Clippy takes only the test functions themselves for tests; here the helpers may fail a test too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod account;
mod draining;
mod ends;
mod frames;
mod hostile;
mod http;
mod limits;
mod orders;
mod polling;
mod stage;
mod tls;
