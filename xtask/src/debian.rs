//! Programs out of Debian's packages, unpacked beside the system: nothing is installed, no service starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cache, shell};

/// The keys that sign every release of Debian; the old ones stay in it.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where Debian puts the libraries of this processor.
pub const LIBRARIES: &str = if cfg!(target_arch = "aarch64") {
    "usr/lib/aarch64-linux-gnu"
} else {
    "usr/lib/x86_64-linux-gnu"
};

/// A package of this host's own release with everything it needs that the host does not have, unpacked.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    cache::artifact(package, &[release()?.as_bytes()], |dir| {
        let installed = shell::output(shell::command("apt-get").args([
            "install",
            "--simulate",
            "--no-install-recommends",
            package,
        ]))?;
        let mut needed = would_install(&installed);
        if needed.is_empty() {
            // It is installed here; its files are wanted all the same, for a path that is ours.
            needed.push(package);
        }
        fetch(&mut shell::command("apt-get"), &needed, dir)
    })
}

/// Packages of another release, from the mirror that this host uses, unpacked into `dir`.
pub fn unpack_from(release: &str, packages: &[&str], dir: &Path) -> Result<()> {
    let apt = dir.join("apt");
    fs::create_dir_all(apt.join("lists/partial"))?;
    fs::create_dir_all(apt.join("cache/archives/partial"))?;
    let mirror = mirror()?;
    ensure!(
        Path::new(KEYS).is_file(),
        "{KEYS} is missing: install debian-archive-keyring"
    );
    let sources = apt.join("sources.list");
    fs::write(
        &sources,
        format!("deb [signed-by={KEYS}] {mirror} {release} main\n"),
    )?;
    let get = || {
        let mut get = shell::command("apt-get");
        for (key, value) in [
            ("Dir::Etc::sourcelist", sources.as_path()),
            ("Dir::Etc::sourceparts", Path::new("-")),
            ("Dir::State::lists", &apt.join("lists")),
            ("Dir::Cache", &apt.join("cache")),
        ] {
            get.arg("-o").arg(format!("{key}={}", value.display()));
        }
        get
    };
    shell::output(get().args(["-qq", "update"]))?;
    fetch(&mut get(), packages, dir)?;
    fs::remove_dir_all(&apt)?;
    Ok(())
}

/// Why packages cannot be had here, or nothing.
pub fn obstacle() -> Option<String> {
    for program in ["apt-get", "dpkg"] {
        if shell::which(program).is_none() {
            return Some(format!("They need Debian's {program}."));
        }
    }
    mirror().err().map(|error| format!("{error:#}."))
}

fn fetch(get: &mut Command, packages: &[&str], dir: &Path) -> Result<()> {
    let downloads = dir.join("packages");
    fs::create_dir_all(&downloads)?;
    shell::output(
        get.args(["-qq", "download"])
            .args(packages)
            .current_dir(&downloads),
    )?;
    for entry in fs::read_dir(&downloads)? {
        let package = entry?.path();
        shell::output(shell::command("dpkg").arg("-x").arg(&package).arg(dir))?;
    }
    fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// The release this host runs, as its own file tells it.
fn release() -> Result<String> {
    fs::read_to_string("/etc/os-release").context("failed to read /etc/os-release")
}

/// Names in apt's simulation: `Inst haproxy (2.6.12-1 Debian:12/stable [amd64])`.
fn would_install(simulation: &str) -> Vec<&str> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .collect()
}

/// The mirror in apt's own lists.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let more = entries.filter_map(|entry| Some(entry.ok()?.path()));
        files.extend(more.filter(|path| {
            path.extension()
                .is_some_and(|end| end == "list" || end == "sources")
        }));
    }
    let found = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text).map(ToOwned::to_owned));
    match found {
        Some(mirror) => Ok(mirror),
        None => bail!("apt's lists name no mirror of Debian"),
    }
}

/// The first address that ends with `/debian`, in either format of apt's lists.
fn mirror_in(text: &str) -> Option<&str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror_in_both_formats() {
        let list = "# deb http://old.example/debian x main\ndeb [arch=amd64] http://m.example/debian/ bookworm main\n";
        assert_eq!(mirror_in(list), Some("http://m.example/debian"));
        let sources =
            "Types: deb\nURIs: http://s.example/debian-security http://s.example/debian\nSuites: x\n";
        assert_eq!(mirror_in(sources), Some("http://s.example/debian"));
        assert_eq!(mirror_in("deb http://archive.example/ubuntu noble main"), None);
    }

    #[test]
    fn reads_what_apt_would_install() {
        let simulation = "Reading package lists...\nInst liblua5.3-0 (5.3.6-2 Debian:12.11 [amd64])\nConf liblua5.3-0 (…)\n";
        assert_eq!(would_install(simulation), ["liblua5.3-0"]);
    }
}
