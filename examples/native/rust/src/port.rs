//! The drain port: HTTP/1.1 with a bearer token.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;

use crate::drain::Drain;
use crate::order::Order;

const MAX_BODY: usize = 64 * 1024;

/// Serves the port for as long as the process runs.
pub async fn serve(listener: TcpListener, drain: Drain, token: String) -> std::io::Result<()> {
    let right = Sha256::digest(format!("Bearer {}", token.trim()));
    loop {
        let (stream, _) = listener.accept().await?;
        let drain = drain.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let drain = drain.clone();
                async move {
                    let (status, body) = answer(&drain, &right, request).await;
                    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
                    *response.status_mut() = status;
                    let json = header::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    Ok::<_, Infallible>(response)
                }
            });
            // A caller that goes away is its own affair.
            let mut server = http1::Builder::new();
            let _ = server
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(drain: &Drain, right: &[u8], request: Request<Incoming>) -> (StatusCode, Value) {
    let refuse = |status, why: &str| (status, json!({"error": why}));
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().strip_prefix("/wsroll/v1/").unwrap_or_default();
    let (resource, id) = match path.split_once('/') {
        Some((resource, id)) => (resource, Some(id)),
        None => (path, None),
    };
    if !matches!(
        (resource, id),
        ("sessions" | "events" | "drain", None) | ("drain", Some(_))
    ) {
        return refuse(StatusCode::NOT_FOUND, "no such resource in version 1");
    }
    // Hashes have one length, so that the comparison tells nothing about the token's.
    let given = parts
        .headers
        .get(header::AUTHORIZATION)
        .map_or(&b""[..], |value| value.as_bytes());
    if !bool::from(Sha256::digest(given).ct_eq(right)) {
        return refuse(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
    }
    match (parts.method, resource, id) {
        (Method::GET, "sessions", _) => (StatusCode::OK, drain.report()),
        (Method::GET, "events", _) if !drain.has_events() => refuse(StatusCode::NOT_FOUND, "no identity key"),
        (Method::GET, "events", _) => {
            let query = parts.uri.query().unwrap_or_default();
            let after = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("after=")?.parse().ok());
            (StatusCode::OK, drain.events(after.unwrap_or(0)))
        }
        (Method::DELETE, "drain", Some(id)) if drain.cancel(id) => (StatusCode::OK, drain.progress()),
        (Method::DELETE, "drain", Some(_)) => refuse(StatusCode::NOT_FOUND, "no such order"),
        (Method::PUT, "drain", None) => {
            let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, "an order has at most 64 KiB");
            };
            match Order::parse(&body.to_bytes()) {
                Err(why) => refuse(StatusCode::BAD_REQUEST, &why),
                Ok(order) => {
                    if drain.put(order) {
                        (StatusCode::OK, drain.progress())
                    } else {
                        refuse(StatusCode::CONFLICT, "this order was cancelled")
                    }
                }
            }
        }
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "not a method of this resource"),
    }
}
