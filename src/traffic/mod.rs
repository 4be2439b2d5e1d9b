//! Who gets new connections: slots, routes, pins.
//!
//! A weight places *new* connections; it moves no open socket. This room builds and compares, it never decides.

pub mod conflicts;
pub mod gateway_api;
pub mod http_route;
pub mod pins;
pub mod slots;

#[cfg(test)]
mod hostile_tests;

pub use gateway_api::HTTPRoute;
