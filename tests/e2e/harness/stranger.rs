//! Applications that know nothing of wsroll, rolled out unchanged, and clients of their own kind that hold sessions with them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::{App, Case, Load, NAME, PORT};

/// How long an application may take to be built: from nothing, with its dependencies fetched.
const BUILT: Duration = Duration::from_secs(240);
/// How long a visitor waits for the upgrade.
const PATIENCE: Duration = Duration::from_secs(5);

/// An application of another stack, ready to be used; see `xtask/src/apps.rs`.
#[derive(Debug, Clone, Deserialize)]
pub struct Stranger {
    /// Its image.
    pub image: String,
    /// The directory of its sources.
    pub dir: PathBuf,
    /// How its programs are started on this host.
    pub run: Vec<PathBuf>,
    /// The environment that it takes.
    pub env: BTreeMap<String, PathBuf>,
}

/// One server of an application.
#[derive(Debug, Clone)]
pub struct Server {
    image: String,
    args: Vec<String>,
    path: String,
    patch: Value,
}

impl Stranger {
    /// The server that is started with these arguments, its users' path, and how a WebSocket of it is asked for.
    pub fn server(&self, args: &[&str], path: &str) -> Server {
        Server {
            image: self.image.clone(),
            args: args.iter().map(ToString::to_string).collect(),
            path: path.to_owned(),
            patch: json!({}),
        }
    }

    /// One of its programs on this host: a script of its directory, where it is made of scripts.
    pub fn program(&self, script: Option<&str>) -> Command {
        let mut command = Command::new(&self.run[0]);
        command.args(&self.run[1..]).envs(&self.env);
        if let Some(script) = script {
            command.arg(self.dir.join(script));
        }
        command
    }
}

impl Server {
    /// The same, whose sessions are known by a parameter of their query: polling ones have nothing else.
    #[must_use]
    pub fn identified_by(self, query: &str) -> Self {
        self.patch(json!({"spec": {"drain": {"session": {"idFrom": {"query": query}}}}}))
    }

    /// The same with a merge patch of its rollouts.
    #[must_use]
    pub fn patch(mut self, patch: Value) -> Self {
        json_patch::merge(&mut self.patch, &patch);
        self
    }

    /// A version of it as a rollout on three pods, drained by a sidecar, with steps of its own.
    pub fn version(&self, version: &str) -> App {
        App::version(version)
            .patch(json!({"spec": {
                "template": {"spec": {
                    "containers": [{
                        "name": "app",
                        "image": self.image,
                        "args": self.args,
                        "ports": [{"containerPort": PORT}],
                        "env": [{"name": "VERSION", "value": version}, {"name": "PORT", "value": PORT.to_string()}],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 5},
                        "resources": {"requests": {"cpu": "15m", "memory": "16Mi"}},
                    }],
                }},
                // Applications that leave SIGTERM alone are killed at the end of the grace period, which covers the deadline.
                "drain": {"via": "Sidecar", "deadline": "60s", "notice": {"hint": "None"}},
                "probes": {"dialect": "Ping", "sessions": 2, "tokenFrom": null},
            }}))
            .patch(self.patch.clone())
    }
}

impl Case {
    /// Builds an application of another stack, or finds it built, and puts its image into the cluster.
    pub async fn stranger(&self, name: &str) -> Result<Stranger> {
        let mut ask = Command::new(&self.settings.xtask);
        ask.args(["app", name]).stdin(Stdio::null()).kill_on_drop(true);
        if self.settings.no_install {
            ask.arg("--no-install");
        }
        let said = tokio::time::timeout(BUILT, ask.output())
            .await
            .with_context(|| format!("{name} was not built within {BUILT:?}"))?
            .context("failed to start xtask")?;
        if !said.status.success() {
            bail!(
                "failed to build {name}: {}",
                String::from_utf8_lossy(&said.stderr)
            );
        }
        serde_json::from_slice(&said.stdout).context("failed to read what xtask says")
    }

    /// Applies the first version of a server and waits until it serves.
    pub async fn serve_stranger(&self, server: &Server, app: &App) -> Result<()> {
        let mut route = super::route(self);
        route["spec"]["rules"][0]["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
        self.apply_raw(&route).await?;
        self.apply_stranger(server, app).await?;
        self.until_phase("Healthy", Duration::from_secs(90)).await?;
        self.poll("visitors to be let in", Duration::from_secs(20), async || {
            for _ in 0..3 {
                self.upgrade(&server.path).await?;
            }
            Ok(true)
        })
        .await
    }

    /// Applies a version of a server.
    pub async fn apply_stranger(&self, server: &Server, app: &App) -> Result<()> {
        let url = format!("ws://{}{}", self.host, server.path);
        self.apply(&app.clone().patch(json!({"spec": {"probes": {"url": url}}})))
            .await
    }

    /// Opens sessions by a program and waits until all are open.
    pub async fn hold(&self, mut program: Command, sessions: u64) -> Result<Load> {
        let (address, _) = self.settings.gateway.rsplit_once(':').context("no port")?;
        program
            .args(["--address", address])
            .args(["--sessions", &sessions.to_string()]);
        self.held(program, sessions).await
    }

    /// Opens sessions by wsroll's own client for browsers, which reads notices.
    pub async fn hold_resumable(&self, sessions: u64) -> Result<Load> {
        let mut clients = self.stranger("node").await?.program(Some("hold.js"));
        let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/js/resumable-socket.js");
        clients
            .args(["resumable", "--url", &self.url("ws", "/ws"), "--library"])
            .arg(library);
        self.hold(clients, sessions).await
    }

    /// The URL of the service as users write it.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        let port = self
            .settings
            .gateway
            .rsplit_once(':')
            .map_or("80", |(_, port)| port);
        format!("{scheme}://{}:{port}{path}", self.host)
    }

    /// A visitor who is let in, and leaves.
    async fn upgrade(&self, path: &str) -> Result<()> {
        let visit = async {
            let request = format!("ws://{}{path}", self.host).into_client_request()?;
            let stream = TcpStream::connect(&self.settings.gateway).await?;
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
            let _ = socket.close(None).await;
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, visit)
            .await
            .with_context(|| format!("nobody let the visitor of {NAME} in"))?
    }
}
