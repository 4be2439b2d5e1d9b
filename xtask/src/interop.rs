//! Other stacks: the native examples played against by `wsroll conformance`, the JavaScript client against real servers
//! and in a browser. What they depend on is installed into the cache, by the hash of its lock file.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{cache, cargo, host, paths, shell, toolchain, wait};

/// The key of the examples' events, and the token of their drain ports.
const SECRET: &str = "interop";
/// How long an example may take to start; a first start of Python compiles.
const START: Duration = Duration::from_secs(30);

/// A program that serves, ended when dropped.
struct Server(Child);

/// One native example, ready to be started.
struct Example {
    name: &'static str,
    command: Command,
}

/// Plays the protocol against every native example at once, and runs the JavaScript client's tests.
pub fn native(install: bool, filter: Option<&str>) -> Result<()> {
    let programs = cargo::build_programs()?;
    let work = work_dir("native")?;
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let mut examples = Vec::new();
    for (name, prepare) in [
        ("node", node as fn(&Path, bool) -> Result<Command>),
        ("python", python),
        ("go", go),
    ] {
        if wanted(name) {
            examples.push(Example {
                name,
                command: prepare(&work, install)?,
            });
        }
    }
    if wanted("rust") {
        examples.push(Example {
            name: "rust",
            command: shell::command(programs.join("native-rust")),
        });
    }
    conformance(examples, &programs.join("wsroll"), &work)?;
    if wanted("client") {
        let client = javascript("client", &paths::root().join("clients/js"), &work, install)?;
        let example = javascript(
            "node",
            &paths::root().join("examples/native/node"),
            &work,
            install,
        )?;
        let mut types = shell::command("node");
        shell::run(
            types
                .current_dir(&client)
                .args(["node_modules/typescript/bin/tsc", "-p", "."]),
        )?;
        let tests = ["test/rules.test.js", "test/servers.test.js"];
        let mut command = node_tests(&client, &tests, &programs);
        shell::run(command.env("WSROLL_NATIVE_NODE", example.join("server.js")))?;
    }
    Ok(())
}

/// The JavaScript client in headless Chromium.
pub fn browser(install: bool) -> Result<()> {
    host::ensure(&host::BROWSER, install)?;
    let programs = cargo::build_programs()?;
    let client = javascript(
        "client",
        &paths::root().join("clients/js"),
        &work_dir("browser")?,
        install,
    )?;
    shell::run(&mut node_tests(&client, &["browser/chromium.test.js"], &programs))
}

fn node_tests(client: &Path, tests: &[&str], programs: &Path) -> Command {
    let mut command = shell::command("node");
    command
        .current_dir(client)
        .env("WSROLL_SESSION_SERVER_BIN", programs.join("session-server"))
        .args(["--test", "--test-reporter=spec"])
        .args(tests);
    command
}

/// Starts all, plays against all at the same time, and tells what does not hold.
fn conformance(examples: Vec<Example>, wsroll: &Path, work: &Path) -> Result<()> {
    let secret = work.join("secret");
    fs::write(&secret, SECRET).with_context(|| format!("failed to write {}", secret.display()))?;
    let mut playing = Vec::new();
    for Example { name, mut command } in examples {
        let (port, drain_port) = (free_port()?, free_port()?);
        let log = work.join(format!("{name}.log"));
        let written =
            fs::File::create(&log).with_context(|| format!("failed to create {}", log.display()))?;
        command
            .stdout(written.try_clone().context("failed to share the log")?)
            .stderr(written)
            .env("PORT", port.to_string())
            .env("WSROLL_PORT", drain_port.to_string())
            .env("WSROLL_TOKEN_FILE", &secret)
            .env("WSROLL_IDENTITY_KEY_FILE", &secret);
        let server = Server(
            command
                .spawn()
                .with_context(|| format!("failed to start the example {name}"))?,
        );
        for port in [port, drain_port] {
            wait::until(&format!("the start of the example {name}"), START, || {
                Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)
            })?;
        }
        let play = shell::command(wsroll)
            .args([
                "conformance",
                "--url",
                &format!("http://127.0.0.1:{drain_port}"),
                "--token-file",
            ])
            .arg(&secret)
            .args(["--ws", &format!("ws://127.0.0.1:{port}/ws?sid={{session}}")])
            .args(["--declare-notice", "wsroll=1", "--identity-key-file"])
            .arg(&secret)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start wsroll conformance")?;
        playing.push((name, log, server, play));
    }
    let mut broken = Vec::new();
    for (name, log, server, play) in playing {
        let done = play
            .wait_with_output()
            .context("failed to wait for wsroll conformance")?;
        drop(server);
        let told = String::from_utf8_lossy(&done.stdout);
        let said = String::from_utf8_lossy(&done.stderr);
        eprintln!("  native {name}: {}", told.lines().last().unwrap_or(&said));
        // An example shows everything: what it does not offer is a gap in the example.
        let gaps: Vec<&str> = told
            .lines()
            .rev()
            .skip(1)
            .filter(|line| !line.starts_with("ok "))
            .collect();
        if !done.status.success() || !gaps.is_empty() {
            eprintln!("{}", gaps.join("\n"));
            let log = fs::read_to_string(&log).unwrap_or_default();
            eprintln!("{}", shell::tail(&log, 20));
            broken.push(name);
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!(
        "native examples that do not keep to the drain protocol: {}",
        broken.join(", ")
    )
}

fn node(work: &Path, install: bool) -> Result<Command> {
    let dir = javascript("node", &paths::root().join("examples/native/node"), work, install)?;
    let mut command = shell::command("node");
    command.arg(dir.join("server.js"));
    Ok(command)
}

/// A copy of a JavaScript package with its dependencies beside it: modules are looked for where the file is.
fn javascript(name: &str, source: &Path, work: &Path, install: bool) -> Result<PathBuf> {
    host::ensure(&host::NODE, install)?;
    let manifests = ["package.json", "package-lock.json"].map(|file| source.join(file));
    let inputs = manifests
        .iter()
        .map(|path| read(path))
        .collect::<Result<Vec<_>>>()?;
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let installed = cache::artifact(&format!("npm-{name}"), &inputs, |dir| {
        for manifest in &manifests {
            copy(manifest, dir)?;
        }
        let mut npm = shell::command("npm");
        npm.current_dir(dir).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]);
        shell::output(&mut npm)?;
        Ok(())
    })?;
    let dir = work.join(name);
    if dir.is_dir() {
        fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    copy_tree(source, &dir)?;
    let modules = dir.join("node_modules");
    symlink(installed.join("node_modules"), &modules)
        .with_context(|| format!("failed to link {}", modules.display()))?;
    Ok(dir)
}

fn python(_: &Path, install: bool) -> Result<Command> {
    host::ensure(&host::PYTHON, install)?;
    let source = paths::root().join("examples/native/python");
    let requirements = source.join("requirements.txt");
    // Compiled parts fit one version of Python.
    let version = shell::output(shell::command("python3").arg("--version"))?;
    let inputs = [read(&requirements)?, version.into_bytes()];
    let installed = cache::artifact("pip-native", &[&inputs[0], &inputs[1]], |dir| {
        let mut pip = shell::command("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "--target",
        ]);
        shell::output(pip.arg(dir).arg("--requirement").arg(&requirements))?;
        Ok(())
    })?;
    let mut command = shell::command("python3");
    command
        .env("PYTHONPATH", installed)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(source.join("server.py"));
    Ok(command)
}

fn go(_: &Path, _: bool) -> Result<Command> {
    let source = paths::root().join("examples/native/go");
    let program = toolchain::go_program(
        "native-go",
        &source,
        &["go.mod", "go.sum", "main.go", "drain.go"],
        "-s -w",
    )?;
    Ok(shell::command(program))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

fn copy(file: &Path, dir: &Path) -> Result<()> {
    let to = dir.join(file.file_name().unwrap_or_default());
    fs::copy(file, &to).with_context(|| format!("failed to copy {}", file.display()))?;
    Ok(())
}

/// Everything but what somebody installed there by hand.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("failed to create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("failed to read {}", from.display()))? {
        let path = entry?.path();
        match path.file_name() {
            Some(name) if name == "node_modules" => {}
            Some(name) if path.is_dir() => copy_tree(&path, &to.join(name))?,
            _ => copy(&path, to)?,
        }
    }
    Ok(())
}

fn work_dir(name: &str) -> Result<PathBuf> {
    let dir = cargo::target_dir()?.join("interop").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok(dir)
}

/// A port that nobody has now; the program that gets it takes it at once.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a free port")?;
    Ok(listener.local_addr()?.port())
}

// === impl Server ===

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
