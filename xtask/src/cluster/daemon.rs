//! Long-running processes of the cluster: started in the background, known by pid *and* start time, so
//! that a number used again by another program is never taken for ours.

use std::{fs, os::unix::process::CommandExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::layout::Layout;
use crate::{shell, wait};

/// How long a component has to end by itself before it is killed. Short: its state is thrown away.
const PATIENCE: Duration = Duration::from_secs(2);

/// One background process.
#[derive(Debug, Clone)]
pub struct Daemon {
    name: &'static str,
    layout: Layout,
}

impl Daemon {
    /// The process called `name` in the layout; nothing is started.
    pub fn new(layout: &Layout, name: &'static str) -> Self {
        Self {
            name,
            layout: layout.clone(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let noted = fs::read_to_string(self.layout.pid(self.name)).ok()?;
        let (pid, started) = noted.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        (start_time(pid)? == started).then_some(pid)
    }

    /// Starts it, unless it runs. Raised priority where that is permitted: on a busy host leases and
    /// probes would time out for no reason of their own. All the open files the host allows.
    pub fn start(&self, arguments: &[String]) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let log = fs::File::create(self.layout.log(self.name)).context("failed to create the log")?;
        let child = shell::command("sh")
            .args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec nice -n -10 "$@""#, "sh"])
            .arg(self.layout.program(self.name))
            .args(arguments)
            .current_dir(self.layout.dir())
            .stdout(log.try_clone().context("failed to share the log")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {}", self.name))?;
        let started = start_time(child.id()).with_context(|| format!("{} ended at once", self.name))?;
        fs::write(self.layout.pid(self.name), format!("{} {started}\n", child.id()))
            .context("failed to note the pid")
    }

    /// Fails with the end of its log when it has ended.
    pub fn check(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let said = fs::read_to_string(self.layout.log(self.name)).unwrap_or_default();
        bail!(
            "{} has ended; the end of its log:\n{}",
            self.name,
            shell::tail(&said, 12)
        )
    }

    /// Ends it: asks, waits, kills; gone when this returns.
    pub fn stop(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            signal("TERM", pid);
            let gone = |limit| {
                wait::until("its end", limit, || {
                    if self.pid().is_none() {
                        Ok(())
                    } else {
                        bail!("running")
                    }
                })
            };
            if gone(PATIENCE).is_err() {
                signal("KILL", pid);
                gone(PATIENCE).with_context(|| format!("failed to stop {} (pid {pid})", self.name))?;
            }
        }
        let _ = fs::remove_file(self.layout.pid(self.name));
        Ok(())
    }
}

/// Sends a signal; a process that is gone needs none.
pub fn signal(name: &str, pid: u32) {
    // The shell's own kill: the program of that name is missing on small hosts.
    let _ = shell::succeeds(shell::command("sh").args([
        "-c",
        "kill -s \"$1\" \"$2\"",
        "sh",
        name,
        &pid.to_string(),
    ]));
}

/// Whether a process still runs; one that only waits to be collected does not.
pub fn is_alive(pid: u32) -> bool {
    start_time(pid).is_some()
}

/// When a process started, in the kernel's ticks since boot; none for one that is gone or only waits to be collected.
fn start_time(pid: u32) -> Option<String> {
    parse_start_time(&fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?)
}

/// Field 22 of `/proc/<pid>/stat`. The second field, the name, may hold spaces, so counting starts behind it.
fn parse_start_time(stat: &str) -> Option<String> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(ToOwned::to_owned)
}

/// Processes that have `word` as one of the words of their command line, other than this one.
pub fn processes_with(word: &str) -> Vec<u32> {
    let has_word = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .split('\0')
            .any(|part| part == word)
    };
    all_processes()
        .into_iter()
        .filter(|pid| *pid != std::process::id())
        .filter(has_word)
        .collect()
}

/// The processes below these, to any depth.
pub fn descendants(ancestors: &[u32]) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let parents: Vec<(u32, u32)> = all_processes()
        .into_iter()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = ancestors.to_vec();
    let mut next = 0;
    while next < found.len() {
        let above = found[next];
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == above)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    found.split_off(ancestors.len())
}

fn all_processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_the_22nd_field() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3";
        assert_eq!(parse_start_time(stat).as_deref(), Some("98765"));
        assert_eq!(parse_start_time(&stat.replace(") S", ") Z")), None);
    }

    #[test]
    fn knows_this_process() {
        assert!(start_time(std::process::id()).is_some());
    }

    #[test]
    fn finds_children() {
        let mut child = shell::command("sleep").arg("100").spawn().unwrap();
        assert!(descendants(&[std::process::id()]).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn starts_once_and_stops() {
        let dir = std::env::temp_dir().join(format!("wsroll-daemon-{}", std::process::id()));
        let layout = Layout::new(&dir);
        for name in ["bin", "log", "pid"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(shell::which("sleep").unwrap(), layout.program("sleep")).unwrap();
        let daemon = Daemon::new(&layout, "sleep");
        daemon.start(&["100".to_owned()]).unwrap();
        let first = daemon.pid().unwrap();
        daemon.start(&["100".to_owned()]).unwrap();
        assert_eq!(daemon.pid(), Some(first));
        daemon.stop().unwrap();
        assert_eq!(daemon.pid(), None);
        assert!(daemon.check().is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
