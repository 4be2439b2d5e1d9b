//! Upgrades: the handshake passes from end to end, then both sockets are taken out of HTTP and relayed.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::head::Timed;
use super::{Body, Client, Refusal, affinity, forward, identity};
use crate::proxy::Proxy;
use crate::proxy::peer::Peer;
use crate::proxy::relay::{ApplicationHalf, ClientHalf, Relay};

/// How long another pod may take to be reached.
const POD_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers an upgrade as the application does. If that is a 101, a session begins.
pub(super) async fn serve(
    client: &Client,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let proxy = &client.proxy;
    let until = Instant::now() + proxy.settings.limits.handshake_timeout;
    let from_client = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    let seen = Seen::of(&parts, proxy);
    forward::name_client(
        &mut parts.headers,
        client.address.ip(),
        proxy.settings.trusted_hops,
    );
    parts.uri = parts.uri.path_and_query().cloned().map_or(parts.uri, Into::into);
    parts.version = Version::HTTP_11;

    let bound = affinity::bound(&mut parts.headers, proxy);
    let elsewhere = bound.filter(|pod| seen.identity.is_some() && *pod != client.here);
    let (stream, forwarded) = connect(proxy, elsewhere, until).await?;
    if forwarded {
        affinity::mark(&mut parts.headers);
    }
    let _ = stream.set_nodelay(true);
    let answer = timeout_at(until, ask(stream, Request::from_parts(parts, Empty::new())));
    let mut answer = answer
        .await
        .map_err(|_| Refusal::NoAnswer)?
        .map_err(|_| Refusal::NoAnswer)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        forward::strip_hop_by_hop(answer.headers_mut());
        return Ok(answer.map(Either::Left));
    }
    let mut peer = seen.peer(&answer, proxy);
    if forwarded {
        // The other pod has the session, and tells of it.
        peer.forwarded = true;
        peer.identity = None;
    }
    let from_application = hyper::upgrade::on(&mut answer);
    tokio::spawn(begin(client.clone(), peer, from_client, from_application));
    Ok(answer.map(Either::Left))
}

/// Connects to the pod that has the session, and says that it is one; or else to the application. A pod that is gone has
/// no session any more, and the application says so better than an error would.
async fn connect(
    proxy: &Proxy,
    elsewhere: Option<SocketAddr>,
    until: Instant,
) -> Result<(TcpStream, bool), Refusal> {
    if let Some(pod) = elsewhere
        && let Ok(Ok(stream)) = timeout(POD_TIMEOUT, TcpStream::connect(pod)).await
    {
        return Ok((stream, true));
    }
    let stream = timeout_at(until, TcpStream::connect(proxy.application)).await;
    let stream = stream.map_err(|_| Refusal::NoApplication)?;
    Ok((stream.map_err(|_| Refusal::NoApplication)?, false))
}

/// Sends the handshake; the connection is driven by a task of its own until it is upgraded or its answer is read.
async fn ask(
    stream: TcpStream,
    request: Request<Empty<bytes::Bytes>>,
) -> Result<Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // What fails here is told by the request.
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(request).await
}

/// Takes both sockets out of HTTP, whose buffers are dropped, and relays between them.
async fn begin(client: Client, peer: Peer, from_client: OnUpgrade, from_application: OnUpgrade) {
    let Client { proxy, place, .. } = client;
    let (Ok(client), Ok(application)) = tokio::join!(from_client, from_application) else {
        return;
    };
    let (Some((client, client_early)), Some((application, application_early))) =
        (timed_socket(client), socket(application))
    else {
        return;
    };
    let peer = proxy.session_began(peer);
    let client = ClientHalf::new(client, &client_early);
    let application = ApplicationHalf::new(application, &application_early);
    // A task of its own, since this one's memory still has room for all of the above.
    let relay = Relay::new(proxy, peer, client, application);
    tokio::spawn(async move {
        relay.await;
        drop(place);
    });
}

fn timed_socket(upgraded: Upgraded) -> Option<(TcpStream, bytes::Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Timed>>().ok()?;
    Some((parts.io.into_inner().into_inner(), parts.read_buf))
}

fn socket(upgraded: Upgraded) -> Option<(TcpStream, bytes::Bytes)> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

/// What a handshake says of the session to come.
struct Seen {
    identity: Option<Box<str>>,
    query: String,
}

// === impl Seen ===

impl Seen {
    fn of(parts: &http::request::Parts, proxy: &Proxy) -> Self {
        Self {
            identity: identity::hashed(parts, proxy),
            query: parts.uri.query().unwrap_or("").to_owned(),
        }
    }

    fn peer(self, answer: &Response<Incoming>, proxy: &Proxy) -> Peer {
        let subprotocol = identity::subprotocol(answer.headers());
        let mut peer = Peer::socket(proxy.registry.next_id(), proxy.clock.now_ms());
        peer.identity = self.identity;
        peer.notice = identity::notice(&proxy.settings, subprotocol, &self.query);
        peer.codes = identity::codes(&proxy.settings, subprotocol);
        peer
    }
}
