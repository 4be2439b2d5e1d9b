//! A small, real WebSocket service whose sessions survive the pod they run on, and which lets go of them politely when
//! wsroll's operator asks. It is meant to be read and copied; it depends on nothing of wsroll.
//!
//! - [`session`]: a session on a socket: welcome, messages, state, goodbye.
//! - [`store`]: where sessions live, and who may write them: memory, Redis or PostgreSQL.
//! - `drain`: orders in; notices and paced closes out.
//! - [`token`]: who is on the other end.
//! - [`fault`]: faults that can be switched on, to try what a rollout does with a broken version.
//! - [`server`]: listeners, tasks, the end.
//!
//! Tests start servers in their own process: `Server::start(Config::local("key")).await`.

pub mod cli;
pub mod config;
mod drain;
pub mod fault;
mod http;
pub mod server;
pub mod session;
pub mod store;
pub mod token;

pub use config::Config;
pub use server::{Exit, Server, StartError};
