//! The HTTP side toward clients: plain requests pass, upgrades become sessions.

mod affinity;
mod forward;
mod head;
mod identity;
mod plain;
mod polling;
mod upgrade;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use self::head::{HeadTimer, Timed};
pub(super) use self::plain::{Pool, pool};
use super::Proxy;
use super::metrics::RefusedLabels;

/// A body that passes, or one of our own.
pub(super) type Body = Either<Incoming, Full<Bytes>>;

/// The least buffer that hyper works with. Smaller limits are checked when the head is read.
const MIN_BUFFER: usize = 8192;
/// The most fields of a head.
const MAX_FIELDS: usize = 200;
/// When a client whose upgrade could not be served should try again, seconds.
const RETRY_SECONDS: &str = "1";

/// A client's connection as its requests see it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) proxy: Arc<Proxy>,
    pub(super) pool: Pool,
    pub(super) address: SocketAddr,
    /// Where it has reached this pod.
    pub(super) here: SocketAddr,
    /// Held as long as the connection lives, whether HTTP or WebSocket.
    pub(super) place: Arc<Place>,
}

/// A connection's place under the limit.
#[derive(Debug)]
pub(super) struct Place(Arc<Proxy>);

/// Why an upgrade could not be served; a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Nobody listens on the application's port.
    NoApplication,
    /// The application took too long, or broke off.
    NoAnswer,
}

/// Serves one connection of a client until its end, or until it is a WebSocket.
pub(super) async fn serve(client: Client, stream: TcpStream) {
    let limits = &client.proxy.settings.limits;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head::IDLE)
        .max_buf_size((limits.header_bytes as usize).max(MIN_BUFFER))
        .max_headers(MAX_FIELDS)
        .preserve_header_case(true);
    let timer = HeadTimer::new(limits.handshake_timeout);
    let stream = Timed::new(stream, timer.clone());
    let service = hyper::service::service_fn(move |request| {
        timer.whole();
        let (timer, client) = (timer.clone(), client.clone());
        async move {
            let answer = answer(client, request).await;
            timer.answered();
            answer
        }
    });
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
}

/// Answers one request.
async fn answer(client: Client, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let limit = client.proxy.settings.limits.header_bytes as usize;
    if forward::size(request.headers()) + request.uri().path().len() > limit {
        return Ok(text(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request's head is too large",
        ));
    }
    if forward::asks_for_websocket(request.method(), request.headers()) {
        let outcome = upgrade::serve(&client, request).await;
        return Ok(outcome.unwrap_or_else(|refusal| refusal.answer(&client.proxy)));
    }
    client.proxy.metrics.requests.inc();
    Ok(plain::serve(&client, request).await)
}

// === impl Place ===

impl Place {
    /// Takes a place, if one is free.
    pub(super) fn take(proxy: &Arc<Proxy>) -> Option<Arc<Self>> {
        let most = i64::from(proxy.settings.limits.connections);
        if proxy.metrics.connections.inc() >= most {
            proxy.metrics.connections.dec();
            return None;
        }
        Some(Arc::new(Self(Arc::clone(proxy))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

// === impl Refusal ===

impl Refusal {
    fn reason(self) -> &'static str {
        match self {
            Self::NoApplication => "no_application",
            Self::NoAnswer => "no_answer",
        }
    }

    /// Counts it and answers.
    fn answer(self, proxy: &Proxy) -> Response<Body> {
        proxy.refuse(self.reason());
        unavailable()
    }
}

// === impl Proxy ===

impl Proxy {
    /// An upgrade could not be served.
    pub(super) fn refuse(&self, reason: &'static str) {
        self.registry.refuse();
        self.metrics
            .refused
            .get_or_create(&RefusedLabels { reason })
            .inc();
    }
}

/// The application cannot be reached now; it may be restarting.
fn unavailable() -> Response<Body> {
    let mut response = text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the application does not answer now",
    );
    let seconds = HeaderValue::from_static(RETRY_SECONDS);
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

fn text(status: StatusCode, words: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from_static(words.as_bytes()))));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// What a client over the limit of connections is told.
pub(super) const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                               Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n";

/// How long a client over the limit may take to read that.
pub(super) const FULL_TIMEOUT: Duration = Duration::from_secs(1);
