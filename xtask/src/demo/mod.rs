//! The main job on a real cluster, narrated: sessions move from one version to the next, two broken versions
//! are stopped, and the same change is made the ordinary way for comparison. Every figure is measured in the run.

mod acts;
mod deployment;
mod figures;
mod load;
mod manifests;
mod narrate;
mod release;
mod rollout;
mod setup;
mod summary;
mod table;

use std::path::PathBuf;

use anyhow::{Result, bail};

use self::{
    figures::Figures,
    manifests::STEPS,
    narrate::{Voice, say},
    setup::Stage,
};
use crate::{cluster, interrupt, shell, wait::Stopwatch};

/// How to play it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Images and program are built from this checkout. To use others, set WSROLL_E2E_OPERATOR_IMAGE, \
    WSROLL_E2E_SERVER_IMAGE, WSROLL_E2E_REDIS_IMAGE and WSROLL_E2E_WSROLL_BIN; in a cluster of your own (KUBECONFIG) \
    the images are always those."
)]
pub struct Options {
    /// Sessions that users hold [default: 1000, with --fast 200]
    #[arg(long, value_parser = clap::value_parser!(u32).range(20..=15_000))]
    sessions: Option<u32>,
    /// Pods of the service [default: 10, with --fast 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=50))]
    pods: Option<u32>,
    /// Fewer sessions and pods
    #[arg(long)]
    fast: bool,
    /// Leave everything as it is at the end
    #[arg(long)]
    keep: bool,
    /// Write the figures into this file, as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Refuse to install packages on this host
    #[arg(long)]
    no_install: bool,
}

/// Plays it; fails when a promise is not held.
pub fn run(options: &Options) -> Result<()> {
    if let Some(reason) = cluster::obstacle() {
        bail!("{reason}");
    }
    interrupt::defer()?;
    let clock = Stopwatch::start();
    let voice = Voice::of_stdout();
    let started_here = cluster::running()?.is_none();
    voice.act("Setting up");
    let stage = Stage::set(options, voice);
    let played = match &stage {
        Ok(stage) => play(stage, options),
        // The stage's own error follows below, once what it left is gone.
        Err(_) => Ok(Vec::new()),
    };

    let interrupted = interrupt::check().is_err();
    interrupt::clean_up();
    if let (Ok(stage), true, false) = (&stage, played.is_err(), interrupted) {
        stage.show_state();
    }
    let cleaned = clean_up(options, &stage, started_here);
    let stage = stage?;
    let broken = played?;
    cleaned?;
    say(&stage
        .voice
        .dim(&format!("done in {:.0} s", clock.elapsed().as_secs_f64())));
    if !broken.is_empty() {
        bail!("not as promised:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

/// All acts. Gives the promises that were not held.
fn play(stage: &Stage, options: &Options) -> Result<Vec<String>> {
    let voice = stage.voice;
    say(&format!(
        "{} sessions, {} pods, at most {} first connects per second while sessions move",
        stage.size.sessions, stage.size.pods, stage.size.budget
    ));
    shell::step("operator, Redis, route", || stage.furnish())?;
    let wsroll = acts::play(stage)?;
    voice.act("The same v1 to v2 as a Deployment's rolling update");
    if !options.keep {
        stage.remove_rollout()?;
    }
    let deployment = deployment::play(stage)?;
    let figures = Figures { wsroll, deployment };
    voice.act("Side by side");
    let broken = summary::print(voice, &figures);
    say(&voice.dim(&format!(
        "time allowed: 1.25 x sessions / budget, and {} steps' reconnect window and programming of routes",
        STEPS.len()
    )));
    if let Some(file) = &options.json {
        summary::write(&figures, file)?;
    }
    Ok(broken)
}

fn clean_up(options: &Options, stage: &Result<Stage>, started_here: bool) -> Result<()> {
    if options.keep {
        if let Ok(stage) = stage {
            println!("\nleft as it is; look at it, and end it, with");
            println!("  export KUBECONFIG={}", stage.cluster.kubeconfig.display());
            println!(
                "  {} -n {} get wsr,pods",
                stage.cluster.kubectl.display(),
                stage.namespace
            );
            if !stage.cluster.external {
                println!("  cargo xtask cluster down");
            }
        }
        return Ok(());
    }
    if started_here {
        println!();
        return cluster::down();
    }
    match stage {
        Ok(stage) => shell::step("cleaning up", || stage.remove()),
        Err(_) => Ok(()),
    }
}
