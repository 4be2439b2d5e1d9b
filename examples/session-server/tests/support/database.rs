//! Real Redis and PostgreSQL servers, started by the tests as processes of their own.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;

use super::{PATIENCE, answers, eventually, free_port};

/// Nobody: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Redis,
    Postgres,
}

/// A Redis that writes everything to its disk before it answers.
pub struct RealRedis {
    child: Option<Child>,
    port: u16,
    dir: PathBuf,
}

/// A PostgreSQL with a data directory of its own.
pub struct RealPostgres {
    child: Option<Child>,
    port: u16,
    dir: PathBuf,
}

/// The PostgreSQL that all tests of one suite share. It ends when this process does, however it does.
struct Shared {
    port: u16,
    /// Holds the pipe that it waits on.
    _until_we_end: Child,
}

impl RealRedis {
    /// Starts one on a free port; none if there is no `redis-server` on the PATH.
    pub async fn start() -> Option<Self> {
        let dir = temporary("redis");
        for _ in 0..5 {
            let port = free_port();
            let Some(mut child) = Self::spawn(port, &dir) else {
                eprintln!("left out: needs redis-server on PATH");
                return None;
            };
            // The port may be taken meanwhile: then it ends, and another is tried.
            if answers(port, &mut child).await {
                let child = Some(child);
                return Some(Self { child, port, dir });
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("redis-server did not start");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub async fn start_again(&mut self) {
        let mut child = Self::spawn(self.port, &self.dir).unwrap();
        let up = answers(self.port, &mut child).await;
        self.child = Some(child);
        assert!(up, "redis-server did not start again");
    }

    pub fn wipe(&mut self) {
        fs::remove_dir_all(&self.dir).unwrap();
        fs::create_dir_all(&self.dir).unwrap();
    }

    fn spawn(port: u16, dir: &Path) -> Option<Child> {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(dir)
            .args(["--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("failed to start redis-server: {error}"),
        }
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl RealPostgres {
    /// Starts one on a free port; none if PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        let dir = init_database()?;
        let mut server = Self {
            child: None,
            port: free_port(),
            dir,
        };
        server.start_again().await;
        Some(server)
    }

    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }

    /// As if the machine had lost its power: nothing is finished, nothing is written back.
    pub async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let told = Command::new("kill")
            .args(["-QUIT", &child.id().to_string()])
            .status();
        assert!(told.unwrap().success());
        eventually("postgres ends", async || child.try_wait().unwrap().is_some()).await;
    }

    pub async fn start_again(&mut self) {
        self.child = Some(postgres(&self.dir, self.port).spawn().unwrap());
        until_serving(self.port).await;
    }
}

impl Drop for RealPostgres {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its own children would outlive a SIGKILL for a moment.
            let told = Command::new("kill")
                .args(["-QUIT", &child.id().to_string()])
                .status();
            if !told.is_ok_and(|status| status.success()) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The URL of an empty database; none if PostgreSQL is not installed.
pub async fn new_database() -> Option<String> {
    static SHARED: OnceLock<Option<Shared>> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let port = SHARED.get_or_init(shared).as_ref()?.port;
    until_serving(port).await;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    execute(&url(port, "postgres"), &format!("CREATE DATABASE {name}")).await;
    Some(url(port, &name))
}

/// Runs statements in a database.
pub async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://tester@127.0.0.1:{port}/{database}?sslmode=disable")
}

fn shared() -> Option<Shared> {
    let dir = init_database()?;
    let port = free_port();
    let server = postgres(&dir, port);
    // A shell between us ends it when our end of the pipe closes.
    let script = r#""$@" & read -r _; kill -INT $!; wait; rm -rf "$DATA""#;
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(server.get_program())
        .args(server.get_args())
        .env("DATA", &dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    as_nobody(&mut shell, &dir);
    let child = shell.spawn().expect("a shell");
    Some(Shared {
        port,
        _until_we_end: child,
    })
}

/// A new data directory; none if PostgreSQL is not installed.
fn init_database() -> Option<PathBuf> {
    let Some(initdb) = program("initdb") else {
        eprintln!("left out: needs Debian's package postgresql, or initdb and postgres on PATH");
        return None;
    };
    let dir = temporary("postgres");
    let mut command = Command::new(initdb);
    command
        .args(["--username", "tester", "--auth", "trust", "--encoding", "UTF8"])
        .args(["--no-locale", "--no-sync", "--pgdata"])
        .arg(&dir);
    as_nobody(&mut command, &dir);
    let output = command.output().expect("initdb");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(dir)
}

/// Little memory, no waiting for the disk: what a killed process has written stays all the same.
fn postgres(dir: &Path, port: u16) -> Command {
    let mut command = Command::new(program("postgres").unwrap());
    command.arg("-D").arg(dir).args(["-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "shared_buffers=16MB",
        "max_connections=200",
    ] {
        command.args(["-c", setting]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    as_nobody(&mut command, dir);
    command
}

fn as_nobody(command: &mut Command, dir: &Path) {
    command.current_dir("/");
    if fs::metadata("/proc/self").is_ok_and(|us| std::os::unix::fs::MetadataExt::uid(&us) == 0) {
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// A program of PostgreSQL: Debian keeps those of the server off the PATH.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path).map(|dir| dir.join(name)).collect();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<PathBuf> = debian.filter_map(|entry| Some(entry.ok()?.path())).collect();
    versions.sort();
    found.extend(
        versions
            .into_iter()
            .rev()
            .map(|version| version.join("bin").join(name)),
    );
    found.into_iter().find(|program| program.is_file())
}

async fn until_serving(port: u16) {
    let url = url(port, "postgres");
    let end = Instant::now() + PATIENCE;
    loop {
        let asked = timeout(Duration::from_secs(2), tokio_postgres::connect(&url, NoTls)).await;
        match asked {
            Ok(Ok(_)) => return,
            other => assert!(
                Instant::now() < end,
                "postgres did not start: {:?}",
                other.map(|_| ())
            ),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn temporary(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("session-server-{name}-{:016x}", rand::random::<u64>()));
    fs::create_dir_all(&dir).unwrap();
    dir
}
