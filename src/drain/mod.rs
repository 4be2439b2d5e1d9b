//! The drain protocol (wire types), the operator's client of it, and the account of what became of drained sessions.

pub mod accounting;
pub mod client;
pub mod gauge;
pub mod http;
pub mod identity;
pub mod protocol;
pub mod tls;

#[cfg(test)]
mod hostile_tests;

pub use client::{DrainClient, Token};
pub use gauge::GaugeClient;
pub use protocol::{DrainOrder, DrainProgress, SessionsReport};
