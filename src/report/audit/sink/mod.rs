//! Where records go.

mod file;
mod http;

#[cfg(test)]
mod tests;

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use url::Url;

pub use self::file::FileSettings;
use self::file::FileSink;
pub use self::http::HttpSettings;
use self::http::HttpSink;
use super::trail::Line;

/// A sink, as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The operator's standard output; logs go to standard error.
    Stdout,
    /// A file, rotated by size.
    File(PathBuf),
    /// A collector that takes newline-delimited JSON by POST.
    Http(Url),
}

/// Settings of all sinks.
#[derive(Clone, Debug, Default)]
pub struct Sinks {
    /// Where records go.
    pub targets: Vec<Target>,
    /// How files are rotated.
    pub file: FileSettings,
    /// How collectors are called.
    pub http: HttpSettings,
}

/// An open sink.
#[derive(Debug)]
pub enum Sink {
    /// Standard output.
    Stdout(tokio::fs::File),
    /// A file.
    File(FileSink),
    /// A collector.
    Http(Box<HttpSink>),
}

/// Why records were not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Standard output or the file could not be written.
    #[error("failed to write audit records")]
    Write(#[source] std::io::Error),
    /// The collector said that it will never take them.
    #[error("the collector refused audit records with status {0}")]
    Refused(u16),
    /// The collector could not be reached, or was in trouble, for too long.
    #[error("the collector took no audit records: {0}")]
    Failed(String),
}

/// Why a sink cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error(
        "--audit file:{path}: failed to open it for writing: name a directory that is there and writable"
    )]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no standard output.
    #[error("--audit stdout: failed to take standard output")]
    Stdout(#[source] std::io::Error),
    /// The header file cannot be used.
    #[error("--audit-header-file {path}: {message}; each line is `Name: value`")]
    Header {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A header over a connection that everybody can read.
    #[error("--audit {0}: --audit-header-file needs https, or a collector on this host")]
    Plain(String),
    /// The HTTP client could not be made.
    #[error("failed to build the audit trail's http client")]
    Build(#[source] reqwest::Error),
}

// === impl Refusal ===

impl Refusal {
    /// A closed set, for the metric.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Write(_) | Self::Failed(_) => "failed",
        }
    }
}

// === impl Sinks ===

impl Sinks {
    /// Opens all, so that what cannot work is said at the start.
    pub async fn open(&self) -> Result<Vec<Sink>, Error> {
        let mut sinks = Vec::new();
        for target in &self.targets {
            sinks.push(match target {
                Target::Stdout => Sink::Stdout(stdout().map_err(Error::Stdout)?),
                Target::File(path) => {
                    let opened = FileSink::open(path.clone(), self.file).await;
                    Sink::File(opened.map_err(|source| Error::Open {
                        path: path.display().to_string(),
                        source,
                    })?)
                }
                Target::Http(url) => {
                    Sink::Http(Box::new(HttpSink::new(url.clone(), self.http.clone()).await?))
                }
            });
        }
        Ok(sinks)
    }
}

// === impl Sink ===

impl Sink {
    /// One of a closed set: `stdout`, `file`, `http`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stdout(_) => "stdout",
            Self::File(_) => "file",
            Self::Http(_) => "http",
        }
    }

    /// How long to wait for more records before a write.
    pub(super) fn linger(&self) -> Option<Duration> {
        matches!(self, Self::Http(_)).then_some(http::LINGER)
    }

    /// Writes records, all or none as far as can be told.
    pub(super) async fn write(&mut self, lines: &[Line]) -> Result<(), Refusal> {
        match self {
            Self::Stdout(stdout) => {
                let text = joined(lines);
                stdout.write_all(text.as_bytes()).await.map_err(Refusal::Write)?;
                stdout.flush().await.map_err(Refusal::Write)
            }
            Self::File(file) => file.write(&joined(lines)).await.map_err(Refusal::Write),
            Self::Http(http) => http.write(joined(lines)).await,
        }
    }

    /// Sees to it that what was written stays.
    pub(super) async fn finish(&mut self) {
        if let Self::File(file) = self {
            file.finish().await;
        }
    }
}

/// Standard output as a file: whole batches are written, by a thread that may block.
fn stdout() -> std::io::Result<tokio::fs::File> {
    let fd = std::io::stdout().as_fd().try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(fd)))
}

/// Newline-delimited JSON.
fn joined(lines: &[Line]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|l| l.len() + 1).sum());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

// === impl Target ===

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORMS: &str = "use stdout, file:/path or https://host/path";
        if text == "stdout" {
            return Ok(Self::Stdout);
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() && path.file_name().is_some() {
                Ok(Self::File(path))
            } else {
                Err("the path of a file is absolute: file:/var/log/wsroll/audit.jsonl".to_owned())
            };
        }
        // What is wrong with it is said without the text: it may hold what should not be shown.
        let url = Url::parse(text).map_err(|error| format!("{error}; {FORMS}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(FORMS.to_owned());
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(
                "a URL here has no user, password, query or fragment: put credentials into a file, --audit-header-file"
                    .to_owned(),
            );
        }
        Ok(Self::Http(url))
    }
}
