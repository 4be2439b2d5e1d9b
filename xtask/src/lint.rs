//! Everything that reads the sources without running them.

use anyhow::{Context as _, Result, bail};

use crate::{cargo, generate, paths, shell, toolchain};

/// The helm that checks the chart, built from source where the host has none.
const HELM: (&str, &str) = ("helm.sh/helm/v3/cmd/helm", "v3.22.0");
/// The Kubernetes that the chart is rendered for: the embedded one.
const KUBERNETES: &str = "1.35.4";

/// One check.
type Check = fn() -> Result<()>;

/// Runs all of it, so that one round shows every finding; fails when one check does.
pub fn run() -> Result<()> {
    let checks: [(&str, Check); 6] = [
        ("format", format),
        ("clippy", clippy),
        ("documentation", documentation),
        ("dependencies", dependencies),
        ("generated files", || generate::run(true)),
        ("chart", chart),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        eprintln!("lint: {name}");
        if let Err(error) = check() {
            eprintln!("lint: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn format() -> Result<()> {
    shell::run(cargo::command().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    shell::run(cargo::command().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    // Asking for examples, of which there are none, turns on the tests' dependencies: otherwise all
    // dependencies would be checked a second time with other features. Programs are named, for that of
    // wsroll would take the place of the library's pages.
    let doc = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--lib",
        "--examples",
    ];
    let programs = ["--bin", "session-server", "--bin", "xtask"];
    shell::run(
        cargo::command()
            .env("RUSTDOCFLAGS", "-D warnings")
            .args(doc)
            .args(programs),
    )
}

/// Licenses, sources and doubled dependencies. Only where cargo-deny is installed: building it takes
/// longer than everything else here together.
fn dependencies() -> Result<()> {
    if shell::which("cargo-deny").is_none() {
        eprintln!("lint: LEFT OUT: cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    let checks = ["check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    shell::run(cargo::command().arg("deny").args(checks))
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
    shell::run(
        shell::command(&helm)
            .args(["lint", "--strict", "--quiet"])
            .arg(&chart),
    )?;
    shell::output(
        shell::command(&helm)
            .args([
                "template",
                "wsroll",
                "--include-crds",
                "--kube-version",
                KUBERNETES,
            ])
            .arg(&chart),
    )
    .map(drop)
}
