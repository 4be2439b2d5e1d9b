//! Everything that reads the sources without running them.

use anyhow::{Context as _, Result};

use crate::{cargo, generate, paths, shell, toolchain};

/// The helm that checks the chart, built from source where the host has none.
const HELM: (&str, &str) = ("helm.sh/helm/v3/cmd/helm", "v3.22.0");

/// Runs all of it; the first finding ends it.
pub fn run() -> Result<()> {
    check("format", &["fmt", "--all", "--check"])?;
    check(
        "clippy",
        &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    )?;
    eprintln!("lint: documentation");
    // Asking for examples, of which there are none, turns on the tests' dependencies: otherwise all
    // dependencies would be checked a second time with other features.
    let doc = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--lib",
        "--bins",
        "--examples",
    ];
    shell::run(cargo::command().env("RUSTDOCFLAGS", "-D warnings").args(doc))?;
    dependencies()?;
    eprintln!("lint: generated files");
    generate::run(true)?;
    chart()
}

fn check(what: &str, arguments: &[&str]) -> Result<()> {
    eprintln!("lint: {what}");
    shell::run(cargo::command().args(arguments))
}

/// Licenses, sources and doubled dependencies. Only where cargo-deny is installed: building it takes
/// longer than everything else here together.
fn dependencies() -> Result<()> {
    if shell::which("cargo-deny").is_none() {
        eprintln!("lint: LEFT OUT: cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    check(
        "dependencies",
        &["deny", "--offline", "check", "bans", "licenses", "sources"],
    )
}

/// The chart, as helm sees it.
fn chart() -> Result<()> {
    let chart = paths::root().join("charts/wsroll");
    if !chart.join("Chart.yaml").exists() {
        return Ok(());
    }
    let helm = match shell::which("helm") {
        Some(helm) => helm,
        None => toolchain::go_install(HELM.0, HELM.1).context("failed to build helm")?,
    };
    eprintln!("lint: chart");
    shell::run(
        shell::command(&helm)
            .args(["lint", "--strict", "--quiet"])
            .arg(&chart),
    )?;
    let rendered = shell::command(&helm)
        .args(["template", "wsroll", "--include-crds", "--kube-version", "1.33.0"])
        .arg(&chart)
        .output();
    let rendered = rendered.context("failed to start helm")?;
    if !rendered.status.success() {
        anyhow::bail!(
            "the chart cannot be rendered: {}",
            String::from_utf8_lossy(&rendered.stderr)
        );
    }
    Ok(())
}
