//! Servers and clients of other stacks, unchanged, with the sidecar between them: everything works as without
//! it, and a drain moves every session once, announced, at pace.

pub mod install;

mod act;
mod front;
mod pace;
mod probes;
mod told;

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use self::install::Stack;
use crate::{cargo, shell, wait::Stopwatch};

/// How to test.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Install what is missing on this host.
    pub install: bool,
}

/// The stacks' programs.
#[derive(Debug)]
struct Stacks {
    node: Stack,
    python: Stack,
    go: Stack,
}

/// A server, and the clients that talk to it.
struct Scene<'a> {
    name: &'static str,
    /// The server's program for a port.
    server: Box<dyn Fn(u16) -> Command + Sync + 'a>,
    /// Names and programs of the clients, for the address and a number of sessions.
    clients: Vec<Client<'a>>,
    /// Where the sidecar finds a session's identity.
    session: Value,
}

/// A client's program.
struct Client<'a> {
    name: &'static str,
    program: Box<dyn Fn(SocketAddr, usize) -> Command + Sync + 'a>,
    /// What it has to see of the sidecar's closes.
    sees: Sees,
    /// Whether its sessions have an identity that the sidecar can read.
    named: bool,
}

/// What a client is told at a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// A WebSocket's close code.
    Code,
    /// `socket.io` with this as the transport of all its sessions; polling has no code.
    SocketIo(&'static str),
}

/// Runs all scenes at once; fails when one fails, after the others.
pub fn run(options: Options) -> Result<()> {
    let watch = Stopwatch::start();
    let wsroll = cargo::wsroll()?;
    let stacks = shell::step("the stacks", || {
        Ok(Stacks {
            node: install::node(options.install)?,
            python: install::python(options.install)?,
            go: install::go()?,
        })
    })?;
    let mut failed = play_all(&scenes(&stacks), &wsroll);
    failed.extend(probes::run(&stacks.node, &wsroll));
    if !failed.is_empty() {
        bail!("with servers of other stacks: {}", failed.join("; "));
    }
    eprintln!("stacks: done in {:.0} s", watch.elapsed().as_secs_f64());
    Ok(())
}

fn play_all(scenes: &[Scene<'_>], wsroll: &Path) -> Vec<String> {
    std::thread::scope(|scope| {
        let running: Vec<_> = scenes
            .iter()
            .map(|scene| (scene.name, scope.spawn(|| act::play(scene, wsroll))))
            .collect();
        let mut failed = Vec::new();
        for (name, scene) in running {
            match scene.join() {
                Ok(Ok(summary)) => println!("{name:>12}: {summary}"),
                Ok(Err(error)) => failed.push(format!("{name}: {error:#}")),
                Err(_) => failed.push(format!("{name}: panicked")),
            }
        }
        failed
    })
}

fn scenes(stacks: &Stacks) -> Vec<Scene<'_>> {
    let Stacks { node, python, go } = stacks;
    let in_query = |name: &str| json!({ "query": name });
    let websocket = |name, server: Box<dyn Fn(u16) -> Command + Sync>| Scene {
        name,
        server,
        clients: websocket_clients(stacks),
        session: in_query("session"),
    };
    vec![
        websocket(
            "ws",
            Box::new(|port| node.program("ws-server.js", &[&port.to_string()])),
        ),
        websocket(
            "websockets",
            Box::new(|port| python.program("server.py", &[&port.to_string()])),
        ),
        websocket(
            "gorilla",
            Box::new(|port| go.program("server", &[&port.to_string()])),
        ),
        Scene {
            name: "socket.io",
            server: Box::new(|port| node.program("socketio-server.js", &[&port.to_string()])),
            clients: vec![
                socketio(node, "default", &[], "websocket"),
                socketio(node, "polling", &["polling"], "polling"),
                socketio(node, "websocket", &["websocket"], "websocket"),
            ],
            session: in_query("sid"),
        },
    ]
}

fn websocket_clients(stacks: &Stacks) -> Vec<Client<'_>> {
    let Stacks { node, python, go } = stacks;
    let client = |name, stack: &'static str| (name, stack);
    [
        client("ws", "ws-client.js"),
        client("websockets", "client.py"),
        client("coder", "client"),
    ]
    .into_iter()
    .zip([node, python, go])
    .map(|((name, program), stack)| Client {
        name,
        program: Box::new(move |address, sessions| {
            stack.program(program, &[&format!("ws://{address}"), &sessions.to_string()])
        }),
        sees: Sees::Code,
        named: true,
    })
    .collect()
}

fn socketio<'a>(
    node: &'a Stack,
    name: &'static str,
    transports: &'static [&'static str],
    becomes: &'static str,
) -> Client<'a> {
    Client {
        name,
        program: Box::new(move |address, sessions| {
            let (url, sessions) = (format!("http://{address}"), sessions.to_string());
            let arguments: Vec<&str> = [url.as_str(), sessions.as_str()]
                .into_iter()
                .chain(transports.iter().copied())
                .collect();
            node.program("socketio-client.js", &arguments)
        }),
        sees: Sees::SocketIo(becomes),
        // Its `sid` is in a request only when polling comes first.
        named: transports != ["websocket"],
    }
}
