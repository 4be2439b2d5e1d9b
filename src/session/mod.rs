//! The resumable WebSocket client: notice, back-off, resume. Probes and load both use it.
//!
//! A [`Session`] outlives its sockets. It is driven by awaiting [`Session::next`], which is cancel-safe: the caller
//! owns it in one task, so that no queue lies between the socket and the one who reacts to it.

mod backoff;
mod client;
mod config;
mod dial;
mod dialect;
mod event;
#[cfg(test)]
mod hostile_tests;
mod ledger;
pub mod load;
mod login;
mod socket;
#[cfg(test)]
pub(crate) mod testkit;
mod times;
mod tls;
mod token;
mod wire;

pub use backoff::{Backoff, MAX_ATTEMPTS, Profile, Profiles, RESTORED_LIFE};
pub use client::Session;
pub use config::{ConfigError, Dialect, Endpoint, Met, PIN_HEADER, Pin, SessionConfig, TokenIn};
pub use dial::{DialError, Dialed, Phases, Resume, dial};
pub use event::{Cause, End, Event, Failure, Restored, Welcomed};
pub use ledger::{Ledger, Received, Request, Section, Unsent};
pub use login::{Login, LoginError};
pub use times::{Timed, Times};
pub use tls::{Tls, TlsError, TlsFiles};
pub use token::Token;
pub use wire::{ClientFrame, Notice, ServerFrame, SessionState};
