//! What the host must have for the embedded cluster and for foreign stacks, and its installation on Debian and Ubuntu.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{paths, shell};

/// How a piece is recognised.
#[derive(Debug, Clone, Copy)]
enum Sign {
    /// A program in the search path.
    Program(&'static str),
    /// One of these files.
    File(&'static str),
    /// A command that succeeds.
    Answers(&'static [&'static str]),
    /// A file in the directory of any version: `/usr/lib/postgresql/15/bin/postgres`.
    Versioned(&'static str, &'static str),
}

/// A piece the host needs: how it shows, the Debian package that brings it, and why.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    sign: Sign,
    package: &'static str,
    purpose: &'static str,
}

const fn program(name: &'static str, package: &'static str, purpose: &'static str) -> Piece {
    Piece {
        sign: Sign::Program(name),
        package,
        purpose,
    }
}

/// For the embedded cluster.
pub const CLUSTER: [Piece; 10] = [
    program("containerd", "containerd", "runs the containers"),
    program("runc", "runc", "starts the containers"),
    Piece {
        sign: Sign::File("/usr/lib/cni/bridge"),
        package: "containernetworking-plugins",
        purpose: "gives pods their addresses",
    },
    program("iptables", "iptables", "routes service addresses to pods"),
    program("conntrack", "conntrack", "lets the proxy forget old routes"),
    program("ip", "iproute2", "makes the pods' bridge"),
    program("openssl", "openssl", "makes the cluster's certificates"),
    program("cc", "gcc", "compiles the pod sandbox's one process"),
    Piece {
        sign: Sign::File("/usr/include/stdlib.h"),
        package: "libc6-dev",
        purpose: "for the same",
    },
    PIP,
];

/// For programs in Python and out of its index.
pub const PYTHON: [Piece; 1] = [PIP];

/// For programs in Node.
pub const NODE: [Piece; 2] = [
    program("node", "nodejs", "runs what is written in JavaScript"),
    program("npm", "npm", "fetches what those depend on"),
];

const PIP: Piece = Piece {
    sign: Sign::Answers(&["python3", "-m", "pip", "--version"]),
    package: "python3-pip",
    purpose: "fetches programs from the Python index",
};

/// For the Redis image: the same program serves as server and checker, by the name it is called by.
/// The package `redis-server` would start a server on this host, `redis-tools` does not.
pub const REDIS: [Piece; 1] = [program(
    "redis-check-rdb",
    "redis-tools",
    "is what the Redis image of tests and demo is made of",
)];

/// For the PostgreSQL image. Debian keeps its programs off the search path, in a directory per version.
pub const POSTGRES: [Piece; 1] = [Piece {
    sign: Sign::Versioned("/usr/lib/postgresql", "bin/postgres"),
    package: "postgresql",
    purpose: "holds the sessions of tests, as a server and as an image; Debian starts one of its own as well",
}];

/// For the client's test in a browser.
pub const BROWSER: [Piece; 1] = [program(
    "chromium",
    "chromium",
    "is the browser of the client's test",
)];

impl Piece {
    fn is_there(&self) -> bool {
        match self.sign {
            Sign::Program(name) => shell::which(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Answers([program, arguments @ ..]) => {
                shell::succeeds(shell::command(program).args(arguments))
            }
            Sign::Answers([]) => true,
            Sign::Versioned(dir, file) => newest_version(dir, file).is_some(),
        }
    }
}

/// The directory of the newest version below `dir` that has `file`.
pub fn newest_version(dir: &str, file: &str) -> Option<PathBuf> {
    let version = |path: &PathBuf| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(file).is_file())
        .max_by_key(version)
}

/// Whether missing pieces can be installed here.
pub fn installs() -> bool {
    shell::which("apt-get").is_some() && paths::is_root()
}

/// Sees to it that all pieces are there; installs what is missing when `install` says so and the host is a Debian.
pub fn ensure(pieces: &[Piece], install: bool) -> Result<()> {
    let missing: Vec<Piece> = pieces.iter().copied().filter(|piece| !piece.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let command = install_command(&missing);
    if shell::which("apt-get").is_none() {
        bail!(
            "this host lacks, by the names of Debian's packages:\n{}\ninstall what brings them here",
            list(&missing)
        );
    }
    if !install || !paths::is_root() {
        bail!(
            "this host lacks:\n{}\ninstall them with:\n  {command}",
            list(&missing)
        );
    }
    eprintln!("  installing on this host:\n{}", list(&missing));
    shell::step("apt-get", || apt(&missing))?;
    match pieces.iter().find(|piece| !piece.is_there()) {
        Some(piece) => bail!(
            "{} is installed, but what it should bring is not there",
            piece.package
        ),
        None => Ok(()),
    }
}

/// Other programs may hold apt's lock for a while.
const PATIENT: [&str; 2] = ["-o", "DPkg::Lock::Timeout=300"];

fn apt(missing: &[Piece]) -> Result<()> {
    // An old or empty package list is no reason to fail before the install itself has been tried.
    let updated = shell::output(shell::command("apt-get").args(PATIENT).args(["-qq", "update"]));
    if let Err(error) = updated {
        eprintln!("  warning: {error:#}");
    }
    shell::output(
        shell::command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(PATIENT)
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages(missing)),
    )
    .context("failed to install packages")?;
    Ok(())
}

fn packages(missing: &[Piece]) -> Vec<&'static str> {
    missing.iter().map(|piece| piece.package).collect()
}

fn install_command(missing: &[Piece]) -> String {
    format!(
        "sudo apt-get update && sudo apt-get install --no-install-recommends {}",
        packages(missing).join(" ")
    )
}

fn list(missing: &[Piece]) -> String {
    let lines: Vec<String> = missing
        .iter()
        .map(|piece| format!("  {} ({})", piece.package, piece.purpose))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_missing_needs_nothing() {
        ensure(&[program("sh", "dash", "is a shell")], false).unwrap();
    }

    #[test]
    fn refusal_names_the_piece_and_the_command() {
        let error = ensure(&[program("no-such-thing", "nothing", "is missing")], false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("nothing (is missing)"), "{error}");
    }

    #[test]
    fn the_newest_version_is_chosen_by_number() {
        let dir = std::env::temp_dir().join(format!("wsroll-versions-{}", std::process::id()));
        for version in ["9", "15", "17"] {
            std::fs::create_dir_all(dir.join(version).join("bin")).unwrap();
        }
        for version in ["9", "15"] {
            std::fs::write(dir.join(version).join("bin/postgres"), "").unwrap();
        }
        let newest = newest_version(dir.to_str().unwrap(), "bin/postgres");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(newest, Some(dir.join("15")));
        assert_eq!(newest_version("/nonexistent", "bin/postgres"), None);
    }

    #[test]
    fn command_names_every_package() {
        let command = install_command(&[CLUSTER[0], CLUSTER[3]]);
        assert!(command.ends_with("containerd iptables"), "{command}");
    }
}
