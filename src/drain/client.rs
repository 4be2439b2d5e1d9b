//! The operator's client of the drain protocol.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};

use super::http;
use super::protocol::{
    DRAIN_PATH, DrainOrder, DrainProgress, EVENTS_PATH, EventsReport, MAX_EVENTS, MAX_SESSIONS,
    SESSIONS_PATH, SessionsReport,
};
use super::tls::{self, Trust};

/// How long one call may take, connecting included.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer read from a pod, bytes. A longer one is a [`Error::BadAnswer`].
pub const MAX_ANSWER: usize = 64 * 1024;

/// The longest answer with events, bytes: [`MAX_EVENTS`] with the longest ids of orders.
pub const MAX_EVENTS_ANSWER: usize = 512 * 1024;

/// The longest name that a report may hold, bytes.
const MAX_NAME: usize = 256;
/// The highest counter that a report may hold: far above any, and far below where sums turn over.
const MAX_COUNTER: u64 = 1_000_000_000_000_000;

/// How much of a pod's own words is repeated in an error, characters.
const MAX_REASON: usize = 200;

/// Why a pod did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client itself could not be made.
    #[error("failed to make the http client")]
    Build(#[source] http::BuildError),
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

/// What opens the drain port of a revision's pods: its token, and whom to trust to be such a pod. Never shown by `Debug`.
#[derive(Clone)]
pub struct Token {
    text: String,
    /// With it the pods are called by TLS only; there is no way back to plain text.
    trust: Option<Trust>,
}

/// Talks to pods, one call at a time. Cheap to clone: clones share connections.
#[derive(Clone, Debug)]
pub struct DrainClient {
    http: reqwest::Client,
    timeout: Duration,
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
        Self {
            text: text.trim().to_owned(),
            trust: None,
        }
    }

    /// The same for pods that prove who they are.
    #[must_use]
    pub fn trusting(self, trust: Trust) -> Self {
        Self {
            trust: Some(trust),
            ..self
        }
    }

    /// Whether it is shown only to pods that prove who they are.
    pub fn is_sealed(&self) -> bool {
        self.trust.is_some()
    }

    /// The token itself, for the one header it is sent in.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.is_sealed() == other.is_sealed()
    }
}

impl Eq for Token {}

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
        let http = http::client(timeout).map_err(Error::Build)?;
        Ok(Self { http, timeout })
    }

    /// Trust in pods that prove `name` by a certificate of `authority` (PEM), and in nobody else. It has connections of its own.
    pub fn trust(&self, authority: &str, name: &str) -> Result<Trust, tls::Error> {
        Trust::new(authority, name, self.timeout)
    }

    /// Reads a pod's sessions.
    pub async fn sessions(&self, pod: SocketAddr, token: &Token) -> Result<SessionsReport, Error> {
        let body = self
            .call(self.request(Method::GET, pod, SESSIONS_PATH, token))
            .await?;
        let report: SessionsReport =
            serde_json::from_slice(&body).map_err(|error| Error::BadAnswer(shortened(&error.to_string())))?;
        check_report(&report).map_err(|reason| Error::BadAnswer(reason.to_owned()))?;
        Ok(report)
    }

    /// Reads the events after number `after`: one page of them. `None`: the pod does not offer them.
    pub async fn events(
        &self,
        pod: SocketAddr,
        token: &Token,
        after: u64,
    ) -> Result<Option<EventsReport>, Error> {
        let path = format!("{EVENTS_PATH}?after={after}");
        let request = self.request(Method::GET, pod, &path, token);
        let body = match self.call_within(request, MAX_EVENTS_ANSWER).await {
            Ok(body) => body,
            Err(Error::NoProtocol) => return Ok(None),
            Err(error) => return Err(error),
        };
        let report: EventsReport =
            serde_json::from_slice(&body).map_err(|error| Error::BadAnswer(shortened(&error.to_string())))?;
        check_events(&report).map_err(|reason| Error::BadAnswer(reason.to_owned()))?;
        Ok(Some(report))
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
        let (http, scheme) = match &token.trust {
            Some(trust) => (&trust.http, "https"),
            None => (&self.http, "http"),
        };
        http.request(method, format!("{scheme}://{pod}{path}"))
            .bearer_auth(token.expose())
    }

    async fn call(&self, request: RequestBuilder) -> Result<Vec<u8>, Error> {
        self.call_within(request, MAX_ANSWER).await
    }

    async fn call_within(&self, request: RequestBuilder, most: usize) -> Result<Vec<u8>, Error> {
        // Without the URL: the source says what failed, the caller knows which pod.
        let answer = request
            .send()
            .await
            .map_err(|error| Error::Unreachable(error.without_url()))?;
        let status = answer.status();
        let body = read_bounded(answer, most).await?;
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

async fn read_bounded(mut answer: Response, most: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|error| Error::Unreachable(error.without_url()))?
    {
        if body.len() + chunk.len() > most {
            return Err(Error::BadAnswer(format!("more than {most} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What a report can say and be believed. Counts of many pods are added up: one that claims more sessions than a
/// process can have would turn the sum over, and an unknown pod is safer than a wrong sum.
pub(super) fn check_report(report: &SessionsReport) -> Result<(), &'static str> {
    let short = |text: Option<&String>| text.is_none_or(|text| text.len() <= MAX_NAME);
    if report.open > MAX_SESSIONS || report.dormant.is_some_and(|dormant| dormant > MAX_SESSIONS) {
        return Err("it claims more than 100000000 sessions");
    }
    if !short(report.instance.as_ref()) || !short(report.revision.as_ref()) {
        return Err("instance or revision is longer than 256 bytes");
    }
    let totals = report.totals.as_ref();
    let counters = totals.map(|t| [t.accepted, t.refused, t.resumed, t.resume_failed, t.state_lost]);
    if counters.into_iter().flatten().flatten().any(|n| n > MAX_COUNTER) {
        return Err("a counter of totals is above 10^15");
    }
    let Some(drain) = &report.drain else {
        return Ok(());
    };
    let counts = [
        drain.eligible,
        drain.notified,
        drain.acked,
        drain.closed_clean,
        drain.closed_forced,
        drain.busy,
        drain.dormant,
    ];
    if drain.id.len() > MAX_NAME || counts.into_iter().flatten().any(|n| n > MAX_SESSIONS) {
        return Err("drain.id is longer than 256 bytes, or drain counts more than 100000000 sessions");
    }
    if drain
        .rate_per_second
        .is_some_and(|rate| !(0.0..=1e9).contains(&rate))
    {
        return Err("drain.ratePerSecond is no rate");
    }
    Ok(())
}

/// What the protocol says of events beyond their types: a pod that breaks it is not believed at all.
fn check_events(report: &EventsReport) -> Result<(), &'static str> {
    let events = &report.events;
    if events.len() > MAX_EVENTS {
        return Err("more than 1000 events");
    }
    if !events.is_sorted_by(|a, b| a.n < b.n) || events.last().is_some_and(|e| e.n > report.next) {
        return Err("the events' numbers do not rise up to next");
    }
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if events
        .iter()
        .any(|e| e.order.as_ref().is_some_and(|id| id.len() > MAX_NAME))
    {
        return Err("the id of an event's order is longer than 256 bytes");
    }
    if !events.iter().all(|e| is_hash(&e.session)) {
        return Err("an event's session is not a hash of 16 hexadecimal digits");
    }
    Ok(())
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
