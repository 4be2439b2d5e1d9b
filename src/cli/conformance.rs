//! `wsroll conformance`: does an implementation keep to the drain protocol?

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::load::Output;
use super::output;
use crate::conformance::{Config, Declare, Traffic, play};
use crate::drain::identity::IdentityKey;

/// Play the drain protocol against an implementation, and say what holds and what does not
///
/// Without --ws only the drain port's answers are looked at, and no session is touched. With it, clients are opened at
/// that URL and drained: every session of that process is. The exit code is 1 when a rule that must hold does not.
#[derive(Debug, Args)]
pub struct ConformanceArgs {
    /// The drain port
    #[arg(long, value_name = "http://HOST:9911")]
    url: String,
    /// The drain token; the variable keeps it out of the list of processes
    #[arg(
        long,
        env = "WSROLL_TOKEN",
        hide_env_values = true,
        required_unless_present = "token_file"
    )]
    token: Option<String>,
    /// A file with the drain token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The service itself; `{session}` in it is replaced by a name of the session's own
    #[arg(long, value_name = "ws://HOST:PORT/PATH")]
    ws: Option<String>,
    /// A further request header for --ws; may be repeated; `{session}` is replaced as well
    #[arg(long = "header", value_name = "NAME:VALUE", requires = "ws")]
    headers: Vec<String>,
    /// How a client declares that it reads notices: query parameters (name=value), or else a subprotocol
    #[arg(long, value_name = "QUERY|SUBPROTOCOL", requires = "ws")]
    declare_notice: Option<String>,
    /// A file with the key that hashes sessions' identities, to compare events with
    #[arg(long, value_name = "FILE", requires = "ws")]
    identity_key_file: Option<PathBuf>,
    /// Clients to open at once, at least 16
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(16..=1000))]
    sessions: u16,
    /// Go on although the process has sessions of others, which are drained too
    #[arg(long)]
    live: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl ConformanceArgs {
    /// Plays, prints, and fails when a rule that must hold does not.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            url,
            token,
            token_file,
            ws,
            headers,
            declare_notice,
            identity_key_file,
            sessions,
            live,
            output: form,
        } = self;
        anyhow::ensure!(url.starts_with("http://"), "--url: must begin with http://");
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
        };
        let token = match (token, &token_file) {
            (Some(token), _) => token,
            (None, Some(file)) => read(file).context("--token-file")?,
            (None, None) => anyhow::bail!("--token or --token-file is needed"),
        };
        let split = |header: &String| {
            let (name, value) = header.split_once(':').context("--header: expected NAME:VALUE")?;
            anyhow::Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        let headers = headers.iter().map(split).collect::<anyhow::Result<_>>()?;
        let declare = declare_notice.map(|text| text.parse::<Declare>()).transpose()?;
        let identity_key = identity_key_file
            .as_ref()
            .map(read)
            .transpose()
            .context("--identity-key-file")?;
        let report = play(Config {
            url,
            token,
            traffic: ws.map(|url| Traffic {
                url,
                headers,
                declare,
            }),
            identity_key: identity_key.as_deref().map(IdentityKey::new),
            sessions: usize::from(sessions),
            live,
        })
        .await?;
        match form {
            Output::Text => output::print(&report.text())?,
            Output::Json => output::print(&format!("{}\n", serde_json::to_string(&report)?))?,
        }
        let broken = report.broken();
        anyhow::ensure!(
            broken.is_empty(),
            "{} rules do not hold: {}",
            broken.len(),
            broken.join(", ")
        );
        Ok(())
    }
}
