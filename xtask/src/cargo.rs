//! Cargo, called from within cargo: the same toolchain, the same target directory.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{paths, shell};

/// The cargo that runs us, in the workspace, without the variables that describe xtask itself.
pub fn command() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = shell::command(cargo);
    command.current_dir(paths::root());
    for (name, _) in std::env::vars_os() {
        // They would make build scripts of dependencies look changed.
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Builds the workspace's programs and gives the directory they are in.
///
/// Asking for examples, of which there are none, turns on the features of shared dependencies that only
/// tests ask for: otherwise everything would be compiled once for the tests and once more for this.
pub fn build_programs() -> Result<PathBuf> {
    let programs = ["--bin", "wsroll", "--bin", "session-server", "--examples"];
    shell::run(command().args(["build", "--workspace"]).args(programs))?;
    Ok(target_dir()?.join("debug"))
}

/// The wsroll that tests start as a process: the one that `WSROLL_PROGRAM` names, or one that is built.
pub fn wsroll() -> Result<PathBuf> {
    match std::env::var_os("WSROLL_PROGRAM") {
        Some(program) => Ok(PathBuf::from(program)),
        None => Ok(build_programs()?.join("wsroll")),
    }
}

/// What is measured, built as it is released: wsroll (or the one that `WSROLL_PROGRAM` names) and the load.
pub fn build_for_bench() -> Result<(PathBuf, PathBuf)> {
    let named = std::env::var_os("WSROLL_PROGRAM").map(PathBuf::from);
    let mut build = command();
    build.args([
        "build",
        "--release",
        "--package",
        "sidecar-bench",
        "--bin",
        "sidecar-bench",
    ]);
    if named.is_none() {
        build.args(["--package", "wsroll", "--bin", "wsroll"]);
    }
    shell::run(&mut build)?;
    let built = target_dir()?.join("release");
    Ok((
        named.unwrap_or_else(|| built.join("wsroll")),
        built.join("sidecar-bench"),
    ))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let described = shell::output(command().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&described).context("failed to read cargo's metadata")?;
    Ok(metadata.target_directory)
}
