//! The drain port: the pod's side of the drain protocol, health and metrics.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::time::{Instant, interval, timeout, timeout_at};

use super::Proxy;
use super::clock::millis;
use super::drain::order;
use crate::drain::client::Token;
use crate::drain::identity::{IdentityKey, mac};
use crate::drain::protocol::{SessionsReport, Totals};

/// The largest order that is read, bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long an order may take to come in, behind its head.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// What `/metrics` answers with.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How often a waiting preStop hook looks.
const PRESTOP_LOOK: std::time::Duration = std::time::Duration::from_millis(100);

/// What opens the drain port.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    token: Token,
    /// What the preStop hook shows: derived from the token, since it stands in the pod's spec.
    prestop: String,
}

/// What a path names.
enum Resource<'a> {
    Health,
    Metrics,
    Prestop,
    Sessions,
    Events,
    Orders,
    Order(&'a str),
}

type Answer = Response<Full<Bytes>>;

// === impl Keys ===

impl Keys {
    pub(super) fn new(token: Token) -> Self {
        let prestop = hex::encode(mac(&IdentityKey::new(token.expose()), "prestop:", ""));
        Self { token, prestop }
    }
}

// === impl Resource ===

impl<'a> Resource<'a> {
    fn of(path: &'a str) -> Option<Self> {
        match path {
            "/healthz" => return Some(Self::Health),
            "/metrics" => return Some(Self::Metrics),
            _ => {}
        }
        match path.strip_prefix("/wsroll/v1/")? {
            "sessions" => Some(Self::Sessions),
            "events" => Some(Self::Events),
            "prestop" => Some(Self::Prestop),
            "drain" => Some(Self::Orders),
            other => other.strip_prefix("drain/").map(Self::Order),
        }
    }

    fn key<'k>(&self, keys: &'k Keys) -> Option<&'k str> {
        match self {
            Self::Health | Self::Metrics => None,
            Self::Prestop => Some(&keys.prestop),
            Self::Sessions | Self::Events | Self::Orders | Self::Order(_) => Some(keys.token.expose()),
        }
    }
}

/// Answers one request on the drain port.
pub(super) async fn serve(proxy: Arc<Proxy>, keys: Arc<Keys>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let Some(resource) = Resource::of(parts.uri.path()) else {
        return refuse(
            StatusCode::NOT_FOUND,
            "no such resource in version 1 of the drain protocol",
        );
    };
    if resource.key(&keys).is_some_and(|key| !shows(&parts.headers, key)) {
        return refuse(StatusCode::UNAUTHORIZED, "the drain token is missing or wrong");
    }
    match (parts.method, resource) {
        (Method::GET, Resource::Health) => answer(StatusCode::OK, "text/plain", "ok"),
        (Method::GET, Resource::Metrics) => metrics(&proxy),
        (Method::GET, Resource::Sessions) => json_answer(StatusCode::OK, &sessions(&proxy)),
        (Method::GET, Resource::Events) => events(&proxy, parts.uri.query().unwrap_or("")),
        (Method::GET, Resource::Prestop) => prestop(&proxy).await,
        (Method::PUT, Resource::Orders) => {
            match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
                Ok(Ok(body)) => put(&proxy, &body.to_bytes()),
                Ok(Err(_)) => refuse(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the order could not be read or is too large",
                ),
                Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the order did not come in time"),
            }
        }
        (Method::DELETE, Resource::Order(id)) => match proxy.drain.delete(id, &proxy) {
            Some(progress) => json_answer(StatusCode::OK, &progress),
            None => refuse(StatusCode::NOT_FOUND, "no such order"),
        },
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "not a method of this resource"),
    }
}

fn put(proxy: &Proxy, body: &[u8]) -> Answer {
    let order = match order::parse(body) {
        Ok(order) => order,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match proxy.drain.put(order, proxy) {
        Ok(progress) => json_answer(StatusCode::OK, &progress),
        Err(error) => refuse(StatusCode::CONFLICT, &error.to_string()),
    }
}

fn sessions(proxy: &Proxy) -> SessionsReport {
    let interval_ms = proxy.settings.ping_interval.map(millis);
    let count = proxy.registry.count(proxy.clock.now_ms(), interval_ms);
    SessionsReport {
        instance: Some(proxy.instance.clone()),
        revision: proxy.revision.clone(),
        open: count.open,
        dormant: interval_ms.map(|_| count.dormant),
        oldest_ms: count.oldest_ms,
        accepting: Some(proxy.is_accepting()),
        totals: Some(Totals {
            accepted: Some(proxy.registry.accepted()),
            refused: Some(proxy.registry.refused()),
            closed: Some(proxy.registry.closed()),
            // Only the application knows.
            resumed: None,
            resume_failed: None,
            state_lost: None,
        }),
        drain: proxy.drain.progress(proxy),
    }
}

fn events(proxy: &Proxy, query: &str) -> Answer {
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
    let Ok(after) = after.unwrap_or("0").parse() else {
        return refuse(StatusCode::BAD_REQUEST, "after must be the number of an event");
    };
    if proxy.identity_key.is_none() || proxy.settings.session.is_none() {
        return refuse(
            StatusCode::NOT_FOUND,
            "there are no events: no identity is configured",
        );
    }
    let report = proxy.events.after(after, proxy.clock.now_ms(), &proxy.instance);
    json_answer(StatusCode::OK, &report)
}

/// Lets everybody go, and answers when that is done or its time is over.
async fn prestop(proxy: &Arc<Proxy>) -> Answer {
    let until = Instant::now() + proxy.settings.shutdown.within;
    proxy.drain.hasten(proxy);
    let empty = async {
        let mut look = interval(PRESTOP_LOOK);
        while proxy.registry.len() > 0 {
            look.tick().await;
        }
    };
    let done = timeout_at(until, empty).await.is_ok();
    tracing::info!(done, open = proxy.registry.len(), "the pod's own drain is over");
    json_answer(StatusCode::OK, &sessions(proxy))
}

fn metrics(proxy: &Proxy) -> Answer {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &proxy.exposed) {
        Ok(()) => answer(StatusCode::OK, OPENMETRICS, text),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "failed to encode the metrics"),
    }
}

/// Compares without telling by its duration how much of the key was right.
fn shows(headers: &HeaderMap, key: &str) -> bool {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .is_some_and(|given| given.ct_eq(key.as_bytes()).into())
}

fn refuse(status: StatusCode, reason: &str) -> Answer {
    json_answer(status, &json!({"error": reason}))
}

fn json_answer(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => answer(status, "application/json", body),
        Err(_) => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            "unwritable answer",
        ),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
