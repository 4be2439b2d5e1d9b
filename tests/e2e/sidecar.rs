//! Applications of other stacks, unchanged, behind the sidecar: they roll, and their users are asked in turn. More stacks meet
//! the sidecar without a cluster: `cargo xtask test stacks`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::harness::{self, Case, Load, Server};

/// A whole release of fast settings, on two busy cores.
const RELEASE: Duration = Duration::from_secs(150);
/// Sessions of a release; first connects per second that the rollout's budget allows.
const SESSIONS: u64 = 300;
const BUDGET: u64 = 50;

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn an_unchanged_socket_io_server_rolls_and_cuts_nobody() {
    harness::run("socketio", async |case| {
        let node = case.stranger("node").await?;
        let path = "/socket.io/?EIO=4&transport=websocket";
        let server = node
            .server(&["/app/socketio-server.js"], path)
            .identified_by("sid");
        case.serve_stranger(&server, &server.version("v1")).await?;
        let mut clients = node.program(Some("hold.js"));
        // A fifth of the clients cannot upgrade: they poll.
        clients
            .args(["socketio", "--url", &case.url("http", "/")])
            .args(["--polling", "60"]);
        let load = case.hold(clients, SESSIONS).await?;
        rolls(case, &server, load).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn an_unchanged_python_server_rolls_and_cuts_nobody() {
    harness::run("python", async |case| {
        let python = case.stranger("python").await?;
        let server = python.server(&["/app/server.py"], "/ws");
        case.serve_stranger(&server, &server.version("v1")).await?;
        let mut clients = case.stranger("node").await?.program(Some("hold.js"));
        clients.args(["ws", "--url", &case.url("ws", "/ws")]);
        let load = case.hold(clients, SESSIONS).await?;
        rolls(case, &server, load).await
    })
    .await;
}

/// The second version, to the end: everybody is on it, was asked once, in turn, and nobody was cut.
async fn rolls(case: &Case, server: &Server, mut load: Load) -> Result<()> {
    case.apply_stranger(server, &server.version("v2")).await?;
    let done = case.until_released(1, RELEASE).await?;
    load.until_all_on("v2", Duration::from_secs(15)).await?;
    let counted = load.stop().await?;
    eprintln!("{}: {counted:?}", case.namespace);
    counted.unharmed(1).with_context(|| case.story())?;
    // A busy client hears late, of several seconds at once: what would be a storm is told all the same.
    ensure!(
        counted.peak_closes_per_s <= 2 * BUDGET,
        "{} sessions were asked to leave in one second: {counted:?}",
        counted.peak_closes_per_s
    );
    ensure!(
        done.unannounced.unwrap_or_default() == 0,
        "{:?}",
        done.unannounced
    );
    Ok(())
}
