//! The operator's client of the drain protocol.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};

use super::protocol::{DRAIN_PATH, DrainOrder, DrainProgress, SESSIONS_PATH, SessionsReport};

/// How long one call may take, connecting included.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer read from a pod, bytes. A longer one is a [`Error::BadAnswer`].
pub const MAX_ANSWER: usize = 64 * 1024;

/// How much of a pod's own words is repeated in an error, characters.
const MAX_REASON: usize = 200;

/// Why a pod did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client itself could not be made.
    #[error("failed to build the http client")]
    Build(#[source] reqwest::Error),
    /// No connection, or no answer in time.
    #[error("failed to reach the pod's drain port")]
    Unreachable(#[source] reqwest::Error),
    /// The pod does not know our token.
    #[error("the pod refused the drain token")]
    Unauthorized,
    /// The pod serves HTTP on the drain port, but not this protocol or not this version of it.
    #[error("the pod does not speak the drain protocol")]
    NoProtocol,
    /// The pod called the order a bad one.
    #[error("the pod refused the order: {0}")]
    Refused(String),
    /// An answer outside the protocol.
    #[error("the pod gave a bad answer: {0}")]
    BadAnswer(String),
}

/// A rollout revision's drain token. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Talks to pods, one call at a time. Cheap to clone: clones share connections.
#[derive(Clone, Debug)]
pub struct DrainClient {
    http: reqwest::Client,
}

// === impl Error ===

impl Error {
    /// Whether nobody listens on the drain port: the connection was refused, not lost on its way.
    pub fn is_refused_connection(&self) -> bool {
        let Self::Unreachable(error) = self else {
            return false;
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// A closed set, for metric labels and Event reasons.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Build(_) => "build",
            Self::Unreachable(_) => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::NoProtocol => "no_protocol",
            Self::Refused(_) => "refused",
            Self::BadAnswer(_) => "bad_answer",
        }
    }
}

// === impl Token ===

impl Token {
    /// Takes the token as it stands in the Secret; white space at the ends does not count.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The token itself, for the one header it is sent in.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

// === impl DrainClient ===

impl DrainClient {
    /// A client whose calls take at most `timeout` each.
    ///
    /// It follows no redirect and uses no proxy: the token goes to the pod's own address only.
    pub fn new(timeout: Duration) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(1)
            .user_agent(concat!("wsroll/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Build)?;
        Ok(Self { http })
    }

    /// Reads a pod's sessions.
    pub async fn sessions(&self, pod: SocketAddr, token: &Token) -> Result<SessionsReport, Error> {
        let body = self
            .call(self.request(Method::GET, pod, SESSIONS_PATH, token))
            .await?;
        serde_json::from_slice(&body).map_err(|error| Error::BadAnswer(shortened(&error.to_string())))
    }

    /// Gives an order, renews its lease, or changes its rate: all the same call, idempotent by the order's id.
    /// Answers with the progress where the pod tells it.
    pub async fn order(
        &self,
        pod: SocketAddr,
        token: &Token,
        order: &DrainOrder,
    ) -> Result<Option<DrainProgress>, Error> {
        order.check().map_err(|error| Error::Refused(error.to_string()))?;
        let body = self
            .call(self.request(Method::PUT, pod, DRAIN_PATH, token).json(order))
            .await?;
        Ok(serde_json::from_slice(&body).ok())
    }

    /// Cancels an order: sessions already told stay told, the rest stay. An order the pod does not know counts
    /// as cancelled.
    pub async fn cancel(&self, pod: SocketAddr, token: &Token, id: &str) -> Result<(), Error> {
        match self
            .call(self.request(Method::DELETE, pod, &format!("{DRAIN_PATH}/{id}"), token))
            .await
        {
            Ok(_) | Err(Error::NoProtocol) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn request(&self, method: Method, pod: SocketAddr, path: &str, token: &Token) -> RequestBuilder {
        self.http
            .request(method, format!("http://{pod}{path}"))
            .bearer_auth(token.expose())
    }

    async fn call(&self, request: RequestBuilder) -> Result<Vec<u8>, Error> {
        // Without the URL: the source says what failed, the caller knows which pod.
        let answer = request
            .send()
            .await
            .map_err(|error| Error::Unreachable(error.without_url()))?;
        let status = answer.status();
        let body = read_bounded(answer).await?;
        let words = || shortened(&String::from_utf8_lossy(&body));
        match status {
            _ if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Unauthorized),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(Error::NoProtocol),
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(Error::Refused(words()))
            }
            _ => Err(Error::BadAnswer(format!("status {}", status.as_u16()))),
        }
    }
}

async fn read_bounded(mut answer: Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|error| Error::Unreachable(error.without_url()))?
    {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Error::BadAnswer(format!("more than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A pod's words, safe to put into a status: one line, bounded.
fn shortened(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_REASON)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
