//! Programs that run beside a test and end with it.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{shell, wait};

/// How long a program may take until it listens.
const START: Duration = Duration::from_secs(30);

/// A program that is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Running {
    /// Starts a program; what it says goes to files in `scratch`.
    pub fn start(name: &str, command: &mut Command, scratch: &Scratch) -> Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let output = scratch.path().join(format!("{name}.out"));
        let create =
            |path: &Path| File::create(path).with_context(|| format!("failed to create {}", path.display()));
        command
            .stdin(Stdio::null())
            .stdout(create(&output)?)
            .stderr(create(&log)?);
        let child = command
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
            log,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it accepts connections there.
    pub fn await_listening(&mut self, at: SocketAddr) -> Result<()> {
        wait::until(&format!("{} listening on {at}", self.name), START, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}");
            }
            TcpStream::connect_timeout(&at, Duration::from_millis(500))?;
            Ok(())
        })
        .with_context(|| format!("{} said: {}", self.name, self.said()))
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The end of what it said to people.
    pub fn said(&self) -> String {
        shell::tail(&fs::read_to_string(&self.log).unwrap_or_default(), 20)
    }

    /// All it wrote to its standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

/// A directory that is gone when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A fresh one.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("wsroll-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An address on the loopback interface that nobody listens on.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("failed to find a free port")?;
    Ok(listener.local_addr()?)
}
