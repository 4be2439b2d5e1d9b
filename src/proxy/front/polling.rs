//! Requests of polling sessions: relayed like others, until the session is to end; then they are answered in the words of
//! the client's own protocol.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Body, Client, affinity, identity, plain};
use crate::proxy::peer::Goodbye;
use crate::proxy::polling::Visit;

/// Engine.IO's packet that closes a session.
const ENGINE_IO_CLOSE: &str = "1";
/// How long the application may take to learn that a session is over.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a session's requests speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Engine.IO, on which Socket.IO stands.
    EngineIo,
    /// `SockJS`.
    SockJs,
    /// Something else.
    Other,
}

/// Whether a request without an identity asks for one: Engine.IO's handshake.
pub(super) fn begins(parts: &Parts) -> bool {
    Dialect::of(parts.uri.path(), parts.uri.query().unwrap_or("")) == Dialect::EngineIo
}

/// Relays a request of the session `identity`, or tells it of its end.
pub(super) async fn serve(client: &Client, request: Request<Incoming>, identity: &str) -> Response<Body> {
    let Some(visit) = Visit::of(&client.proxy, identity) else {
        return plain::relay(client, request, client.proxy.application).await;
    };
    let Some(polling) = visit.polling() else {
        return plain::relay(client, request, client.proxy.application).await;
    };
    let dialect = Dialect::of(request.uri().path(), request.uri().query().unwrap_or(""));
    let waits = dialect.waits(request.method(), request.uri().path());
    if let Some(goodbye) = polling.goodbye().filter(|_| waits) {
        if !visit.is_over() {
            tokio::spawn(tell_application(client.clone(), dialect, copy_of(&request)));
        }
        return farewell(&visit, dialect, &goodbye, client);
    }
    let copy = copy_of(&request);
    let mut relayed = Box::pin({
        let client = client.clone();
        async move { plain::relay(&client, request, client.proxy.application).await }
    });
    let told = async {
        if waits {
            polling.closed().await
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        answer = &mut relayed => passed(&visit, dialect, answer, client),
        goodbye = told => {
            let telling = tell_application(client.clone(), dialect, copy);
            tokio::spawn(async move {
                telling.await;
                // Cut before, the application would call it an error.
                let _ = timeout(TELL_TIMEOUT, relayed).await;
            });
            farewell(&visit, dialect, &goodbye, client)
        }
    }
}

/// An answer of the application's to a session.
fn passed(visit: &Visit, dialect: Dialect, mut answer: Response<Body>, client: &Client) -> Response<Body> {
    if let Some(polling) = visit.polling() {
        polling.remember(answer.headers());
        if let Some(goodbye) = polling.goodbye() {
            // A request that could not be answered for the application: the next one shall go elsewhere.
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            affinity::expire(answer.headers_mut(), &client.proxy);
            visit.told(&goodbye);
        }
    }
    if dialect != Dialect::Other && answer.status().is_client_error() {
        visit.unknown();
    }
    answer
}

/// The session's end, as its client understands it.
fn farewell(visit: &Visit, dialect: Dialect, goodbye: &Goodbye, client: &Client) -> Response<Body> {
    let (status, kind, body) = match dialect {
        Dialect::EngineIo => (
            StatusCode::OK,
            "text/plain; charset=UTF-8",
            ENGINE_IO_CLOSE.to_owned(),
        ),
        Dialect::SockJs => {
            let body = format!("c[{},\"Service restart\"]\n", goodbye.code);
            (StatusCode::OK, "application/javascript; charset=UTF-8", body)
        }
        Dialect::Other => (StatusCode::GONE, "text/plain; charset=UTF-8", String::new()),
    };
    let mut answer = Response::new(Either::Right(Full::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    if let Some(polling) = visit.polling() {
        headers.extend(polling.allowing());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    affinity::expire(headers, &client.proxy);
    visit.told(goodbye);
    answer
}

/// Tells the application what the client would have told it. Only Engine.IO has words for it.
async fn tell_application(client: Client, dialect: Dialect, mut parts: Parts) {
    if dialect != Dialect::EngineIo {
        return;
    }
    parts.method = Method::POST;
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(TRANSFER_ENCODING);
    parts
        .headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    let body = Either::Right(Full::new(Bytes::from_static(ENGINE_IO_CLOSE.as_bytes())));
    let told = plain::send(&client, parts, body, client.proxy.application);
    // One that does not take it notices by its own ping.
    let _ = timeout(TELL_TIMEOUT, told).await;
}

fn copy_of(request: &Request<Incoming>) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    parts
}

// === impl Dialect ===

impl Dialect {
    fn of(path: &str, query: &str) -> Self {
        if identity::parameter(query, "EIO").is_some() {
            Self::EngineIo
        } else if path.ends_with("/xhr") {
            Self::SockJs
        } else {
            Self::Other
        }
    }

    /// Whether a request waits for messages: then it can be answered with the session's end.
    fn waits(self, method: &Method, path: &str) -> bool {
        match self {
            Self::EngineIo => method == Method::GET,
            Self::SockJs => path.ends_with("/xhr"),
            // A page or a call that merely shows the same cookie: it is relayed, and the connection ends.
            Self::Other => false,
        }
    }
}
