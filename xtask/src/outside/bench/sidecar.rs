//! The sidecar as a plain WebSocket proxy, beside others that are measured in the same minutes.
//!
//! One thread each, on the loopback interface; the proxy has one processor to itself, load and server share
//! another where there are two. Rounds are interleaved, so that a machine that becomes busy is so for all.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;

use super::{
    Options,
    report::{Delays, Figures, Measured, Round},
};
use crate::{
    cargo,
    host::{self, PYTHON},
    outside::{
        child::{Running, Scratch, free_address},
        proxy::{Kind, Proxy},
    },
    paths, shell,
};

/// Payloads, and the messages per second at which delays are measured: a fraction of what each proxy can do.
const LOADS: [(usize, f64); 2] = [(64, 4_000.0), (16_384, 1_000.0)];
/// Connections under load.
const CONNECTIONS: usize = 64;
/// The proxies in the order of each round.
const PROXIES: [Kind; 3] = [Kind::Sidecar, Kind::Haproxy, Kind::Envoy];
/// The processors of the proxy, and of load and server.
const PROCESSORS: (&str, &str) = ("0", "1");

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
    throughput_seconds: f64,
    latency_seconds: f64,
    idle_connections: usize,
}

const WHOLE: Effort = Effort {
    rounds: 3,
    throughput_seconds: 3.0,
    latency_seconds: 5.0,
    idle_connections: 4_000,
};
const QUICK: Effort = Effort {
    rounds: 1,
    throughput_seconds: 0.5,
    latency_seconds: 1.0,
    idle_connections: 400,
};

/// The parts of a run.
struct Bench {
    wsroll: PathBuf,
    load: PathBuf,
    server: SocketAddr,
    pinned: bool,
    effort: Effort,
    scratch: Scratch,
}

/// Measures, prints, writes.
pub fn run(options: &Options) -> Result<()> {
    host::ensure(&PYTHON, !options.no_install)?;
    let (wsroll, load) = shell::step(
        "building as it is released (minutes, the first time)",
        cargo::build_for_bench,
    )?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut bench = Bench {
        wsroll,
        load,
        server: free_address()?,
        pinned: processors > 1 && shell::which("taskset").is_some(),
        effort: if options.quick { QUICK } else { WHOLE },
        scratch: Scratch::new("bench")?,
    };
    let figures = bench.measure()?;
    print!("{}", figures.table());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&figures.json())?;
        std::fs::write(file, text + "\n").with_context(|| format!("failed to write {}", file.display()))?;
        eprintln!("figures: {}", file.display());
    }
    Ok(())
}

impl Bench {
    fn measure(&mut self) -> Result<Figures> {
        let mut command = self.beside(&self.load);
        command.arg("echo").arg(self.server.to_string());
        let mut server = Running::start("echo", &mut command, &self.scratch)?;
        server.await_listening(self.server)?;

        let mut figures = Figures::new(self.pinned, self.effort.rounds);
        for round in 1..=self.effort.rounds {
            for (bytes, rate) in LOADS {
                let delays = self.delays(self.server, bytes, rate)?;
                figures.add(
                    None,
                    bytes,
                    Round {
                        delays,
                        round_trips_per_cpu_second: None,
                    },
                );
                for kind in PROXIES {
                    let measured = self.round(kind, bytes, rate)?;
                    eprintln!("  round {round}, {bytes} B, {}: {measured}", kind.name());
                    figures.add(Some(kind), bytes, measured);
                }
            }
        }
        for kind in PROXIES {
            figures.idle(kind, self.idle(kind)?);
        }
        Ok(figures)
    }

    /// A fresh proxy for each measurement: none pays for what the last one left behind.
    fn start(&self, kind: Kind) -> Result<Proxy> {
        let run = |program: &Path| self.on(PROCESSORS.0, program);
        Proxy::start_by(run, kind, &self.wsroll, self.server, &self.scratch)
    }

    fn round(&self, kind: Kind, bytes: usize, rate: f64) -> Result<Round> {
        #[derive(serde::Deserialize)]
        struct Throughput {
            round_trips: f64,
            proxy_cpu_seconds: f64,
        }
        let proxy = self.start(kind)?;
        let throughput: Throughput = self.load(
            "throughput",
            proxy.address,
            bytes,
            CONNECTIONS,
            &[
                ("--pid", proxy.pid().to_string()),
                ("--seconds", self.effort.throughput_seconds.to_string()),
            ],
        )?;
        Ok(Round {
            delays: self.delays(proxy.address, bytes, rate)?,
            round_trips_per_cpu_second: Some(throughput.round_trips / throughput.proxy_cpu_seconds),
        })
    }

    fn delays(&self, at: SocketAddr, bytes: usize, rate: f64) -> Result<Delays> {
        let more = [
            ("--rate", rate.to_string()),
            ("--seconds", self.effort.latency_seconds.to_string()),
        ];
        self.load("latency", at, bytes, CONNECTIONS, &more)
    }

    fn idle(&self, kind: Kind) -> Result<Measured> {
        #[derive(serde::Deserialize)]
        struct Idle {
            bytes_per_connection: f64,
        }
        let proxy = self.start(kind)?;
        let pid = [("--pid", proxy.pid().to_string())];
        let idle: Idle = self.load("idle", proxy.address, 64, self.effort.idle_connections, &pid)?;
        Ok(idle.bytes_per_connection)
    }

    fn load<T: DeserializeOwned>(
        &self,
        kind: &str,
        target: SocketAddr,
        bytes: usize,
        connections: usize,
        more: &[(&str, String)],
    ) -> Result<T> {
        let mut command = self.beside(&self.load);
        command
            .current_dir(paths::root())
            .args([kind, &target.to_string()])
            .args(["--bytes", &bytes.to_string()])
            .args(["--connections", &connections.to_string()]);
        for (name, value) in more {
            command.args([name, value.as_str()]);
        }
        let said = shell::output(&mut command)?;
        serde_json::from_str(&said).with_context(|| format!("the load said {said}"))
    }

    /// A program on the processor that the proxy does not use.
    fn beside(&self, program: &Path) -> Command {
        self.on(PROCESSORS.1, program)
    }

    fn on(&self, processor: &str, program: &Path) -> Command {
        if !self.pinned {
            return shell::command(program);
        }
        // It becomes the program by exec: the process id stays.
        let mut command = shell::command("taskset");
        command.args(["--cpu-list", processor]).arg(program);
        command
    }
}
