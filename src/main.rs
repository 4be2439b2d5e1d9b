//! The `wsroll` binary: parse, run.
use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    wsroll::cli::Args::parse().run()
}
