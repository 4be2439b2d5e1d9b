//! A cut between the operator and a port, made in the operator's own network namespace: nobody else feels it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Case;

/// Packets of one operator to one port are dropped until this is healed or dropped.
#[derive(Debug)]
pub struct Partition {
    /// The network namespace: an operator that lost its lease starts anew in the same one.
    namespace: File,
    port: u16,
    open: bool,
}

impl Partition {
    /// Cuts the operator of this test off from a TCP port, wherever it is.
    pub fn between_operator_and(case: &Case, port: u16) -> Result<Self> {
        let pid = operator_process(&case.namespace)?;
        let namespace = File::open(format!("/proc/{pid}/ns/net")).context("no network namespace to enter")?;
        let mut partition = Self {
            namespace,
            port,
            open: false,
        };
        partition.rule("-I")?;
        partition.open = true;
        Ok(partition)
    }

    /// Ends the cut.
    pub fn heal(mut self) -> Result<()> {
        self.open = false;
        self.rule("-D")
    }

    fn rule(&self, verb: &str) -> Result<()> {
        let port = self.port.to_string();
        let namespace = format!(
            "--net=/proc/{}/fd/{}",
            std::process::id(),
            self.namespace.as_raw_fd()
        );
        let done = Command::new("nsenter")
            .args([&namespace, "iptables", verb, "OUTPUT"])
            .args(["-p", "tcp", "--dport", &port, "-j", "DROP"])
            .output()
            .context("failed to start nsenter")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "failed to cut port {port}: {said}");
        Ok(())
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        if self.open {
            // The pod, and with it the rule, may be gone by now.
            let _ = self.rule("-D");
        }
    }
}

/// The process of a test's operator. Only where pods run on this host.
fn operator_process(namespace: &str) -> Result<String> {
    let mine = format!("--namespace={namespace}");
    for entry in std::fs::read_dir("/proc").context("failed to list processes")? {
        let path = entry?.path();
        let said = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let operates = said.split(|b| *b == 0).any(|word| word == mine.as_bytes());
        if operates && let Some(pid) = path.file_name().and_then(|n| n.to_str()) {
            return Ok(pid.to_owned());
        }
    }
    anyhow::bail!("no operator of {namespace} runs on this host")
}
