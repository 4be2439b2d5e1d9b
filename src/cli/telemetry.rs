//! Logs: fields, not formatted strings, on stderr.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// What is logged, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct TelemetryArgs {
    /// What to log: a level or `target=level,…` [default: info for the operator, warn else]
    #[arg(long = "log", global = true, env = "WSROLL_LOG", value_name = "FILTER")]
    filter: Option<String>,
    /// How to write logs
    #[arg(long, global = true, env = "WSROLL_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl TelemetryArgs {
    /// Sets the process's subscriber; `long_running` processes log more by default. To be called once.
    pub fn init(&self, long_running: bool) -> anyhow::Result<()> {
        let Self { filter, log_format } = self;
        let default = if long_running { "info" } else { "warn" };
        let filter = EnvFilter::try_new(filter.as_deref().unwrap_or(default))
            .map_err(|error| anyhow::anyhow!("--log: {error}; use a level, or target=level,…"))?;
        // Below it prints every frame, and at `trace` whole upgrade requests, tokens included.
        let filter = filter.add_directive("tungstenite=warn".parse()?);
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        let set = match log_format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        set.map_err(|error| anyhow::anyhow!("failed to set up logs: {error}"))
    }
}
