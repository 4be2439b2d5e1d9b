//! Plain HTTP: relayed as it is, streaming both ways.

use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{Body, Client, forward, unavailable};

/// Connections to the application that are kept for the next request.
const IDLE_CONNECTIONS: usize = 64;
/// How long they are kept: below the shortest keep-alive of common servers, so that none is used as it closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Connections to the application.
pub(in crate::proxy) type Pool = HttpClient<HttpConnector, Body>;

/// A pool; connecting takes at most this long.
pub(in crate::proxy) fn pool(connect_timeout: Duration) -> Pool {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect_timeout));
    HttpClient::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_timer(TokioTimer::new())
        .http1_preserve_header_case(true)
        .build(connector)
}

/// Relays one request and the answer.
pub(super) async fn serve(client: &Client, request: Request<Incoming>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    forward::strip_hop_by_hop(&mut parts.headers);
    let hops = client.proxy.settings.trusted_hops;
    forward::name_client(&mut parts.headers, client.address.ip(), hops);
    let Some(uri) = absolute(&parts.uri, &client.proxy.application.to_string()) else {
        return super::text(http::StatusCode::BAD_REQUEST, "not a path on this server");
    };
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    match client
        .pool
        .request(Request::from_parts(parts, Either::Left(body)))
        .await
    {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            forward::strip_hop_by_hop(&mut parts.headers);
            parts.version = Version::HTTP_11;
            Response::from_parts(parts, Either::Left(body))
        }
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the application did not answer"
            );
            unavailable()
        }
    }
}

/// The request's path and query at the application.
fn absolute(uri: &Uri, application: &str) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(application).ok()?);
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).ok()
}
