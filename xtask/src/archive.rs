//! Container images as docker archives (the format `docker save` writes, `ctr images import` reads),
//! made from files of this host. The same content gives the same bytes: times and owners are fixed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{cache, shell};

/// The user of our images: not root, and not one of Debian's.
const USER: &str = "65532:65532";

/// An image in the making: one layer of files, and how it starts.
#[derive(Debug, Default, Clone)]
pub struct Image {
    files: BTreeMap<String, Entry>,
    entrypoint: Vec<String>,
    env: Vec<String>,
    root: bool,
}

/// A file of the layer.
#[derive(Debug, Clone)]
struct Entry {
    content: Vec<u8>,
    mode: u32,
}

impl Image {
    /// An image that starts as `entrypoint`.
    pub fn new(entrypoint: &[&str]) -> Self {
        Self {
            entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    /// Runs as root instead of our user.
    pub fn with_root(mut self) -> Self {
        self.root = true;
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Adds a file with what it says itself.
    pub fn text(mut self, path: &str, content: &str) -> Self {
        self.files.insert(
            inside(path),
            Entry {
                content: content.as_bytes().to_vec(),
                mode: 0o644,
            },
        );
        self
    }

    /// Adds a file of this host under another path.
    pub fn file(mut self, from: &Path, path: &str) -> Result<Self> {
        self.copy(from, path)?;
        Ok(self)
    }

    /// Adds all files below a directory of this host under another path, but those whose path in it is `skipped`. Links are followed.
    pub fn tree(mut self, from: &Path, path: &str, skipped: fn(&Path) -> bool) -> Result<Self> {
        let mut left = vec![from.to_path_buf()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("failed to read {}", dir.display()))? {
                let file = entry?.path();
                let inner = file.strip_prefix(from).unwrap_or(&file);
                if skipped(inner) {
                } else if file.is_dir() {
                    left.push(file);
                } else if file.is_file() {
                    self.copy(&file, &format!("{path}/{}", inner.display()))?;
                }
            }
        }
        Ok(self)
    }

    /// Adds a library of a dynamic program's plug-in: what it is linked to comes along, at the paths they have here.
    pub fn libraries_of(mut self, plug_in: &Path) -> Result<Self> {
        for library in libraries(plug_in)? {
            self.copy(&library, &library.to_string_lossy())?;
        }
        Ok(self)
    }

    /// Adds a program with the dynamic loader and the libraries it is linked to, at the paths they have here.
    pub fn program(mut self, from: &Path, path: &str) -> Result<Self> {
        self.copy(from, path)?;
        for library in libraries(from)? {
            self.copy(&library, &library.to_string_lossy())?;
        }
        Ok(self)
    }

    /// Adds what programs expect of a system: users, and name resolution by glibc.
    pub fn system(mut self) -> Result<Self> {
        self = self
            .text(
                "/etc/passwd",
                "root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/tmp:/\n",
            )
            .text("/etc/group", "root:x:0:\nnonroot:x:65532:\n")
            .text(
                "/etc/nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files dns\n",
            );
        // glibc loads these by name at run time, so ldd does not list them.
        for library in ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"] {
            for dir in [
                "/lib/x86_64-linux-gnu",
                "/lib/aarch64-linux-gnu",
                "/lib64",
                "/usr/lib64",
                "/usr/lib",
            ] {
                let path = Path::new(dir).join(library);
                if path.is_file() {
                    self.copy(&path, &path.to_string_lossy())?;
                    break;
                }
            }
        }
        Ok(self)
    }

    /// Adds this host's certificate authorities.
    pub fn certificates(self) -> Result<Self> {
        let known = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
        ];
        match known.iter().find(|path| Path::new(path).is_file()) {
            Some(path) => self.file(Path::new(path), "/etc/ssl/certs/ca-certificates.crt"),
            None => Ok(self),
        }
    }

    /// A hash of everything in it: 12 hex digits, good for a tag.
    pub fn tag(&self) -> String {
        let modes: Vec<u8> = self
            .files
            .values()
            .flat_map(|entry| entry.mode.to_be_bytes())
            .collect();
        let entrypoint = self.entrypoint.join("\0");
        let env = self.env.join("\0");
        let mut parts: Vec<&[u8]> = vec![
            &modes,
            entrypoint.as_bytes(),
            env.as_bytes(),
            if self.root { b"root" } else { b"" },
        ];
        for (path, entry) in &self.files {
            parts.push(path.as_bytes());
            parts.push(&entry.content);
        }
        cache::digest(&parts)[..12].to_owned()
    }

    /// Writes the archive; `reference` is the image's whole name with its tag.
    pub fn write(&self, reference: &str, to: &Path) -> Result<()> {
        let layer = self.layer().context("failed to build the layer")?;
        let layer_hash = hex::encode(Sha256::digest(&layer));
        let mut env = vec![
            "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt".to_owned(),
        ];
        env.extend_from_slice(&self.env);
        let config = serde_json::to_vec(&json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": if self.root { "" } else { USER },
                "Env": env,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_hash}")] },
        }))?;
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let layer_name = format!("{layer_hash}.tar");
        let manifest = serde_json::to_vec(&json!([
            { "Config": config_name, "RepoTags": [reference], "Layers": [layer_name] }
        ]))?;

        let file = fs::File::create(to).with_context(|| format!("failed to create {}", to.display()))?;
        let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
        append(&mut archive, &config_name, &config, 0o644)?;
        append(&mut archive, &layer_name, &layer, 0o644)?;
        append(&mut archive, "manifest.json", &manifest, 0o644)?;
        archive.into_inner()?.flush()?;
        Ok(())
    }

    fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        let failed = || format!("failed to read {}", from.display());
        let mode = fs::metadata(from).with_context(failed)?.permissions().mode() & 0o755;
        let content = fs::read(from).with_context(failed)?;
        self.files.insert(inside(path), Entry { content, mode });
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for dir in parents(self.files.keys()) {
            append_dir(&mut archive, &dir, 0o755)?;
        }
        append_dir(&mut archive, "tmp", 0o1777)?;
        for (path, entry) in &self.files {
            append(&mut archive, path, &entry.content, entry.mode)?;
        }
        Ok(archive.into_inner()?)
    }
}

/// The loader and libraries that the dynamic linker would load for a program; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    match shell::output(shell::command("ldd").arg(program)) {
        Ok(listed) => Ok(paths_of(&listed)),
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The files in `ldd`'s answer: `libc.so.6 => /lib/…/libc.so.6 (0x…)` and `/lib64/ld-linux… (0x…)`.
fn paths_of(listed: &str) -> Vec<PathBuf> {
    listed
        .lines()
        .filter_map(|line| {
            let path = line.split("=>").last()?.trim().split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

/// Paths in an archive are relative.
fn inside(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

/// Every directory above the files, outermost first.
fn parents<'a>(files: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    files
        .flat_map(|file| Path::new(file).ancestors().skip(1))
        .map(|dir| dir.to_string_lossy().into_owned())
        .filter(|dir| !dir.is_empty() && dir != "tmp")
        .collect()
}

fn append(
    archive: &mut tar::Builder<impl std::io::Write>,
    path: &str,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    archive
        .append_data(&mut header, path, content)
        .with_context(|| format!("failed to add {path}"))
}

fn append_dir(archive: &mut tar::Builder<impl std::io::Write>, path: &str, mode: u32) -> Result<()> {
    let mut header = header(tar::EntryType::Directory, mode);
    header.set_size(0);
    archive
        .append_data(&mut header, path, std::io::empty())
        .with_context(|| format!("failed to add {path}"))
}

/// A header without what differs between hosts and times.
fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_answer_of_ldd() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffe)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)\n\
                      \tlibgone.so => not found\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        assert_eq!(
            paths_of(listed),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn same_content_same_tag() {
        let image = Image::new(&["/a"]).text("/etc/x", "1");
        assert_eq!(image.tag(), image.clone().tag());
        assert_ne!(image.tag(), image.clone().text("/etc/x", "2").tag());
        assert_ne!(image.tag(), image.clone().with_root().tag());
        assert_ne!(image.tag(), Image::new(&["/b"]).text("/etc/x", "1").tag());
        assert_ne!(image.tag(), image.clone().env("A", "1").tag());
    }

    #[test]
    fn a_tree_comes_with_all_below_it_but_what_is_skipped() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let image = Image::new(&["/a"])
            .tree(here, "/x", |path| path.starts_with("src/cluster"))
            .unwrap();
        assert!(image.files.contains_key("x/src/archive.rs"));
        assert!(image.files.contains_key("x/Cargo.toml"));
        assert!(!image.files.keys().any(|file| file.starts_with("x/src/cluster")));
    }

    #[test]
    fn directories_come_before_their_files() {
        let files = ["usr/bin/a".to_owned(), "tmp/b".to_owned()];
        let dirs: Vec<_> = parents(files.iter()).into_iter().collect();
        assert_eq!(dirs, ["usr", "usr/bin"]);
    }

    #[test]
    fn layer_is_reproducible() {
        let image = Image::new(&["/a"]).text("/etc/x", "1").text("/a", "2");
        assert_eq!(image.layer().unwrap(), image.clone().layer().unwrap());
    }
}
