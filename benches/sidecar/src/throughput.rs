//! Closed loop: how many round trips a proxy carries per second of its CPU time.

use std::{cell::Cell, rc::Rc, time::Duration};

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
    time::{Instant, sleep},
};

use crate::{
    Target,
    frame::{self, Head},
    process, upgrade,
};

/// Before anything is counted: buffers grow, branches are learnt.
const WARM_UP: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    /// How long is measured
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    round_trips: u64,
    seconds: f64,
    proxy_cpu_seconds: Option<f64>,
}

/// Runs the load.
pub async fn run(options: &Options) -> Result<Figures> {
    let Options { target, seconds } = options;
    let mut streams = Vec::new();
    for _ in 0..target.connections {
        streams.push(upgrade::connect(target.address).await?);
    }
    let done = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let message: Rc<[u8]> = frame::masked(target.bytes).into();
    let mut loops = tokio::task::JoinSet::new();
    for stream in streams {
        let (message, done) = (Rc::clone(&message), Rc::clone(&done));
        loops.spawn_local_on(ping_pong(stream, message, target.bytes, done), &local);
    }
    let measured = async {
        sleep(WARM_UP).await;
        let cpu = || target.pid.map(process::cpu_seconds).transpose();
        let (cpu_before, done_before, begin) = (cpu()?, done.get(), Instant::now());
        sleep(Duration::from_secs_f64(*seconds)).await;
        let figures = Figures {
            round_trips: done.get() - done_before,
            seconds: begin.elapsed().as_secs_f64(),
            proxy_cpu_seconds: cpu()?.zip(cpu_before).map(|(after, before)| after - before),
        };
        anyhow::Ok(figures)
    };
    tokio::select! {
        figures = local.run_until(measured) => figures,
        Some(ended) = loops.join_next() => {
            ended??;
            anyhow::bail!("a connection ended");
        }
    }
}

async fn ping_pong(
    mut stream: TcpStream,
    message: Rc<[u8]>,
    bytes: usize,
    done: Rc<Cell<u64>>,
) -> Result<()> {
    let mut buffer = vec![0; bytes + 16];
    for turn in 0_u64.. {
        stream.write_all(&message).await?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the connection was cut");
            filled += read;
            if Head::read(&buffer[..filled]).is_some_and(|head| head.total() <= filled) {
                break;
            }
        }
        if turn == 0 {
            frame::check_echo(&buffer[..filled], bytes)?;
        }
        done.set(done.get() + 1);
    }
    Ok(())
}
