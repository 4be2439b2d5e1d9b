//! The session server's binary.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> anyhow::Result<ExitCode> {
    session_server::cli::Cli::parse().run()
}
