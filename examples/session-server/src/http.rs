//! The traffic port: `/ws`, `/healthz`, `/metrics`.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, sync::atomic::Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, upgrade};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use crate::{
    server::App,
    session::{self, Hello, bump},
    store::{StoreError, random_id},
    token::TokenError,
};

/// Longest session id, in bytes.
const MAX_SESSION_ID: usize = 64;

/// A request that is not upgraded, and the words for it.
struct Refusal(StatusCode, &'static str);

/// Answers one request on the traffic port.
pub(crate) async fn serve(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/ws") => match upgrade(Arc::clone(&app), request).await {
            Ok(response) => response,
            Err(Refusal(status, reason)) => {
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    bump(&app.registry.totals.refused);
                }
                text_response(status, reason)
            }
        },
        (&Method::GET, "/healthz") => text_response(StatusCode::OK, "ok"),
        (&Method::GET, "/metrics") => text_response(StatusCode::OK, metrics(&app)),
        (_, "/ws" | "/healthz" | "/metrics") => text_response(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
        _ => text_response(StatusCode::NOT_FOUND, "there are /ws, /healthz and /metrics"),
    })
}

async fn upgrade(app: Arc<App>, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
    let mut hello = read_hello(&app, request.uri().query().unwrap_or(""), request.headers())?;
    let mut response = create_response_with_body(&request, Full::default)
        .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "not a websocket handshake (version 13)"))?;
    // Clients that count where they landed know it even where the first message never comes.
    if let Ok(revision) = HeaderValue::from_str(&app.config.revision) {
        response.headers_mut().insert("wsroll-revision", revision);
    }
    if app.config.faults.refuses(rand::random()) {
        return Err(Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "refused by a fault switch",
        ));
    }
    if !app.is_accepting(app.registry.len()) {
        bump(&app.registry.totals.refused_full);
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "full, or about to end"));
    }
    if hello.asked {
        may_claim(&app, &hello).await?;
        hello.restored_at = app.restores.turn(Instant::now()).map_err(|_| {
            Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many sessions are being restored",
            )
        })?;
    }
    let upgraded = upgrade::on(&mut request);
    let task = app.clone();
    app.spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
            return;
        };
        converse(&task, parts.io.into_inner(), parts.read_buf, &hello).await;
    });
    Ok(response)
}

/// The socket's whole life.
async fn converse(app: &App, io: TcpStream, early: Bytes, hello: &Hello) {
    let mute = |open| app.config.faults.mutes(open);
    let mut open = app.registry.open(
        &app.events,
        &hello.session,
        hello.takes_notices,
        hello.overlaps,
        mute,
    );
    app.drain.opened(&open.peer, app);
    let peer = Arc::clone(&open.peer);
    open.ending = session::serve(app, &peer, io, early.to_vec(), hello).await;
}

/// Asks the store before the upgrade, so that a refusal can be an HTTP answer.
async fn may_claim(app: &App, hello: &Hello) -> Result<(), Refusal> {
    let outcome = app
        .config
        .store
        .may_claim(&hello.session, &hello.identity.user)
        .await;
    let Err(error) = outcome else { return Ok(()) };
    bump(&app.registry.totals.resume_failed);
    if matches!(error, StoreError::Forbidden) {
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "the session belongs to another user",
        ));
    }
    app.store_failed(&error);
    Err(Refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "the session store does not answer",
    ))
}

fn read_hello(app: &App, query: &str, headers: &HeaderMap) -> Result<Hello, Refusal> {
    // Browsers cannot set headers on WebSockets, hence the second way; it shows in the logs of proxies.
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let token = bearer
        .or_else(|| parameter(query, "token"))
        .ok_or(Refusal(StatusCode::UNAUTHORIZED, "a session token is needed"))?;
    let identity = app
        .config
        .session_key
        .verify(token, app.config.clock.now())
        .map_err(|error| match error {
            TokenError::Expired => Refusal(StatusCode::UNAUTHORIZED, "the session token has expired"),
            _ => Refusal(StatusCode::UNAUTHORIZED, "the session token is not valid"),
        })?;
    let asked = parameter(query, "session").filter(|session| !session.is_empty());
    if asked.is_some_and(|session| !is_session_id(session)) {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "session must be 1 to 64 letters, digits, '-' or '_'",
        ));
    }
    let last = parameter(query, "last")
        .filter(|last| !last.is_empty())
        .unwrap_or("0");
    Ok(Hello {
        identity,
        asked: asked.is_some(),
        session: asked.map_or_else(random_id, str::to_owned),
        last: last
            .parse()
            .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "last must be a number"))?,
        takes_notices: parameter(query, "notice") == Some("wsroll.v1"),
        overlaps: parameter(query, "overlap") == Some("1"),
        restored_at: None,
    })
}

/// A query parameter as it stands: all values of this protocol are plain letters and digits.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn is_session_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_SESSION_ID).contains(&id.len()) && id.bytes().all(plain)
}

/// Counters in Prometheus' text format.
fn metrics(app: &App) -> String {
    let totals = &app.registry.totals;
    let mut text = format!(
        "# TYPE session_server_open_sockets gauge\nsession_server_open_sockets {}\n",
        app.registry.len()
    );
    for (name, counter) in [
        ("accepted", &totals.accepted),
        ("resumed", &totals.resumed),
        ("resume_failed", &totals.resume_failed),
        ("state_lost", &totals.state_lost),
        ("messages", &totals.messages),
        ("slow_readers", &totals.slow_readers),
        ("idle_sockets", &totals.idle),
        ("superseded", &totals.superseded),
        ("store_errors", &totals.store_errors),
        ("refused_full", &totals.refused_full),
        ("refused", &totals.refused),
    ] {
        let value = counter.load(Ordering::Relaxed);
        let _ = write!(
            text,
            "# TYPE session_server_{name} counter\nsession_server_{name}_total {value}\n"
        );
    }
    text.push_str("# TYPE session_server_closed counter\n");
    for (code, count) in app.registry.closed() {
        let _ = writeln!(text, "session_server_closed_total{{code=\"{code}\"}} {count}");
    }
    text
}

/// A response in plain text.
fn text_response(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

/// A response in JSON.
pub(crate) fn json_response(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => response(status, "application/json", body),
        Err(_) => response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            "unwritable answer",
        ),
    }
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        let query = "xsession=no&session=a1&last=&wsroll=x7Qp";
        assert_eq!(parameter(query, "session"), Some("a1"));
        assert_eq!(parameter(query, "last"), Some(""));
        assert_eq!(parameter(query, "token"), None);
    }

    #[test]
    fn session_ids_cannot_leave_their_key() {
        assert!(is_session_id("4f1c-A_9"));
        for bad in ["", "a:b", "a}b", "a b", &"x".repeat(65)] {
            assert!(!is_session_id(bad), "{bad:?}");
        }
    }
}
