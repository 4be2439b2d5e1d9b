//! One binary, many verbs.
use clap::Parser;

/// Ships new versions of WebSocket services without anybody's session noticing.
#[derive(Debug, Parser)]
#[command(name = "wsroll", version)]
pub struct Args {}

impl Args {
    /// Runs the chosen verb.
    pub fn run(self) -> anyhow::Result<()> {
        Ok(())
    }
}
