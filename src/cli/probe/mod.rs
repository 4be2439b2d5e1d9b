//! `wsroll probe`: sessions that write state, stay a while, reconnect once, and look whether it is still there.

mod progress;
mod report;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use self::report::Report;
use super::service::ServiceArgs;
use super::{duration, output};
use crate::probe::{ProbeDial, RehearsalTimeouts, hold_and_reconnect};
use crate::session::{Met, Pin, Times};

/// Check that sessions of a service survive a reconnect
#[derive(Debug, Args)]
pub struct ProbeArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Sessions to open
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    sessions: u32,
    /// How long the sessions stay, with a message each second, before they reconnect
    #[arg(long, default_value = "0s", value_parser = duration)]
    hold: Duration,
    /// Value of the header wsroll-pin, to reach one revision
    #[arg(long)]
    pin: Option<String>,
    /// How long each connect may take until the session is restored
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// One JSON object
    Json,
    /// `JUnit` XML, a test case per check
    Junit,
}

impl ProbeArgs {
    /// Runs the probe; an error says which check did not hold.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            service,
            sessions,
            hold,
            pin,
            timeout,
            output: form,
        } = self;
        let times = Times::default();
        let mut manner = service.manner()?;
        manner.times = Some(times.clone());
        let dial = ProbeDial {
            headers: service.headers()?,
            token: service.token("wsroll-probe")?,
            other_token: service.token("wsroll-probe-intruder")?,
            dialect: service.dialect()?,
            url: service.url,
            connect_to: service.connect_to,
            subprotocols: service.subprotocols,
            met: Met::default(),
            outbound: None,
            manner,
        };
        let pin = pin.as_deref().map(Pin::new).transpose().context("--pin")?;
        let timeouts = RehearsalTimeouts {
            restored: timeout,
            ..RehearsalTimeouts::default()
        };
        let shown = progress::show(times.clone(), u64::from(sessions));
        let outcome = hold_and_reconnect(&dial, pin, sessions, hold, timeouts).await;
        shown.finish();
        let (figures, failure) = outcome?;
        let report = Report::new(sessions, figures, failure, &times.take());
        output::print(&match form {
            Form::Text => report.text(),
            Form::Json => report.json(),
            Form::Junit => report.junit(),
        })?;
        match report.failure {
            None => Ok(()),
            Some(failure) => anyhow::bail!("{}: {}", failure.check, failure.message),
        }
    }
}
