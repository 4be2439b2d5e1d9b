//! End-to-end tests: the shipped operator, real pods, a real gateway, real sockets.
//!
//! Each test has a namespace of its own, with an operator, a Redis and a route of its own, and takes it away at the end;
//! with `KEEP=1` it stays. `cargo xtask test e2e [filter]` brings the cluster and the images and tells the tests where they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's way to fail

mod harness;

mod audit;
mod broken;
mod deletion;
mod drains;
mod faults;
mod inputs;
mod natives;
mod operator;
mod people;
mod rehearsal;
mod release;
mod routes;
mod sidecar;
mod stores;
