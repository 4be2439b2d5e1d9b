//! `wsroll sidecar`: the relay in front of an application that does not speak the drain protocol.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::duration;
use crate::drain::client::Token;
use crate::drain::identity::IdentityKey;
use crate::proxy::settings::SETTINGS_ENV;
use crate::proxy::{Config, DrainTls, Exit, Settings, Sidecar};

/// Relay WebSockets to an application, and let them go when the operator asks
#[derive(Debug, Args)]
pub struct SidecarArgs {
    /// Where clients connect
    #[arg(long, default_value = "0.0.0.0:9910", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where the drain protocol, /healthz and /metrics are served; with `WSROLL_PORT` set, on that port
    #[arg(long, default_value = "0.0.0.0:9911", value_name = "ADDRESS")]
    drain_listen: SocketAddr,
    /// Where the application is [default: 127.0.0.1 and the settings' applicationPort]
    #[arg(long, value_name = "ADDRESS")]
    application: Option<SocketAddr>,
    /// The revision's drain token
    #[arg(
        long,
        env = "WSROLL_TOKEN_FILE",
        default_value = "/var/run/wsroll/token",
        value_name = "FILE"
    )]
    token_file: PathBuf,
    /// The certificate of the drain port, PEM; with it the port is served by TLS only
    #[arg(
        long,
        env = "WSROLL_TLS_CERTIFICATE_FILE",
        requires = "tls_key_file",
        value_name = "FILE"
    )]
    tls_certificate_file: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(
        long,
        env = "WSROLL_TLS_KEY_FILE",
        requires = "tls_certificate_file",
        value_name = "FILE"
    )]
    tls_key_file: Option<PathBuf>,
    /// The rollout's key for identities; without such a file there are no events
    #[arg(
        long,
        env = "WSROLL_IDENTITY_KEY_FILE",
        default_value = "/var/run/wsroll/identity-key",
        value_name = "FILE"
    )]
    identity_key_file: PathBuf,
    /// The revision that the pod was started as
    #[arg(long, env = "WSROLL_REVISION", value_name = "HASH")]
    revision: Option<String>,
    /// What to know about the application; needed unless --application is given
    #[arg(long, env = SETTINGS_ENV, value_name = "JSON")]
    settings: Option<String>,
    /// Port of the drain protocol, in place of --drain-listen's
    #[arg(long, env = "WSROLL_PORT", hide = true)]
    drain_port: Option<u16>,
    /// Threads that relay
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    threads: u16,
    /// How long sessions may last after SIGTERM
    #[arg(long, default_value = "25s", value_parser = duration)]
    grace: Duration,
}

impl SidecarArgs {
    /// The runtime that suits: one thread without the cost of work-stealing, or so many.
    pub fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        match self.threads {
            1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            threads => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads.into())
                .enable_all()
                .build(),
        }
    }

    /// Relays until SIGTERM, and then until no session is left; a second signal ends it at once.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
        let sidecar = Sidecar::start(self.config()?).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(open = sidecar.open(), "asked to end");
        tokio::select! {
            exit = sidecar.shutdown() => if exit == Exit::GraceOver {
                tracing::warn!(open = sidecar.open(), "sessions were left at the end of the grace period");
            },
            _ = terminate.recv() => tracing::warn!("asked again, ending at once"),
            _ = interrupt.recv() => tracing::warn!("asked again, ending at once"),
        }
        Ok(())
    }

    fn config(self) -> anyhow::Result<Config> {
        let Self {
            listen,
            mut drain_listen,
            application,
            token_file,
            tls_certificate_file,
            tls_key_file,
            identity_key_file,
            revision,
            settings,
            drain_port,
            threads: _,
            grace,
        } = self;
        if let Some(port) = drain_port {
            drain_listen.set_port(port);
        }
        let settings = match (&settings, application) {
            (Some(text), _) => Settings::parse(text).context("bad --settings")?,
            (None, Some(application)) => Settings::new(application.port()),
            (None, None) => anyhow::bail!("give --settings (or {SETTINGS_ENV}), or --application"),
        };
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.application_port));
        let tls = match (tls_certificate_file, tls_key_file) {
            (Some(certificate), Some(key)) => {
                let tls = DrainTls::new(&read(&certificate)?, &read(&key)?);
                Some(tls.context("the drain port cannot be served by TLS")?)
            }
            // Half of it is a mistake, and never a reason to serve in plain text.
            (None, None) => None,
            _ => anyhow::bail!("give --tls-certificate-file and --tls-key-file together"),
        };
        Ok(Config {
            listen,
            drain_listen,
            application: application.unwrap_or(local),
            token: Token::new(&read(&token_file)?),
            tls,
            identity_key: if identity_key_file.exists() {
                Some(IdentityKey::new(&read(&identity_key_file)?))
            } else {
                None
            },
            revision,
            settings,
            grace,
        })
    }
}

/// A file that holds a key. An empty one would open the port to everybody who shows nothing.
fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    anyhow::ensure!(!text.trim().is_empty(), "{} is empty", path.display());
    Ok(text)
}
