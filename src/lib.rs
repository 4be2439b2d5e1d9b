//! wsroll ships new versions of WebSocket services without anybody's session noticing.
//!
//! Data flows one way: cluster → [`engine::Observed`] → [`engine::Plan`] → actions → cluster.
//! `api`, `engine` and `drain::protocol` know nothing of the rooms below them.

pub mod api;
pub mod engine;

pub mod analysis;
pub mod outbound;

pub mod drain;
pub mod session;

pub mod conformance;

pub mod probe;
pub mod proxy;
pub mod report;
pub mod traffic;
pub mod web;
pub mod workload;

pub mod lint;

pub mod operator;

pub mod cli;

#[cfg(test)]
mod hostile;
