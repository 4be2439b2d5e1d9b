//! The project's own tasks: `cargo xtask <verb>`.

mod apps;
mod archive;
mod cache;
mod cargo;
mod cluster;
mod debian;
mod demo;
mod generate;
mod host;
mod image;
mod interop;
mod interrupt;
mod lint;
mod outside;
mod paths;
mod sbom;
mod shell;
mod test;
mod toolchain;
mod wait;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The cluster for tests and demo: the one KUBECONFIG names, or an embedded Kubernetes on this host
    Cluster {
        #[command(subcommand)]
        verb: ClusterVerb,
    },
    /// Build the images of wsroll, the example service and Redis, and put them into the cluster
    Image {
        /// Refuse to install packages on this host
        #[arg(long)]
        no_install: bool,
    },
    /// Build an application of another stack, put its image into the running cluster, and say as JSON how to use it: for tests
    App {
        /// Its name
        name: String,
        /// Refuse to install packages on this host
        #[arg(long)]
        no_install: bool,
    },
    /// Show the main job on a real cluster: sessions move, broken versions are stopped, a Deployment in comparison
    Demo(demo::Options),
    /// Run the tests: all, or one kind, or those whose name holds a filter
    Test(test::Options),
    /// The Autobahn test suite, directly and through the sidecar: every verdict has to be the same
    Autobahn(outside::autobahn::Options),
    /// Figures, beside those of other proxies in the same run
    Bench {
        #[command(subcommand)]
        bench: outside::bench::Bench,
    },
    /// Write the generated files
    Gen {
        /// Write nothing: fail with the difference when one is stale
        #[arg(long)]
        check: bool,
    },
    /// Print what the released program is made of, as `CycloneDX`
    Sbom,
    /// Format, clippy, documentation, dependencies, generated files, chart
    Lint,
    /// What continuous integration runs: lint, then all tests
    Ci(test::Options),
}

#[derive(Debug, Subcommand)]
enum ClusterVerb {
    /// Build what is missing, start it, wait until it serves; instant when it runs
    Up {
        /// Refuse to install packages on this host: name what is missing instead
        #[arg(long)]
        no_install: bool,
    },
    /// Show every component and whether it answers
    Status,
    /// Stop it and take back everything it changed on this host
    Down,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Cluster {
            verb: ClusterVerb::Up { no_install },
        } => {
            let cluster = cluster::up(cluster::Options { install: !no_install })?;
            println!("export KUBECONFIG={}", cluster.kubeconfig.display());
            eprintln!("kubectl: {}", cluster.kubectl.display());
            eprintln!(
                "gateway: {} from this host, {} from pods",
                cluster.gateway_host, cluster.gateway_inside
            );
            Ok(())
        }
        Task::Cluster {
            verb: ClusterVerb::Status,
        } => cluster::status(),
        Task::Cluster {
            verb: ClusterVerb::Down,
        } => cluster::down(),
        Task::Image { no_install } => {
            let cluster = cluster::up(cluster::Options { install: !no_install })?;
            let image::Images {
                wsroll,
                server,
                redis,
            } = image::build(&cluster, !no_install)?;
            println!("export WSROLL_E2E_OPERATOR_IMAGE={wsroll}");
            println!("export WSROLL_E2E_SERVER_IMAGE={server}");
            println!("export WSROLL_E2E_REDIS_IMAGE={redis}");
            Ok(())
        }
        Task::App { name, no_install } => {
            let prepared = apps::prepare(&name, !no_install)?;
            println!("{}", serde_json::to_string(&prepared)?);
            Ok(())
        }
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Autobahn(options) => outside::autobahn::run(&options),
        Task::Bench { bench } => outside::bench::run(&bench),
        Task::Gen { check } => generate::run(check),
        Task::Sbom => sbom::run(),
        Task::Lint => lint::run(),
        Task::Ci(options) => {
            lint::run()?;
            test::run(&options)
        }
    }
}
