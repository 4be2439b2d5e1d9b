//! Things that take long to make, kept by what they were made from.
//!
//! An artifact is a directory `<name>-<hash of its inputs>` in the cache. It appears by one rename, so
//! that an interrupted build leaves nothing that looks finished.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::{paths, shell};

/// The directory of an artifact; made by `build` in a directory of its own when it is not there yet.
pub fn artifact(name: &str, inputs: &[&[u8]], build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = paths::cache_dir()?;
    let dir = cache.join(format!("{name}-{}", &digest(inputs)[..16]));
    if dir.is_dir() {
        return Ok(dir);
    }
    let _one_at_a_time = lock(&format!("build-{name}"))?;
    if dir.is_dir() {
        return Ok(dir);
    }
    let fresh = cache.join(format!(".{name}-{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("failed to create {}", fresh.display()))?;
    let outcome = shell::step(&format!("building {name} (kept in {})", cache.display()), || {
        build(&fresh)
    });
    if let Err(error) = outcome {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    fs::rename(&fresh, &dir).with_context(|| format!("failed to rename to {}", dir.display()))?;
    Ok(dir)
}

/// A lock between processes, held until dropped. A file in the cache, whose content means nothing.
pub fn lock(name: &str) -> Result<File> {
    let path = paths::cache_dir()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("  waiting for another process that holds {} …", path.display());
        file.lock()
            .with_context(|| format!("failed to lock {}", path.display()))?;
    }
    Ok(file)
}

/// SHA-256 in hex over parts; each part's length goes in too, so that moving a boundary changes it.
pub fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_sees_boundaries() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_eq!(digest(&[b"ab", b"c"]), digest(&[b"ab", b"c"]));
    }
}
