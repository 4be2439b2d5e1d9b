//! Connections that say one thing and then nothing: what a proxy keeps for each.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use crate::{
    Target,
    frame::{self, Head},
    process, upgrade,
};

/// How long a process may take to give back what it needed for the handshakes.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    connections: usize,
    resident_before_bytes: u64,
    resident_after_bytes: u64,
    bytes_per_connection: f64,
}

/// Opens the connections, lets each make one round trip, waits, and reads the memory.
pub async fn run(options: &Options) -> Result<Figures> {
    let target = &options.target;
    let pid = target.pid.context("--pid is needed")?;
    // The first connection makes what all share; it is not counted.
    let mut open = vec![visit(target).await?];
    sleep(Duration::from_millis(200)).await;
    let before = process::resident_bytes(pid)?;
    for _ in 0..target.connections {
        open.push(visit(target).await?);
    }
    sleep(SETTLE).await;
    let after = process::resident_bytes(pid)?;
    Ok(Figures {
        connections: target.connections,
        resident_before_bytes: before,
        resident_after_bytes: after,
        bytes_per_connection: (after as f64 - before as f64) / target.connections as f64,
    })
}

async fn visit(target: &Target) -> Result<tokio::net::TcpStream> {
    let mut stream = upgrade::connect(target.address).await?;
    stream.write_all(&frame::masked(target.bytes)).await?;
    let mut buffer = Vec::with_capacity(target.bytes + 16);
    while Head::read(&buffer).is_none_or(|head| head.total() > buffer.len()) {
        ensure!(stream.read_buf(&mut buffer).await? > 0, "the connection was cut");
    }
    frame::check_echo(&buffer, target.bytes)?;
    Ok(stream)
}
