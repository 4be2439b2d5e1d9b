//! Open loop: messages leave at fixed times, and a delay counts from the time a message *should* have left.
//! So a proxy that stalls is charged for every message that was due in the meantime, not for one.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet, time::Instant};

use crate::{
    Target,
    frame::{self, Head},
    upgrade,
};

/// The first messages meet cold caches and fresh buffers.
const WARM_UP: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    /// Messages per second, all connections together
    #[arg(long)]
    rate: f64,
    /// How long is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    messages: usize,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

/// When the messages under way on one connection should have left, oldest first.
type Due = Arc<Mutex<VecDeque<Instant>>>;

/// Runs the load.
pub async fn run(options: &Options) -> Result<Figures> {
    let Options {
        target,
        rate,
        seconds,
    } = options;
    let begin = Instant::now() + Duration::from_millis(200);
    let counted_from = begin + WARM_UP;
    let last = ((WARM_UP.as_secs_f64() + seconds) * rate) as usize;
    let (mut writers, mut readers) = (Vec::new(), JoinSet::new());
    for number in 0..target.connections {
        let stream = upgrade::connect(target.address).await?.into_std()?;
        let due = Due::default();
        let expected = (last + target.connections - 1 - number) / target.connections;
        let reader = TcpStream::from_std(stream.try_clone()?)?;
        readers.spawn(read(
            reader,
            Arc::clone(&due),
            expected,
            target.bytes,
            counted_from,
        ));
        writers.push((stream, due));
    }
    // Tokio's timers tick in milliseconds, which is more than what is measured: a thread of its own waits finer.
    let message = frame::masked(target.bytes);
    let interval = Duration::from_secs_f64(1.0 / rate);
    let sender = std::thread::spawn(move || send(&mut writers, &message, begin, interval, last));
    let mut delays = Vec::with_capacity(last);
    while let Some(ended) = readers.join_next().await {
        delays.extend(ended??);
    }
    sender.join().ok().context("the sending thread ended early")??;
    Figures::of(delays)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own: no runtime worker is blocked, and tokio's timers are too coarse"
)]
fn send(
    writers: &mut [(std::net::TcpStream, Due)],
    message: &[u8],
    begin: Instant,
    interval: Duration,
    last: usize,
) -> Result<()> {
    let connections = writers.len();
    for number in 0..last {
        let at = begin + interval.mul_f64(number as f64);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let (stream, due) = &mut writers[number % connections];
        due.lock().unwrap_or_else(PoisonError::into_inner).push_back(at);
        let mut rest = message;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(error) => return Err(error).context("failed to send"),
            }
        }
    }
    Ok(())
}

async fn read(
    mut stream: TcpStream,
    due: Due,
    expected: usize,
    bytes: usize,
    counted_from: Instant,
) -> Result<Vec<Duration>> {
    let mut buffer = vec![0; 4 * (bytes + 16)];
    let (mut filled, mut came, mut delays) = (0, 0, Vec::with_capacity(expected));
    while came < expected {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was cut");
        let now = Instant::now();
        filled += read;
        let mut done = 0;
        while let Some(head) = Head::read(&buffer[done..filled]).filter(|head| done + head.total() <= filled)
        {
            ensure!(head.payload == bytes, "an echo of another length: {head:?}");
            done += head.total();
            came += 1;
            let at = due.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let at = at.context("an echo of nothing")?;
            if at >= counted_from {
                delays.push(now.saturating_duration_since(at));
            }
        }
        buffer.copy_within(done..filled, 0);
        filled -= done;
    }
    Ok(delays)
}

impl Figures {
    fn of(mut delays: Vec<Duration>) -> Result<Self> {
        ensure!(!delays.is_empty(), "nothing was measured");
        delays.sort_unstable();
        let rank = |share: f64| {
            let at = (share * (delays.len() - 1) as f64).round() as usize;
            delays[at].as_nanos() as f64 / 1e3
        };
        Ok(Self {
            messages: delays.len(),
            p50_us: rank(0.5),
            p90_us: rank(0.9),
            p99_us: rank(0.99),
            p999_us: rank(0.999),
            max_us: rank(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let delays = (1..=1_001).rev().map(Duration::from_micros).collect();
        let figures = Figures::of(delays).unwrap();
        assert_eq!(
            (figures.p50_us, figures.p99_us, figures.max_us),
            (501.0, 991.0, 1_001.0)
        );
    }
}
