//! Interruption (Ctrl-C, SIGTERM) during work that must be undone.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static CLEANING_UP: AtomicBool = AtomicBool::new(false);

/// From now on an interruption does not end this process: the programs it runs get the same signal and
/// end, so the work fails and its caller cleans up. A second interruption ends it at once.
pub fn defer() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("interrupted: cleaning up; once more to leave everything as it is");
    })
    .context("failed to handle interruptions")
}

/// The work is over: what follows undoes it and is not stopped by the interruption that ended the work.
pub fn clean_up() {
    CLEANING_UP.store(true, Ordering::Relaxed);
}

/// Fails once the process has been interrupted: for loops that start no program.
pub fn check() -> Result<()> {
    let interrupted = INTERRUPTED.load(Ordering::Relaxed) && !CLEANING_UP.load(Ordering::Relaxed);
    ensure!(!interrupted, "interrupted");
    Ok(())
}
