//! Command line and environment.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Config, DrainPort, Limits, Secret},
    fault::Faults,
    server::{Exit, Server},
    store::{MemoryStore, PostgresStore, RedisStore, StateKeys, Store},
    token::{Clock, Identity, Permissions, SessionKey},
};

/// Exit code of the `crash` fault: the same as a panic's.
const CRASHED: u8 = 101;

/// A WebSocket service with resumable sessions.
#[derive(Debug, Parser)]
#[command(name = "session-server", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a session token.
    Token(TokenArgs),
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// The user that the token is for.
    #[arg(long)]
    user: String,
    /// The user's tier.
    #[arg(long, default_value = "free")]
    tier: String,
    /// What the bearer may do: some of say, set and state, joined by `-`, or `none`; all of it when left out.
    #[arg(long)]
    permissions: Option<Permissions>,
    /// How long the token is good for, in seconds; for ever when left out.
    #[arg(long)]
    expires_in_seconds: Option<u64>,
    /// A file with the key; without it, the variable `SESSION_KEY`.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// The key that signs tokens.
    #[arg(long, env = "SESSION_KEY", hide_env_values = true, hide = true)]
    session_key: Option<String>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Where clients connect.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Where sessions live: `memory`, `redis://host:port`, or `postgres://user:password@host:port/database`.
    #[arg(long, env = "STORE", default_value = "memory", hide_env_values = true)]
    store: String,
    /// Connections to PostgreSQL, beside the one that listens.
    #[arg(long, env = "STORE_CONNECTIONS", default_value_t = 8)]
    store_connections: usize,
    /// Certificate authorities of the PostgreSQL server, as a PEM file; without it, those of the machine.
    #[arg(long, env = "STORE_CA_FILE")]
    store_ca_file: Option<PathBuf>,
    /// The file with the keys that seal what stands in the store: 32 bytes in base64 a line. The first seals, all open.
    #[arg(long, env = "STATE_KEY_FILE")]
    state_key_file: Option<PathBuf>,
    /// Whether entries that were stored before there was a key are still read.
    #[arg(long, env = "STATE_ACCEPT_UNSEALED", default_value_t = false, action = clap::ArgAction::Set)]
    state_accept_unsealed: bool,
    /// How long a session outlives its last use, in seconds.
    #[arg(long, env = "SESSION_TTL_SECONDS", default_value_t = 3600)]
    session_ttl_seconds: u64,
    /// The key that signs session tokens.
    #[arg(long, env = "SESSION_KEY", hide_env_values = true)]
    session_key: Option<String>,
    /// Shown as the revision where the operator gave none.
    #[arg(long, env = "VERSION", default_value = "dev")]
    app_version: String,
    /// The revision, as the operator gives it.
    #[arg(long, env = "WSROLL_REVISION")]
    revision: Option<String>,
    /// The drain port.
    #[arg(long, env = "WSROLL_PORT", default_value_t = 9911)]
    drain_port: u16,
    /// The drain token's file; without the file the drain port is not served.
    #[arg(long, env = "WSROLL_TOKEN_FILE", default_value = "/var/run/wsroll/token")]
    drain_token_file: PathBuf,
    /// The file with the key that hashes identities in events; without the file none are told.
    #[arg(
        long,
        env = "WSROLL_IDENTITY_KEY_FILE",
        default_value = "/var/run/wsroll/identity-key"
    )]
    identity_key_file: PathBuf,
    /// The pod's name.
    #[arg(long, env = "HOSTNAME")]
    pod: Option<String>,
    /// Whether clients that ask for it may open a new socket before they leave the old one.
    #[arg(long, env = "MAKE_BEFORE_BREAK", default_value_t = true, action = clap::ArgAction::Set)]
    make_before_break: bool,
    /// Faults to switch on: mute, mute-above=N, slow=MS, refuse=N%, crash=N, forget, lie, restore-per-second=N.
    #[arg(long, env = "FAULT", default_value = "")]
    fault: Faults,
    /// The fault of the same name: sessions that can be restored per second; more of them wait, or are refused.
    #[arg(long, env = "RESTORE_PER_SECOND")]
    restore_per_second: Option<f64>,
    /// How long to stay after SIGTERM, in milliseconds.
    #[arg(long, env = "SHUTDOWN_GRACE_MS", default_value_t = 10_000)]
    shutdown_grace_ms: u64,
    /// The most sockets at once.
    #[arg(long, env = "MAX_SOCKETS", default_value_t = 20_000)]
    max_sockets: usize,
}

// === impl Cli ===

impl Cli {
    /// Does what was asked; returns at the end of the process.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Some(Command::Token(args)) => args.run(),
            None => self.serve.run(),
        }
    }
}

// === impl TokenArgs ===

impl TokenArgs {
    #[allow(
        clippy::print_stdout,
        reason = "printing the token is what the command is for"
    )]
    fn run(self) -> Result<ExitCode> {
        let key = match (self.key_file, self.session_key) {
            (Some(file), _) => {
                let key = fs::read_to_string(&file)
                    .with_context(|| format!("failed to read {}", file.display()))?;
                key.trim().to_owned()
            }
            (None, Some(key)) => key,
            (None, None) => bail!("give the key by --key-file or in SESSION_KEY"),
        };
        let key = SessionKey::new(key);
        let token = match (self.permissions, self.expires_in_seconds) {
            (None, None) => key.sign(&self.user, &self.tier)?,
            (permissions, lasts) => key.sign_identity(&Identity {
                user: self.user,
                tier: self.tier,
                permissions: permissions.unwrap_or(Permissions::ALL),
                expires: lasts.map(|seconds| Clock::System.now().saturating_add(seconds)),
            })?,
        };
        println!("{token}");
        Ok(ExitCode::SUCCESS)
    }
}

// === impl ServeArgs ===

impl ServeArgs {
    fn run(self) -> Result<ExitCode> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let exit = runtime.block_on(async { serve(self.config()?).await })?;
        // What is still open is cut; nothing may hold the process.
        runtime.shutdown_background();
        Ok(match exit {
            Exit::Clean | Exit::Killed => ExitCode::SUCCESS,
            Exit::GraceOver => ExitCode::FAILURE,
            Exit::Crashed => ExitCode::from(CRASHED),
        })
    }

    fn config(self) -> Result<Config> {
        let Self {
            listen,
            store,
            store_connections,
            store_ca_file,
            state_key_file,
            state_accept_unsealed,
            session_ttl_seconds,
            session_key,
            app_version,
            revision,
            drain_port,
            drain_token_file,
            identity_key_file,
            pod,
            make_before_break,
            mut fault,
            restore_per_second,
            shutdown_grace_ms,
            max_sockets,
        } = self;
        if let Some(rate) = restore_per_second {
            fault.restore_per_second =
                Some(Faults::rate(rate).context("--restore-per-second must be above 0")?);
        }
        let session_key = session_key
            .filter(|key| !key.is_empty())
            .context("SESSION_KEY is needed")?;
        let ttl = Duration::from_secs(session_ttl_seconds);
        let keys = state_keys(state_key_file.as_deref(), state_accept_unsealed)?;
        let store = if store == "memory" {
            Store::Memory(MemoryStore::new(ttl))
        } else {
            if keys.is_empty() {
                tracing::warn!("what the store holds is not sealed: STATE_KEY_FILE names no key");
            }
            outer_store(&store, ttl, store_ca_file.as_deref(), store_connections, keys)?
        };
        let pod = pod.or_else(|| Some(fs::read_to_string("/etc/hostname").ok()?.trim().to_owned()));
        Ok(Config {
            listen,
            drain: drain_config(&drain_token_file, drain_port)?,
            identity_key: read_secret(&identity_key_file).context("the identity key cannot be used")?,
            store,
            session_key: SessionKey::new(session_key),
            clock: Clock::System,
            revision: revision
                .filter(|revision| !revision.is_empty())
                .unwrap_or(app_version),
            pod: pod.unwrap_or_else(|| "unknown".to_owned()),
            make_before_break,
            faults: fault,
            limits: Limits {
                max_sockets,
                shutdown_grace: Duration::from_millis(shutdown_grace_ms),
                ..Limits::default()
            },
        })
    }
}

/// A store outside of this process, by its URL.
fn outer_store(
    url: &str,
    ttl: Duration,
    authorities: Option<&Path>,
    connections: usize,
    keys: StateKeys,
) -> Result<Store> {
    let problem = "STORE must be memory, redis://host:port or postgres://user:password@host:port/database";
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let store =
            PostgresStore::new(url, ttl, authorities).and_then(|store| store.with_connections(connections));
        return Ok(Store::Postgres(store.context(problem)?.sealed_by(keys)));
    }
    let store = RedisStore::new(url, ttl).context(problem)?;
    Ok(Store::Redis(store.sealed_by(keys)))
}

/// The keys that seal what stands in the store. A file that is named and cannot be used is an error: nothing is to be
/// stored unsealed by mistake.
fn state_keys(file: Option<&Path>, accept_unsealed: bool) -> Result<StateKeys> {
    let Some(file) = file.filter(|file| !file.as_os_str().is_empty()) else {
        return Ok(StateKeys::default());
    };
    let problem = || format!("STATE_KEY_FILE {} cannot be used", file.display());
    let text = fs::read_to_string(file).with_context(problem)?;
    let keys = StateKeys::parse(&text).with_context(problem)?;
    Ok(keys.accepting_unsealed(accept_unsealed))
}

/// The drain port, if its token is there. A token that is there and cannot be read is an error: a pod without a drain
/// port would count as one whose sessions nobody knows.
fn drain_config(file: &Path, port: u16) -> Result<Option<DrainPort>> {
    let token = read_secret(file).context("the drain token cannot be used")?;
    Ok(token.map(|token| DrainPort {
        listen: SocketAddr::from(([0, 0, 0, 0], port)),
        token,
    }))
}

fn read_secret(file: &Path) -> Result<Option<Secret>> {
    let secret = match fs::read_to_string(file) {
        Ok(secret) => secret.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", file.display())),
    };
    if secret.is_empty() {
        bail!("{} is empty", file.display());
    }
    Ok(Some(Secret::new(secret)))
}

/// Serves until a signal, a crash, or the end of a shutdown; a second signal ends it at once.
async fn serve(config: Config) -> Result<Exit> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let server = Server::start(config).await?;
    tokio::select! {
        exit = server.ended() => return Ok(exit),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::select! {
        exit = server.shutdown() => Ok(exit),
        exit = server.ended() => Ok(exit),
        _ = terminate.recv() => Ok(Exit::GraceOver),
        _ = interrupt.recv() => Ok(Exit::GraceOver),
    }
}
