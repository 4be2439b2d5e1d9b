//! Where things are: the checkout, the cache of build outputs, the state of the cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Build outputs that survive the checkout: `WSROLL_CACHE_DIR`, or `/var/cache/wsroll` for root, or
/// `wsroll` in the user's cache directory.
pub fn cache_dir() -> Result<PathBuf> {
    let dir = match std::env::var_os("WSROLL_CACHE_DIR") {
        Some(dir) => PathBuf::from(dir),
        None if is_root() => PathBuf::from("/var/cache/wsroll"),
        None => match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            (Some(dir), _) => PathBuf::from(dir).join("wsroll"),
            (None, Some(home)) => PathBuf::from(home).join(".cache/wsroll"),
            (None, None) => std::env::temp_dir().join("wsroll-cache"),
        },
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok(dir)
}

/// What the embedded cluster keeps while it exists: `WSROLL_STATE_DIR`, or `/var/lib/wsroll-dev`.
pub fn state_dir() -> PathBuf {
    std::env::var_os("WSROLL_STATE_DIR").map_or_else(|| PathBuf::from("/var/lib/wsroll-dev"), PathBuf::from)
}

/// Whether this process may do as root does. Asked of the file system, so that no unsafe call is needed.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_the_workspace() {
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}
