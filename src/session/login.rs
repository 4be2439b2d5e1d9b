//! A token by logging in: one HTTP request, and a path into the JSON that answers it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jsonpath_rust::JsonPath as _;
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

use super::config::ConfigError;
use super::dial::{DialError, Phases, stream};
use super::tls::{Tls, TlsFiles};
use crate::outbound::Policy;

/// How long a login may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// The longest token, bytes: it goes into a header.
const MAX_TOKEN: usize = 8 * 1024;

/// A request that is answered with a token. `Debug` shows no header and no body.
#[derive(Clone)]
pub struct Login {
    url: Url,
    method: Method,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    path: String,
    tls: Option<(Tls, Option<String>)>,
    outbound: Option<Arc<Policy>>,
}

/// Why there is no token. Holds nothing that was sent, and nothing that was answered but its status.
#[derive(Debug, Error)]
pub enum LoginError {
    /// The service cannot be reached.
    #[error("{0}")]
    Dial(String),
    /// No answer in time.
    #[error("no answer within {} s", LIMIT.as_secs())]
    Timeout,
    /// No valid HTTP answer, or one that is too long.
    #[error("no answer that could be read")]
    Broken,
    /// Another status than 2xx.
    #[error("it was answered with {0}")]
    Refused(u16),
    /// The answer is no JSON.
    #[error("the answer is no JSON")]
    NoJson,
    /// The path leads to nothing, or to several things, or to something that is no text.
    #[error("tokenPath {0:?} leads to no text in the answer")]
    Path(String),
    /// What was found cannot be sent.
    #[error("what tokenPath leads to is no token: it is empty, or longer than {MAX_TOKEN} bytes")]
    NoToken,
}

// === impl Login ===

impl Login {
    /// A `POST` to this URL without a body; `path` is the JSON path of the token in the answer.
    pub fn new(url: &str, path: &str) -> Result<Self, ConfigError> {
        let url = Url::parse(url).map_err(ConfigError::Url)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(ConfigError::LoginUrl);
        }
        jsonpath_rust::parser::parse_json_path(path).map_err(|_| ConfigError::Path(path.to_owned()))?;
        Ok(Self {
            url,
            method: Method::POST,
            headers: Vec::new(),
            body: Bytes::new(),
            path: path.to_owned(),
            tls: None,
            outbound: None,
        })
    }

    /// Another method.
    pub fn method(mut self, method: &str) -> Result<Self, ConfigError> {
        self.method =
            Method::from_bytes(method.as_bytes()).map_err(|_| ConfigError::Header(method.to_owned()))?;
        Ok(self)
    }

    /// A request header.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Header(name.to_owned());
        let key = HeaderName::try_from(name).map_err(|_| bad())?;
        let value = HeaderValue::try_from(value).map_err(|_| bad())?;
        self.headers.push((key, value));
        Ok(self)
    }

    /// The body. Without a header that says otherwise it is JSON.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body.into();
        self
    }

    /// The TLS set-up for `https`, and the name that the certificate must be for where it is not the URL's host.
    #[must_use]
    pub fn secured(mut self, tls: &Tls, server_name: Option<String>) -> Self {
        self.tls = Some((tls.clone(), server_name));
        self
    }

    /// Calls only what the policy lets be called: where others wrote the URL.
    #[must_use]
    pub fn outbound(mut self, policy: Arc<Policy>) -> Self {
        self.outbound = Some(policy);
        self
    }

    /// Logs in.
    pub async fn token(&self) -> Result<String, LoginError> {
        let answer = timeout(LIMIT, self.ask())
            .await
            .unwrap_or(Err(LoginError::Timeout))?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| LoginError::NoJson)?;
        let found = answer.query(&self.path).unwrap_or_default();
        let [Value::String(token)] = &found[..] else {
            return Err(LoginError::Path(self.path.clone()));
        };
        let token = token.trim();
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(LoginError::NoToken);
        }
        Ok(token.to_owned())
    }

    async fn ask(&self) -> Result<Bytes, LoginError> {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or(80);
        let address = format!("{host}:{port}");
        let secured = match (self.url.scheme(), &self.tls) {
            ("https", Some(tls)) => Some(tls.clone()),
            ("https", None) => {
                let tls = Tls::new(&TlsFiles::default()).map_err(|e| LoginError::Dial(e.to_string()))?;
                Some((tls, None))
            }
            _ => None,
        };
        let tls = secured
            .as_ref()
            .map(|(tls, name)| (&tls.0, name.as_deref().unwrap_or(host)));
        let stream = stream(&address, tls, self.outbound.as_deref(), &mut Phases::default()).await;
        let stream = stream.map_err(|error: DialError| LoginError::Dial(error.failure().to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| LoginError::Broken)?;
        let exchange = async {
            let answer = sender.send_request(self.request()?).await;
            let answer = answer.map_err(|_| LoginError::Broken)?;
            let status = answer.status();
            // A redirect is not followed: it would take the credentials to another place.
            if !status.is_success() {
                return Err(LoginError::Refused(status.as_u16()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(|_| LoginError::Broken)?.to_bytes())
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => return answer,
            _ = connection => {}
        }
        // The connection is done with; what it brought last may still be on its way to the one who asked.
        exchange.await
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, LoginError> {
        let target = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let authority = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut request = Request::builder()
            .method(&self.method)
            .uri(target)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("wsroll-probe/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONNECTION, "close")
            .body(Full::new(self.body.clone()))
            .map_err(|_| LoginError::Broken)?;
        let headers = request.headers_mut();
        if !self.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}
