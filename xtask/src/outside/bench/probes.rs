//! What a probe costs that only waits: memory per session, and the processor's share while the service is gone.
//!
//! Sessions are those of `wsroll load`, which are the probes' own; the server stands in a process of its own. A session alone is
//! measured first, so that what all of them share is not counted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Options;
use crate::outside::child::{Running, Scratch, free_address};
use crate::outside::stacks::install::{self, Stack};
use crate::{cargo, shell, wait};

/// Sessions at once: whether they are encrypted, and how many.
const ROUNDS: [(bool, usize); 4] = [(false, 1_000), (false, 5_000), (false, 15_000), (true, 5_000)];
const QUICK: [(bool, usize); 2] = [(false, 500), (true, 200)];
/// How long a process may take to give back what it needed for the handshakes.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the share of the processor is measured while everybody backs off.
const AWAY: Duration = Duration::from_secs(20);
/// How long all sessions may take to open.
const OPEN: Duration = Duration::from_secs(300);
/// What Grafana publishes for a virtual user of k6, bytes.
const K6_USER: f64 = 2.7e6;
/// Linux tells CPU time in these, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

struct Bench {
    wsroll: PathBuf,
    echo: PathBuf,
    node: Stack,
    scratch: Scratch,
}

struct Measured {
    tls: bool,
    sessions: usize,
    bytes: f64,
    /// Percent of one processor while the service is away, all sessions together.
    away_percent: f64,
}

/// Measures, prints, writes.
pub fn run(options: &Options) -> Result<()> {
    let (wsroll, echo) = shell::step(
        "building as it is released (minutes, the first time)",
        cargo::build_for_bench,
    )?;
    let bench = Bench {
        wsroll,
        echo,
        node: install::node(!options.no_install)?,
        scratch: Scratch::new("bench-probes")?,
    };
    bench.certify()?;
    let rounds: &[(bool, usize)] = if options.quick { &QUICK } else { &ROUNDS };
    println!("| probes | sessions | bytes per session | of a user of k6 | processor while all back off |");
    println!("|---|---|---|---|---|");
    let mut figures = Vec::new();
    for (tls, sessions) in rounds {
        let measured = bench.measure(*tls, *sessions)?;
        println!("{measured}");
        figures.push(measured.json());
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}

impl Bench {
    fn measure(&self, tls: bool, sessions: usize) -> Result<Measured> {
        let address = free_address()?;
        let mut server = self.server(tls, address)?;
        let (alone, _) = self.held(tls, address, 1)?;
        let (together, mut load) = self.held(tls, address, sessions)?;
        server.kill()?;
        // The first attempts fall together; what goes on after them is what counts.
        wait::sleep(Duration::from_secs(2));
        let before = cpu_seconds(load.pid())?;
        wait::sleep(AWAY);
        let busy = cpu_seconds(load.pid())? - before;
        load.kill()?;
        Ok(Measured {
            tls,
            sessions,
            bytes: (together as f64 - alone as f64) / (sessions - 1) as f64,
            away_percent: busy * 100.0 / AWAY.as_secs_f64(),
        })
    }

    /// Resident bytes of a process that holds so many idle sessions, and the process.
    fn held(&self, tls: bool, address: SocketAddr, sessions: usize) -> Result<(u64, Running)> {
        let scheme = if tls { "wss" } else { "ws" };
        let mut command = shell::command(&self.wsroll);
        command
            .args([
                "load",
                "--dialect",
                "echo",
                "--output",
                "json",
                "--say-every",
                "1h",
                "--duration",
                "10m",
            ])
            .args(["--url", &format!("{scheme}://localhost:{}/", address.port())])
            .args(["--connect-to", &address.to_string()])
            .args(["--sessions", &sessions.to_string(), "--connect-rate", "1000"]);
        if tls {
            command.arg("--ca-file").arg(self.scratch.path().join("tls.crt"));
        }
        let load = Running::start("load", &mut command, &self.scratch)?;
        wait::until(&format!("{sessions} open sessions"), OPEN, || {
            let told = load.output();
            let last = told.lines().last().unwrap_or_default();
            let line: Value = serde_json::from_str(last).unwrap_or_default();
            if line["open"] != sessions {
                bail!("{} of {sessions} are open; {}", line["open"], load.said());
            }
            Ok(())
        })?;
        wait::sleep(SETTLE);
        Ok((resident_bytes(load.pid())?, load))
    }

    fn server(&self, tls: bool, address: SocketAddr) -> Result<Running> {
        let file = |name: &str| self.scratch.path().join(name).display().to_string();
        let mut command = if tls {
            let port = address.port().to_string();
            self.node
                .program("ws-server.js", &[&port, &file("tls.crt"), &file("tls.key")])
        } else {
            let mut echo = shell::command(&self.echo);
            echo.arg("echo").arg(address.to_string());
            echo
        };
        let mut server = Running::start("server", &mut command, &self.scratch)?;
        server.await_listening(address)?;
        Ok(server)
    }

    fn certify(&self) -> Result<()> {
        shell::run(
            shell::command("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ])
                .args([
                    "-days",
                    "2",
                    "-subj",
                    "/CN=localhost",
                    "-addext",
                    "subjectAltName=DNS:localhost",
                ])
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .args(["-keyout", "tls.key", "-out", "tls.crt"])
                .current_dir(self.scratch.path()),
        )
    }
}

impl Measured {
    fn json(&self) -> Value {
        json!({
            "tls": self.tls,
            "sessions": self.sessions,
            "bytesPerSession": self.bytes,
            "processorPercentWhileAway": self.away_percent,
        })
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.tls { "TLS" } else { "plain" };
        write!(
            f,
            "| {kind} | {} | {:.0} | 1/{:.0} | {:.1} % in all, {:.4} % each |",
            self.sessions,
            self.bytes,
            K6_USER / self.bytes,
            self.away_percent,
            self.away_percent / self.sessions as f64
        )
    }
}

/// Resident memory, bytes.
fn resident_bytes(pid: u32) -> Result<u64> {
    let status = read(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("failed to understand /proc/PID/status")?;
    Ok(kilobytes * 1_024)
}

/// User and system time of all threads, seconds: fields 14 and 15, counted behind the name, which may hold anything.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
}

fn read(path: PathBuf) -> Result<String> {
    std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
}
