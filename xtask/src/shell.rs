//! Running other programs: with their output shown, or kept for the error message.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::wait::Stopwatch;

/// Directories that hold system programs but are often missing from a user's `PATH`.
const SYSTEM_PATHS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A command with the system directories in its `PATH`, reading nothing.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path()).stdin(Stdio::null());
    command
}

/// `PATH` with the system directories added behind.
pub fn search_path() -> String {
    let mut path = std::env::var("PATH").unwrap_or_default();
    for dir in SYSTEM_PATHS {
        if !path.split(':').any(|part| part == dir) {
            path.push(':');
            path.push_str(dir);
        }
    }
    path
}

/// Where `program` would be found.
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    search_path()
        .split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

/// Runs with output shown; fails unless it ends with status 0.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("failed to start {shown}"))?;
    if !status.success() {
        bail!("{shown} failed: {status}");
    }
    Ok(())
}

/// Runs and gives its standard output; on failure the end of its standard error becomes the message.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let done = command
        .output()
        .with_context(|| format!("failed to start {shown}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let said = if said.trim().is_empty() {
            String::from_utf8_lossy(&done.stdout)
        } else {
            said
        };
        bail!("{shown} failed ({}): {}", done.status, tail(&said, 15));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Like [`output`], with text for its standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("failed to write to {shown}"))?;
    }
    let done = child
        .wait_with_output()
        .with_context(|| format!("failed to wait for {shown}"))?;
    if !done.status.success() {
        bail!(
            "{shown} failed ({}): {}",
            done.status,
            tail(&String::from_utf8_lossy(&done.stderr), 15)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether it ends with status 0; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Does one step of a longer task with a line of progress: what, and the time it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("  {what} …");
    let watch = Stopwatch::start();
    let done = work().with_context(|| format!("failed at: {what}"))?;
    let took = watch.elapsed().as_secs_f64();
    if took >= 1.0 {
        eprintln!("  {what}: {took:.1} s");
    }
    Ok(done)
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .take(6)
            .map(|word| word.to_string_lossy().into_owned()),
    );
    format!("`{}`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_carries_what_the_program_said() {
        let error = output(command("sh").args(["-c", "echo nothing works >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("nothing works"), "{error}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(output_with_input(&mut command("cat"), "hello").unwrap(), "hello");
    }

    #[test]
    fn system_programs_are_found() {
        assert!(search_path().contains("/usr/sbin"));
        assert!(which("sh").is_some());
        assert!(which("a-program-that-nobody-has").is_none());
    }

    #[test]
    fn tail_keeps_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
