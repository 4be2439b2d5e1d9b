//! Plain HTTP: relayed as it is, streaming both ways.

use std::net::SocketAddr;
use std::time::Duration;

use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{Body, Client, affinity, forward, identity, polling, unavailable};

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

/// Relays one request and the answer, to the pod that has its session.
pub(super) async fn serve(client: &Client, mut request: Request<Incoming>) -> Response<Body> {
    let proxy = &client.proxy;
    let (mut parts, body) = request.into_parts();
    let identity = identity::hashed(&parts, proxy);
    let bound = affinity::bound(&mut parts.headers, proxy);
    let begins = polling::begins(&parts);
    request = Request::from_parts(parts, body);
    let mut answer = match (&identity, bound) {
        (Some(_), Some(pod)) if pod != client.here => {
            affinity::mark(request.headers_mut());
            let mut answer = relay(client, request, pod).await;
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                // That pod is gone, and the session with it: it may begin anew anywhere.
                affinity::expire(answer.headers_mut(), proxy);
            }
            return answer;
        }
        (Some(identity), _) => polling::serve(client, request, identity).await,
        (None, _) => relay(client, request, proxy.application).await,
    };
    // A handshake is a new session, whatever the cookie of an older one says; other requests leave that alone.
    let unbound = bound.is_none() || (identity.is_none() && begins);
    if unbound && answer.status().is_success() {
        affinity::bind(answer.headers_mut(), proxy, client.here);
    }
    answer
}

/// Relays one request to this address.
pub(super) async fn relay(client: &Client, request: Request<Incoming>, to: SocketAddr) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let hops = client.proxy.settings.trusted_hops;
    forward::name_client(&mut parts.headers, client.address.ip(), hops);
    send(client, parts, Either::Left(body), to).await
}

/// Sends a request on, and gives back the answer without what belongs to that connection.
pub(super) async fn send(client: &Client, mut parts: Parts, body: Body, to: SocketAddr) -> Response<Body> {
    forward::strip_hop_by_hop(&mut parts.headers);
    let Some(uri) = absolute(&parts.uri, &to.to_string()) else {
        return super::text(StatusCode::BAD_REQUEST, "not a path on this server");
    };
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    match client.pool.request(Request::from_parts(parts, body)).await {
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
