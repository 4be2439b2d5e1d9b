//! The ready-made dialects of `wsroll probe`, each against the servers whose protocol it is.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::install::Stack;
use crate::outside::child::{Running, Scratch, free_address};
use crate::shell;

/// What the server lets in.
const TOKEN: &str = "a-token";

/// A server, and how it is probed.
struct Probed {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    path: &'static str,
    dialect: &'static [&'static str],
    /// Whether the probes are to pass.
    passes: bool,
}

const PROBED: [Probed; 6] = [
    Probed {
        name: "socket.io",
        program: "socketio-server.js",
        arguments: &[],
        path: "/socket.io/",
        dialect: &["--dialect", "socket-io"],
        passes: true,
    },
    Probed {
        name: "socket.io with recovery",
        program: "socketio-server.js",
        arguments: &["recovery"],
        path: "/socket.io/",
        dialect: &["--dialect", "socket-io"],
        passes: true,
    },
    Probed {
        name: "graphql-ws",
        program: "graphql-ws-server.js",
        arguments: &[],
        path: "/graphql",
        dialect: &[
            "--dialect",
            "graphql-transport-ws",
            "--token-env",
            "WSROLL_PROBE_TOKEN",
            "--token-in-script",
        ],
        passes: true,
    },
    Probed {
        name: "graphql-ws without a token",
        program: "graphql-ws-server.js",
        arguments: &[],
        path: "/graphql",
        dialect: &["--dialect", "graphql-transport-ws"],
        passes: false,
    },
    Probed {
        name: "ws, echo",
        program: "ws-server.js",
        arguments: &[],
        path: "/",
        dialect: &["--dialect", "echo"],
        passes: true,
    },
    Probed {
        name: "ws, as if it were socket.io",
        program: "ws-server.js",
        arguments: &[],
        path: "/",
        dialect: &["--dialect", "socket-io"],
        passes: false,
    },
];

/// Probes them all; those that did not end as they should.
pub(super) fn run(node: &Stack, wsroll: &Path) -> Vec<String> {
    let mut failed = Vec::new();
    for probed in &PROBED {
        match probed.run(node, wsroll) {
            Ok(()) => println!("      probes: {}: as it should be", probed.name),
            Err(error) => failed.push(format!("probes, {}: {error:#}", probed.name)),
        }
    }
    failed
}

impl Probed {
    fn run(&self, node: &Stack, wsroll: &Path) -> Result<()> {
        let scratch = Scratch::new("probes")?;
        let address = free_address()?;
        let port = address.port().to_string();
        let arguments: Vec<&str> = [port.as_str()].iter().chain(self.arguments).copied().collect();
        let mut server = Running::start("server", &mut node.program(self.program, &arguments), &scratch)?;
        server.await_listening(address)?;
        let mut probe = shell::command(wsroll);
        probe
            .env("WSROLL_PROBE_TOKEN", TOKEN)
            .args([
                "probe",
                "--sessions",
                "10",
                "--hold",
                "2s",
                "--timeout",
                "4s",
                "--output",
                "json",
            ])
            .args(["--url", &format!("ws://{address}{}", self.path)])
            .args(self.dialect);
        let output = probe.output().context("failed to start wsroll")?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() != self.passes {
            bail!(
                "{told} {}",
                shell::tail(&String::from_utf8_lossy(&output.stderr), 5)
            );
        }
        if self.passes {
            let report: serde_json::Value = serde_json::from_str(&told)?;
            let restored = &report["figures"]["restored"];
            // Each of them once to open, and once to come back.
            if restored != 20 {
                bail!("{restored} connects were restored instead of 20: {told}");
            }
        }
        Ok(())
    }
}
