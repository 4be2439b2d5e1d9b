//! The tests: those that need nothing, those of other stacks, and those that need a cluster.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo,
    cluster::{self, ClusterHandle},
    host,
    image::{self, Images},
    interop, interrupt, outside, paths, shell,
    wait::Stopwatch,
};

/// Which tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Those that need no cluster
    Unit,
    /// The drain protocol in other languages, and the JavaScript client
    Native,
    /// The JavaScript client in a browser
    Browser,
    /// Those that need a cluster
    E2e,
    /// The Autobahn test suite, through the sidecar
    Autobahn,
    /// Servers and clients of other stacks, through the sidecar
    Stacks,
}

/// How to test.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which tests; all of them when left out
    kind: Option<Kind>,
    /// Only tests whose name holds this
    filter: Option<String>,
    /// Kinds to leave out; may be repeated
    #[arg(long)]
    skip: Vec<Kind>,
    /// End-to-end tests that run at once
    #[arg(long, default_value_t = 5)]
    threads: usize,
    /// Leave the cluster running that was started for the tests
    #[arg(long)]
    keep: bool,
    /// Refuse to install packages on this host
    #[arg(long)]
    no_install: bool,
}

/// Runs the tests; fails when one fails, but not for want of a cluster.
pub fn run(options: &Options) -> Result<()> {
    let watch = Stopwatch::start();
    let wanted = |kind: Kind| options.kind.is_none_or(|only| only == kind) && !options.skip.contains(&kind);
    if wanted(Kind::Unit) {
        stores(options)?;
        shell::run(
            cargo::command()
                .args(["test", "--workspace", "--no-fail-fast"])
                .args(&options.filter),
        )?;
    }
    if wanted(Kind::Native) {
        interop::native(!options.no_install, options.filter.as_deref())?;
    }
    if wanted(Kind::Browser) {
        interop::browser(!options.no_install)?;
    }
    // A filter names tests, and these are not named.
    let whole = options.filter.is_none();
    if wanted(Kind::Stacks) && whole {
        outside::stacks::run(outside::stacks::Options {
            install: !options.no_install,
        })?;
    }
    if wanted(Kind::Autobahn) && whole {
        match outside::autobahn::obstacle() {
            Some(reason) => eprintln!("\nLEFT OUT: the Autobahn test suite. {reason}"),
            None => outside::autobahn::run(&outside::autobahn::Options::usual(options.no_install))?,
        }
    }
    if wanted(Kind::E2e) {
        end_to_end(options)?;
    }
    eprintln!("tests: done in {:.0} s", watch.elapsed().as_secs_f64());
    Ok(())
}

/// The suites of the example's stores run against real servers; without them they name themselves as left out.
fn stores(options: &Options) -> Result<()> {
    let pieces = host::REDIS.iter().chain(&host::POSTGRES).copied();
    match host::ensure(&pieces.collect::<Vec<_>>(), !options.no_install) {
        Ok(()) => Ok(()),
        Err(reason) if options.no_install || !host::installs() => {
            eprintln!("\nLEFT OUT: stores without a server. {reason:#}");
            Ok(())
        }
        Err(reason) => Err(reason),
    }
}

fn end_to_end(options: &Options) -> Result<()> {
    if let Some(reason) = cluster::obstacle() {
        return leave_out(&reason);
    }
    let started_here = cluster::running()?.is_none();
    let stop_it = started_here && !options.keep;
    if stop_it {
        interrupt::defer()?;
    }
    let tested = test_on_cluster(options);
    if stop_it {
        // After a failure as well: whoever wants to look asks for `--keep`.
        interrupt::clean_up();
        cluster::down()?;
    }
    tested
}

fn test_on_cluster(options: &Options) -> Result<()> {
    let cluster = cluster::up(cluster::Options {
        install: !options.no_install,
    })?;
    let images = image::build(&cluster, !options.no_install)?;
    let mut test = cargo::command();
    test.args(["test", "--workspace", "--no-fail-fast"])
        .args(test_programs(&paths::root().join("tests"))?)
        .arg("--")
        .args(["--ignored", "--test-threads", &options.threads.to_string()])
        .args(&options.filter);
    describe(&mut test, &cluster, &images)?;
    if options.no_install {
        test.env("WSROLL_E2E_NO_INSTALL", "1");
    }
    let tested = shell::run(&mut test);
    if tested.is_err() {
        show_state(&cluster);
    }
    tested
}

/// Arguments that choose the operator's integration tests, whose ignored ones need a cluster. By name,
/// for choosing the package would build all dependencies again with other features.
fn test_programs(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))? {
        let path = entry?.path();
        let is_program = path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
        if let Some(name) = path.file_stem().filter(|_| is_program) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names
        .into_iter()
        .flat_map(|name| ["--test".to_owned(), name])
        .collect())
}

/// Tells the tests where everything is.
fn describe(test: &mut Command, cluster: &ClusterHandle, images: &Images) -> Result<()> {
    test.env("KUBECONFIG", &cluster.kubeconfig)
        .env("WSROLL_E2E_KUBECTL", &cluster.kubectl)
        .env("WSROLL_E2E_GATEWAY", &cluster.gateway_host)
        .env("WSROLL_E2E_GATEWAY_INSIDE", &cluster.gateway_inside)
        .env("WSROLL_E2E_GATEWAY_REF", &cluster.gateway_ref)
        .env("WSROLL_E2E_OPERATOR_IMAGE", &images.wsroll)
        .env("WSROLL_E2E_SERVER_IMAGE", &images.server)
        .env("WSROLL_E2E_REDIS_IMAGE", &images.redis)
        // Tests ask it for applications of other stacks, those that run.
        .env(
            "WSROLL_E2E_XTASK",
            std::env::current_exe().context("failed to find this program")?,
        )
        .env("WSROLL_E2E_WSROLL_BIN", cargo::target_dir()?.join("debug/wsroll"));
    Ok(())
}

/// Says loudly which tests did not run and what they need. No failure: the rest has been tested.
fn leave_out(reason: &str) -> Result<()> {
    let mut list = cargo::command();
    list.args(["test", "--quiet", "--workspace"])
        .args(test_programs(&paths::root().join("tests"))?);
    let listed = shell::output(list.args(["--", "--ignored", "--list"]))?;
    let names = test_names(&listed);
    if names.is_empty() {
        bail!("the end-to-end tests could not be listed");
    }
    eprintln!("\nLEFT OUT: {} end-to-end tests. {reason}", names.len());
    for name in names {
        eprintln!("  {name}");
    }
    Ok(())
}

/// Names in libtest's list: `abort::moves_back: test`.
fn test_names(listed: &str) -> Vec<&str> {
    listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect()
}

/// After a failure: what the cluster looks like.
fn show_state(cluster: &ClusterHandle) {
    for what in [
        &["get", "pods", "--all-namespaces", "-o", "wide"][..],
        &["get", "nodes"],
    ] {
        let shown = shell::output(cluster.kubectl().args(what));
        eprintln!("{}", shown.unwrap_or_else(|error| format!("{error:#}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_test_programs() {
        let chosen = test_programs(&paths::root().join("tests")).unwrap();
        assert!(
            chosen
                .chunks(2)
                .all(|pair| pair[0] == "--test" && pair[1] != "cluster"),
            "{chosen:?}"
        );
    }

    #[test]
    fn lists_tests() {
        assert_eq!(
            test_names("a::b: test\nc: test\n\n2 tests, 0 benchmarks\n"),
            ["a::b", "c"]
        );
    }
}
