//! A file that is rotated by size: `audit.jsonl`, `audit.jsonl.1` (newer) … `audit.jsonl.N` (oldest).

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

/// How files are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// A file that would grow beyond this is rotated, bytes.
    pub max_bytes: u64,
    /// Files that are kept, the one that is written included; at least 1.
    pub count: u32,
}

/// An open file.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    settings: FileSettings,
    file: Option<File>,
    size: u64,
}

// === impl FileSettings ===

impl Default for FileSettings {
    fn default() -> Self {
        Self {
            max_bytes: 64 * 1024 * 1024,
            count: 5,
        }
    }
}

// === impl FileSink ===

impl FileSink {
    /// Opens the file to go on where it ends.
    pub(super) async fn open(path: PathBuf, settings: FileSettings) -> io::Result<Self> {
        let mut sink = Self {
            path,
            settings,
            file: None,
            size: 0,
        };
        sink.reopen().await?;
        Ok(sink)
    }

    /// Appends text that ends with a line break. After a failure the next call opens the file anew.
    pub(super) async fn write(&mut self, text: &str) -> io::Result<()> {
        let wrote = self.try_write(text).await;
        if wrote.is_err() {
            self.file = None;
        }
        wrote
    }

    /// Sees to it that what was written stays.
    pub(super) async fn finish(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.sync_data().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to sync the audit file"
            );
        }
    }

    async fn try_write(&mut self, text: &str) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen().await?;
        }
        let mut rest = text;
        while !rest.is_empty() {
            let room = self.settings.max_bytes.saturating_sub(self.size);
            let now = match whole_lines(rest, room) {
                "" if self.size > 0 => {
                    self.rotate().await?;
                    continue;
                }
                // Longer than any file may be: alone in one.
                "" => rest.split_inclusive('\n').next().unwrap_or(rest),
                lines => lines,
            };
            if let Some(file) = &mut self.file {
                file.write_all(now.as_bytes()).await?;
                file.flush().await?;
            }
            self.size += now.len() as u64;
            rest = &rest[now.len()..];
        }
        Ok(())
    }

    async fn reopen(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        // What happened to whose sessions is nobody else's to read.
        options.mode(0o640);
        let mut file = options.open(&self.path).await?;
        self.size = file.metadata().await?.len();
        if self.size > 0 && !ends_with_line_break(&mut file).await? {
            // Killed in mid-write: the torn line stays one line.
            file.write_all(b"\n").await?;
            self.size += 1;
        }
        self.file = Some(file);
        Ok(())
    }

    async fn rotate(&mut self) -> io::Result<()> {
        self.finish().await;
        self.file = None;
        let last = self.settings.count.max(1) - 1;
        if last == 0 {
            absent_is_fine(fs::remove_file(&self.path).await)?;
        }
        for n in (0..last).rev() {
            let (from, to) = (numbered(&self.path, n), numbered(&self.path, n + 1));
            absent_is_fine(fs::rename(from, to).await)?;
        }
        self.reopen().await
    }
}

async fn ends_with_line_break(file: &mut File) -> io::Result<bool> {
    file.seek(io::SeekFrom::End(-1)).await?;
    let mut last = [0_u8];
    file.read_exact(&mut last).await?;
    Ok(last == *b"\n")
}

/// The longest part of whole lines that fits; empty where not even one does.
fn whole_lines(text: &str, room: u64) -> &str {
    if text.len() as u64 <= room {
        return text;
    }
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    match text.as_bytes()[..room.min(text.len())]
        .iter()
        .rposition(|b| *b == b'\n')
    {
        Some(end) => &text[..=end],
        None => "",
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
