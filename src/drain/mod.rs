//! The drain protocol (wire types) and the operator's client of it.

pub mod client;
pub mod gauge;
pub mod identity;
pub mod protocol;

pub use client::{DrainClient, Token};
pub use gauge::GaugeClient;
pub use protocol::{DrainOrder, DrainProgress, SessionsReport};
