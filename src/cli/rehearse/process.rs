//! A service that is started by a command, in a process group of its own. Whatever happens here, the group ends.

use std::process::{Command as Plain, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a service may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(60);

/// The command, and what runs of it.
#[derive(Debug)]
pub(super) struct Service {
    start: String,
    stop: Option<String>,
    running: Mutex<Option<Group>>,
}

/// A process group that dies with this.
#[derive(Debug)]
struct Group {
    leader: Child,
    id: u32,
}

impl Service {
    pub(super) fn new(start: String, stop: Option<String>) -> Self {
        Self {
            start,
            stop,
            running: Mutex::new(None),
        }
    }

    /// Starts it, unless it runs. Returns at once.
    pub(super) async fn start(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            *running = Some(Group::start(&self.start)?);
        }
        Ok(())
    }

    /// Whether it ended by itself, and how.
    pub(super) async fn ended(&self) -> Option<String> {
        let mut running = self.running.lock().await;
        let status = running.as_mut()?.leader.try_wait().ok().flatten()?;
        Some(status.to_string())
    }

    /// Kills it without a word, and waits until it is gone.
    pub(super) async fn kill(&self) {
        if let Some(mut group) = self.running.lock().await.take() {
            group.signal("KILL");
            let _ = group.leader.wait().await;
        }
    }

    /// Asks it to end, and kills what has not ended a minute later.
    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        let Some(mut group) = self.running.lock().await.take() else {
            return Ok(());
        };
        match &self.stop {
            None => group.signal("TERM"),
            Some(command) => {
                let stopped = shell(command).status().await;
                let stopped = stopped.with_context(|| format!("failed to run --stop-command {command:?}"))?;
                anyhow::ensure!(
                    stopped.success(),
                    "--stop-command {command:?} ended with {stopped}"
                );
            }
        }
        // What is left of the group goes with the guard.
        let _ = timeout(GRACE, group.leader.wait()).await;
        Ok(())
    }
}

impl Group {
    fn start(command: &str) -> anyhow::Result<Self> {
        let leader = shell(command)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {command:?}"))?;
        let id = leader
            .id()
            .with_context(|| format!("{command:?} ended at once"))?;
        Ok(Self { leader, id })
    }

    /// Sends a signal to every process of the group. That it is gone already is as good.
    fn signal(&self, name: &str) {
        let _ = Plain::new("sh")
            .args(["-c", &format!("kill -{name} -{} 2>/dev/null", self.id)])
            .stdin(Stdio::null())
            .status();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

/// What it says goes to our standard error: standard output is for the report.
fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()));
    shell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(id: u32) -> bool {
        let probe = format!("kill -0 -{id} 2>/dev/null");
        Plain::new("sh").args(["-c", &probe]).status().unwrap().success()
    }

    #[tokio::test]
    async fn the_whole_group_goes() {
        for how in ["kill", "stop", "drop"] {
            // A child of the shell's, which would outlive it.
            let service = Service::new("sleep 60 & sleep 60".to_owned(), None);
            service.start().await.unwrap();
            let id = service.running.lock().await.as_ref().unwrap().id;
            assert!(alive(id), "{how}");
            match how {
                "kill" => service.kill().await,
                "stop" => service.stop().await.unwrap(),
                _ => drop(service),
            }
            let gone = async {
                while alive(id) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(Duration::from_secs(30), gone).await.expect(how);
        }
    }

    #[tokio::test]
    async fn a_stop_command_that_fails_is_told() {
        let service = Service::new("sleep 60".to_owned(), Some("exit 3".to_owned()));
        service.start().await.unwrap();
        let error = service.stop().await.unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("status: 3"), "{error}");
    }
}
