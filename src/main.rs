//! The `wsroll` binary: parse, run.
use clap::Parser as _;

fn main() -> std::process::ExitCode {
    wsroll::cli::Args::parse().run()
}
