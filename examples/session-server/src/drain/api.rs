//! The drain protocol's HTTP side, on a port of its own.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::{Order, running::Progress};
use crate::{config::Secret, http::json_response, server::App};

/// The largest order that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long an order may take to come in, behind its head.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What `GET /wsroll/v1/sessions` answers.
#[derive(Debug, Serialize)]
struct Sessions<'a> {
    instance: &'a str,
    revision: &'a str,
    open: usize,
    #[serde(rename = "oldestMs", skip_serializing_if = "Option::is_none")]
    oldest_ms: Option<u64>,
    accepting: bool,
    totals: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<Progress>,
}

/// What a path of this version names.
enum Resource<'a> {
    Sessions,
    Events,
    Orders,
    Order(&'a str),
}

/// Answers one request.
pub(crate) async fn serve(app: &App, token: &Secret, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let Some(resource) = Resource::of(parts.uri.path()) else {
        return refuse(
            StatusCode::NOT_FOUND,
            "no such resource in version 1 of the drain protocol",
        );
    };
    if !is_authorized(&parts.headers, token) {
        return refuse(StatusCode::UNAUTHORIZED, "the drain token is missing or wrong");
    }
    match (parts.method, resource) {
        (Method::GET, Resource::Sessions) => json_response(StatusCode::OK, &sessions(app)),
        (Method::GET, Resource::Events) => events(app, parts.uri.query().unwrap_or_default()),
        (Method::PUT, Resource::Orders) => {
            match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
                Ok(Ok(body)) => put(app, &body.to_bytes()),
                Ok(Err(_)) => refuse(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the order could not be read or is too large",
                ),
                Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the order did not come in time"),
            }
        }
        (Method::DELETE, Resource::Order(id)) => {
            if app.drain.delete(id) {
                json_response(StatusCode::OK, &app.drain.progress())
            } else {
                refuse(StatusCode::NOT_FOUND, "no such order")
            }
        }
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "not a method of this resource"),
    }
}

fn put(app: &App, body: &[u8]) -> Response<Full<Bytes>> {
    let order = match Order::parse(body) {
        Ok(order) => order,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match app.drain.put(order, app) {
        Ok(progress) => json_response(StatusCode::OK, &progress),
        Err(error) => refuse(StatusCode::CONFLICT, &error.to_string()),
    }
}

fn events(app: &App, query: &str) -> Response<Full<Bytes>> {
    let after = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("after="))
        .unwrap_or("0");
    let Ok(after) = after.parse() else {
        return refuse(StatusCode::BAD_REQUEST, "after must be a number");
    };
    match app.events.page(&app.instance, after) {
        Some(page) => json_response(StatusCode::OK, &page),
        None => refuse(
            StatusCode::NOT_FOUND,
            "without an identity key no events are told",
        ),
    }
}

fn sessions(app: &App) -> Sessions<'_> {
    let totals = &app.registry.totals;
    let open = app.registry.len();
    Sessions {
        instance: &app.instance,
        revision: &app.config.revision,
        open: if app.config.faults.lie { 0 } else { open },
        oldest_ms: app
            .registry
            .oldest()
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        accepting: app.is_accepting(open),
        totals: json!({
            "accepted": totals.accepted.load(Ordering::Relaxed),
            "refused": totals.refused.load(Ordering::Relaxed),
            "resumed": totals.resumed.load(Ordering::Relaxed),
            "resumeFailed": totals.resume_failed.load(Ordering::Relaxed),
            "stateLost": totals.state_lost.load(Ordering::Relaxed),
            "closed": app.registry.closed(),
        }),
        drain: app.drain.progress(),
    }
}

impl<'a> Resource<'a> {
    fn of(path: &'a str) -> Option<Self> {
        match path.strip_prefix("/wsroll/v1/")? {
            "sessions" => Some(Self::Sessions),
            "events" => Some(Self::Events),
            "drain" => Some(Self::Orders),
            other => other.strip_prefix("drain/").map(Self::Order),
        }
    }
}

/// Compares without telling by its duration how much of the token was right.
fn is_authorized(headers: &HeaderMap, token: &Secret) -> bool {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .is_some_and(|given| given.ct_eq(token.expose().as_bytes()).into())
}

fn refuse(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    json_response(status, &json!({"error": reason}))
}
