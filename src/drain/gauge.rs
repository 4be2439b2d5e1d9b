//! Sessions of an application without the protocol: a gauge that its pods show in the Prometheus text format.
//!
//! Whatever goes wrong on the way to a sum (no answer, another type, a line that cannot be read, no series at all) is *unknown*, and
//! unknown is never zero: a pod is not called empty because its metrics are late.

use std::net::SocketAddr;
use std::time::Duration;

use super::http;
use super::protocol::MAX_SESSIONS;

/// The longest page read from a pod, bytes.
pub const MAX_PAGE: usize = 4 * 1024 * 1024;

/// Why the sessions of a pod are unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client itself could not be made.
    #[error("failed to make the http client")]
    Build(#[source] http::BuildError),
    /// No connection, or no whole answer in time.
    #[error("failed to read the pod's metrics")]
    Unreachable(#[source] reqwest::Error),
    /// Another status than 200, redirects included.
    #[error("the pod's metrics were answered with {0}")]
    Status(u16),
    /// Longer than [`MAX_PAGE`].
    #[error("the pod's metrics are longer than {MAX_PAGE} bytes")]
    TooLong,
    /// The page says nothing that could be added up.
    #[error("the pod's metrics do not show the gauge: {0}")]
    Unknown(#[source] Unreadable),
}

/// Why a page gives no sum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No series of that name.
    #[error("no series of that name")]
    Absent,
    /// A counter, a histogram: what it adds up to is no number of open sessions.
    #[error("its type is {0}")]
    NotAGauge(String),
    /// A series that cannot be read, or whose value is no count.
    #[error("a series of that name is no count")]
    NoCount,
}

/// Reads gauges. Cheap to clone: clones share connections.
#[derive(Clone, Debug)]
pub struct GaugeClient {
    http: reqwest::Client,
}

// === impl Error ===

impl Error {
    /// A closed set, for metric labels.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Build(_) => "build",
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "status",
            Self::TooLong => "too_long",
            Self::Unknown(_) => "no_gauge",
        }
    }
}

// === impl GaugeClient ===

impl GaugeClient {
    /// A client whose calls take at most `timeout` each. It follows no redirect and uses no proxy: what it reads is the pod's own.
    pub fn new(timeout: Duration) -> Result<Self, Error> {
        let http = http::client(timeout).map_err(Error::Build)?;
        Ok(Self { http })
    }

    /// The sum of a gauge's series on one pod. `path` begins with a slash.
    pub async fn read(&self, pod: SocketAddr, path: &str, metric: &str) -> Result<u64, Error> {
        // Whatever was written, it is the path of this pod: nothing in it can name another host.
        let path = path.trim_start_matches('/');
        let request = self.http.get(format!("http://{pod}/{path}"));
        let unreachable = |error: reqwest::Error| Error::Unreachable(error.without_url());
        let mut answer = request.send().await.map_err(unreachable)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(Error::Status(answer.status().as_u16()));
        }
        let mut page = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if page.len() + chunk.len() > MAX_PAGE {
                return Err(Error::TooLong);
            }
            page.extend_from_slice(&chunk);
        }
        sum(&String::from_utf8_lossy(&page), metric).map_err(Error::Unknown)
    }
}

/// Adds up all series of a gauge on a page of the Prometheus text format (0.0.4, or `OpenMetrics`). Fractions are rounded up.
///
/// # Errors
/// Where there is no sum: one unreadable series spoils it, since a part of the sessions is not their number.
pub fn sum(page: &str, metric: &str) -> Result<u64, Unreadable> {
    let mut total: Option<f64> = None;
    for line in page.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            check_type(comment, metric)?;
            continue;
        }
        let Some(rest) = line.strip_prefix(metric) else {
            continue;
        };
        // Of another metric whose name begins with this one's.
        if !rest.is_empty() && !rest.starts_with(['{', ' ', '\t']) {
            continue;
        }
        let value = value_of(rest).ok_or(Unreadable::NoCount)?;
        total = Some(total.unwrap_or(0.0) + value);
    }
    let total = total.ok_or(Unreadable::Absent)?;
    if total > MAX_SESSIONS as f64 {
        return Err(Unreadable::NoCount);
    }
    Ok(total.ceil() as u64)
}

fn check_type(comment: &str, metric: &str) -> Result<(), Unreadable> {
    let mut words = comment.split_whitespace();
    if (words.next(), words.next()) != (Some("TYPE"), Some(metric)) {
        return Ok(());
    }
    match words.next() {
        Some("gauge" | "untyped" | "unknown") | None => Ok(()),
        Some(other) => Err(Unreadable::NotAGauge(other.chars().take(20).collect())),
    }
}

/// The value of a sample, from behind its name: `{labels} value [timestamp]`.
fn value_of(rest: &str) -> Option<f64> {
    let rest = rest.trim_start();
    let rest = if rest.starts_with('{') {
        &rest[end_of_labels(rest)?..]
    } else {
        rest
    };
    // An exemplar or a timestamp may follow.
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    let countable = value.is_finite() && (0.0..=MAX_SESSIONS as f64).contains(&value);
    countable.then_some(value)
}

/// Where a label set that `text` begins with ends. Braces and quotes within values do not count.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[path = "gauge_tests.rs"]
mod tests;
