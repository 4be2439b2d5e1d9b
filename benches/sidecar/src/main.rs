//! WebSocket load and an echo server, for `cargo xtask bench sidecar`.
//!
//! One thread each and no more work per message than the system calls it takes: where a proxy is measured
//! between the two, they should not be what is measured.

mod echo;
mod frame;
mod idle;
mod latency;
mod process;
mod throughput;
mod upgrade;

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Echo every message, until killed
    Echo {
        /// Where to listen
        listen: SocketAddr,
    },
    /// Every connection sends its next message when it has the echo of the last
    Throughput(throughput::Options),
    /// Messages leave at fixed times, whatever has come back
    Latency(latency::Options),
    /// Connections that say one thing and then nothing
    Idle(idle::Options),
}

/// Where the load goes.
#[derive(Debug, Clone, clap::Args)]
struct Target {
    /// What to connect to
    address: SocketAddr,
    /// The process whose CPU time or memory is read
    #[arg(long)]
    pid: Option<u32>,
    /// Open connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Payload of a message, bytes
    #[arg(long, default_value_t = 64)]
    bytes: usize,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match Arguments::parse().role {
        Role::Echo { listen } => runtime.block_on(echo::serve(listen)),
        Role::Throughput(options) => print(&runtime.block_on(throughput::run(&options))?),
        Role::Latency(options) => print(&runtime.block_on(latency::run(&options))?),
        Role::Idle(options) => print(&runtime.block_on(idle::run(&options))?),
    }
}

fn print(figures: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(figures)?);
    Ok(())
}
