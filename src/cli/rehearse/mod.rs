//! `wsroll rehearse`: the five scenarios without a cluster, against a service that this verb starts, stops and kills by commands.

mod local;
mod process;
mod report;
mod switch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::local::{Course, DrainPort, Local};
use self::process::Service;
use self::report::{Report, Run};
use self::switch::Switch;
use super::service::ServiceArgs;
use super::{duration, output};
use crate::api::spec::Scenario;
use crate::probe::{Board, ProbeDial, RehearsalTimeouts, Setting, rehearse};
use crate::session::Met;

/// Play the five scenarios against a service without a cluster: hand-off, state, graceful shutdown, crash, back-off
///
/// The service is started by --start-command, in a process group of its own, and ended whatever happens. Probes dial it through a
/// switch inside this process. What cannot be played with the flags given is skipped, with the flag that is missing. The exit
/// code is 1 when a scenario fails.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Starts the service; run by `sh -c`, and it stays in the foreground. Without it the service runs already
    #[arg(long, value_name = "COMMAND")]
    start_command: Option<String>,
    /// Stops the service politely; without it the process group gets SIGTERM
    #[arg(long, value_name = "COMMAND", requires = "start_command")]
    stop_command: Option<String>,
    /// Where a second instance takes connections, which sessions are handed over to
    #[arg(long, value_name = "HOST:PORT")]
    second_connect_to: Option<String>,
    /// Starts the second instance; without it that runs already
    #[arg(long, value_name = "COMMAND", requires = "second_connect_to")]
    second_start_command: Option<String>,
    /// The drain port; with it a graceful shutdown is an order with notices, without it a restart
    #[arg(long, value_name = "http://HOST:9911", requires = "drain_token_file")]
    drain_url: Option<String>,
    /// A file with the drain token
    #[arg(long, value_name = "FILE", requires = "drain_url")]
    drain_token_file: Option<PathBuf>,
    /// The scenarios to play, in this order
    #[arg(long, value_delimiter = ',', value_parser = scenario, default_value = "HandOff,StatePreservation,GracefulShutdown,Crash,BackOff")]
    scenarios: Vec<Scenario>,
    /// Concurrent clients; with several numbers everything is played once for each
    #[arg(long, value_delimiter = ',', default_value = "20", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    clients: Vec<u32>,
    /// Play over and over until this much time is over; without it once
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// How long one step may take: open, restore, answer
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// How long the service may take until an upgrade works
    #[arg(long, default_value = "60s", value_parser = duration)]
    ready_timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// How the report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Text,
    /// One JSON object
    Json,
    /// For CI systems
    Junit,
}

impl RehearseArgs {
    /// Plays, prints, and fails when a scenario did.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            service,
            start_command,
            stop_command,
            second_connect_to,
            second_start_command,
            drain_url,
            drain_token_file,
            scenarios,
            clients,
            duration: cycle,
            timeout,
            ready_timeout,
            output: form,
        } = self;
        let mut dial = dial(service)?;
        let endpoint = dial.endpoint()?;
        let direct = dial
            .connect_to
            .clone()
            .unwrap_or_else(|| endpoint.address().to_owned());
        let switch = Switch::start(&direct).await?;
        dial.connect_to = Some(switch.address());
        let timeouts = RehearsalTimeouts {
            restored: timeout,
            exchange: timeout,
            drain: Duration::from_secs(60).max(timeout * 3),
            crash: Duration::from_secs(60).max(timeout),
        };
        let drain = match (drain_url, drain_token_file) {
            (Some(url), Some(file)) => Some(DrainPort::new(&url, &file).await?),
            _ => None,
        };
        let stage = Local {
            switch,
            first: direct,
            second: second_connect_to,
            service: start_command.map(|start| Service::new(start, stop_command)),
            second_service: second_start_command.map(|start| Service::new(start, None)),
            dial: dial.clone(),
            ready_timeout,
            drain,
            course: Course::default(),
        };
        let cancelled = CancellationToken::new();
        let watcher = tokio::spawn(interrupted(cancelled.clone()));
        let outcome = cycles(&stage, &dial, timeouts, &scenarios, &clients, cycle, &cancelled).await;
        stage.end().await;
        watcher.abort();
        let report = outcome?;
        output::print(&match form {
            Form::Text => report.text(),
            Form::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
            Form::Junit => report.junit(),
        })?;
        anyhow::ensure!(!cancelled.is_cancelled(), "interrupted");
        let failed = report.failed();
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
        Ok(())
    }
}

/// Starts the service, and plays until the time is over: at least once with every number of clients.
async fn cycles(
    stage: &Local,
    dial: &ProbeDial,
    timeouts: RehearsalTimeouts,
    scenarios: &[Scenario],
    clients: &[u32],
    cycle: Option<Duration>,
    cancelled: &CancellationToken,
) -> anyhow::Result<Report> {
    let ready = cancelled.run_until_cancelled(stage.begin()).await;
    ready.context("interrupted")??;
    let until = Instant::now() + cycle.unwrap_or_default();
    let mut report = Report::default();
    loop {
        for &clients in clients {
            let mut set = Setting::new(dial, timeouts)?;
            set.sessions = clients;
            let board = Board::new(Timestamp::UNIX_EPOCH);
            rehearse(&set, scenarios, stage, &board, cancelled).await;
            if cancelled.is_cancelled() {
                return Ok(report);
            }
            report.add(Run {
                clients,
                scenarios: board.scenarios(),
            });
            if cycle.is_some() {
                eprintln!("{}", report.running());
            }
        }
        if Instant::now() >= until {
            return Ok(report);
        }
    }
}

fn dial(service: ServiceArgs) -> anyhow::Result<ProbeDial> {
    Ok(ProbeDial {
        headers: service.headers()?,
        token: service.token("wsroll-probe")?,
        other_token: service.token("wsroll-probe-intruder")?,
        dialect: service.dialect()?,
        manner: service.manner()?,
        url: service.url,
        connect_to: service.connect_to,
        subprotocols: service.subprotocols,
        met: Met::default(),
        outbound: None,
    })
}

/// Ends the play on SIGINT and SIGTERM, so that what was started is ended too.
async fn interrupted(cancelled: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    cancelled.cancel();
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let same = |scenario: &Scenario| scenario.to_string().eq_ignore_ascii_case(name.trim());
    Scenario::ALL.into_iter().find(same).ok_or_else(|| {
        let all = Scenario::ALL.map(|scenario| scenario.to_string()).join(", ");
        format!("{name:?} is none of {all}")
    })
}
