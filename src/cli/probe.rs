//! `wsroll probe`: sessions that write state, reconnect once, and look whether it is still there.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::load::Output;
use super::service::ServiceArgs;
use super::{duration, output};
use crate::probe::{ProbeDial, RehearsalTimeouts, reconnect_once};
use crate::session::{Met, Pin};

/// Check that sessions of a service survive a reconnect
#[derive(Debug, Args)]
pub struct ProbeArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Sessions to open
    #[arg(long, default_value_t = 20)]
    sessions: u32,
    /// Value of the header wsroll-pin, to reach one revision
    #[arg(long)]
    pin: Option<String>,
    /// How long each connect may take until the session is restored
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl ProbeArgs {
    /// Runs the probe; an error says which check did not hold.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            service,
            sessions,
            pin,
            timeout,
            output: form,
        } = self;
        let signer = service.signer()?;
        let dial = ProbeDial {
            headers: service.headers()?,
            url: service.url,
            connect_to: service.connect_to,
            dialect: service.dialect.into(),
            subprotocols: service.subprotocols,
            token: signer.as_ref().and_then(|signer| signer.sign("probe")),
            other_token: signer.as_ref().and_then(|signer| signer.sign("intruder")),
            met: Met::default(),
            outbound: None,
        };
        let pin = pin.as_deref().map(Pin::new).transpose().context("--pin")?;
        let timeouts = RehearsalTimeouts {
            restored: timeout,
            ..RehearsalTimeouts::default()
        };
        let (figures, failure) = reconnect_once(&dial, pin, sessions, timeouts).await?;
        match form {
            Output::Json => {
                output::print(&format!("{}\n", json!({"figures": figures, "failure": failure})))?;
            }
            Output::Text => output::print(&format!(
                "{sessions} sessions, {} of {} attempts restored, p50 {} ms, p95 {} ms, state lost {}\n",
                figures.restored,
                figures.attempts,
                figures.restored_p50_ms.unwrap_or_default(),
                figures.restored_p95_ms.unwrap_or_default(),
                figures.state_lost,
            ))?,
        }
        match failure {
            None => Ok(()),
            Some(failure) => anyhow::bail!("{}: {}", failure.check, failure.message),
        }
    }
}
