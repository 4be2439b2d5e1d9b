//! A collector over HTTP: batches of newline-delimited JSON by POST.
//!
//! A batch is sent again until it is taken, so a collector may see one twice: `Idempotency-Key` is the same each time.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncReadExt as _;
use url::{Host, Url};

use super::{Error, Refusal};
use crate::drain::http::with_roots;

/// How long a batch waits for more records.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Longest header file, bytes.
const MAX_HEADER_FILE: u64 = 16 * 1024;

/// How collectors are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// A file with request headers, `Name: value` per line, read again for every batch: a mounted Secret may change.
    pub header_file: Option<PathBuf>,
    /// How long one call may take, connecting included.
    pub timeout: Duration,
    /// The first pause before a call is tried again; they double, with jitter.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How often a batch is tried again before it is dropped.
    pub retries: usize,
}

/// A collector.
#[derive(Debug)]
pub struct HttpSink {
    url: Url,
    client: reqwest::Client,
    settings: HttpSettings,
}

// === impl HttpSettings ===

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            header_file: None,
            timeout: Duration::from_secs(10),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            // About five minutes.
            retries: 14,
        }
    }
}

// === impl HttpSink ===

impl HttpSink {
    pub(super) async fn new(url: Url, settings: HttpSettings) -> Result<Self, Error> {
        let mut roots = rustls::RootCertStore::empty();
        if url.scheme() == "https" {
            // A machine without root certificates fails at the handshake, with the better message.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let client = with_roots(reqwest::Client::builder(), roots)
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout)
            // A redirect would send the header elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("wsroll/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Build)?;
        if let Some(path) = &settings.header_file {
            if url.scheme() == "http" && !is_local(&url) {
                return Err(Error::Plain(url.to_string()));
            }
            headers(path).await.map_err(|message| Error::Header {
                path: path.display().to_string(),
                message,
            })?;
        }
        Ok(Self {
            url,
            client,
            settings,
        })
    }

    /// Sends a batch until it is taken, refused for good, or tried too often.
    pub(super) async fn write(&mut self, body: String) -> Result<(), Refusal> {
        let body = bytes::Bytes::from(body);
        let key = format!("{:032x}", rand::random::<u128>());
        let mut pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(self.settings.first_pause)
            .with_max_delay(self.settings.longest_pause)
            .with_max_times(self.settings.retries)
            .build();
        loop {
            let why = match self.post(&key, body.clone()).await {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) if is_final(status) => return Err(Refusal::Refused(status.as_u16())),
                Ok(status) => format!("status {}", status.as_u16()),
                Err(why) => why,
            };
            let Some(pause) = pauses.next() else {
                return Err(Refusal::Failed(why));
            };
            tracing::debug!(why, ?pause, "the audit collector is tried again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn post(&self, key: &str, body: bytes::Bytes) -> Result<StatusCode, String> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/x-ndjson")
            .header("idempotency-key", key)
            .body(body);
        if let Some(path) = &self.settings.header_file {
            request = request.headers(headers(path).await?);
        }
        match request.send().await {
            Ok(answer) => Ok(answer.status()),
            Err(error) if error.is_timeout() => Err("no answer in time".to_owned()),
            Err(error) if error.is_connect() => Err("no connection".to_owned()),
            Err(_) => Err("the connection broke".to_owned()),
        }
    }
}

/// Whether trying again is of no use. A redirect is not followed; credentials may be put right while it waits.
fn is_final(status: StatusCode) -> bool {
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
    ];
    !status.is_server_error() && !later.contains(&status)
}

/// Whether the collector is on this host or in this pod.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// Reads headers; what is wrong is said without any value.
async fn headers(path: &Path) -> Result<HeaderMap, String> {
    let mut text = String::new();
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| format!("failed to open it: {error}"))?;
    file.take(MAX_HEADER_FILE)
        .read_to_string(&mut text)
        .await
        .map_err(|error| format!("failed to read it: {error}"))?;
    let mut headers = HeaderMap::new();
    for (n, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let wrong = || format!("line {} is no header", n + 1);
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    if headers.is_empty() {
        return Err("it holds no header".to_owned());
    }
    Ok(headers)
}
