//! `cargo xtask bench`: figures, as pairs measured in one run.

mod probes;
mod report;
mod sidecar;

use std::path::PathBuf;

use anyhow::Result;

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Bench {
    /// The sidecar beside `HAProxy`, Envoy and no proxy
    Sidecar(Options),
    /// What a probe costs that only waits
    Probes(Options),
}

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// One short round: whether it works, not what it can do
    #[arg(long)]
    quick: bool,
    /// Refuse to install packages on this host
    #[arg(long)]
    no_install: bool,
}

/// Measures.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Sidecar(options) => sidecar::run(options),
        Bench::Probes(options) => probes::run(options),
    }
}
