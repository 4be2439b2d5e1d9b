//! One connection attempt: DNS, TCP, TLS, upgrade, each timed.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, header};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::{
    Error as WsError, handshake::client::generate_key, protocol::WebSocketConfig,
};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::either::Either;
use url::form_urlencoded;

use super::config::{Endpoint, PIN_HEADER, Pin, TokenIn, bearer};
use super::event::Failure;
use super::tls;
use super::token::Token;
use super::wire::Reconnect;
use crate::outbound::{self, Policy};

/// 1 KiB each way instead of tungstenite's 128: it is what most of an idle socket's memory is. Longer messages are read in
/// pieces.
const BUFFER: usize = 1024;
/// A state with its whole history fits; anything larger is not this protocol.
const MAX_MESSAGE: usize = 1024 * 1024;
/// The response header in which a service may name its revision before its first message.
const REVISION_HEADER: &str = "wsroll-revision";

/// A plain or encrypted TCP stream.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// How long each part of an attempt took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// Name look-up; about nothing for an address.
    pub dns: Duration,
    /// TCP handshake.
    pub tcp: Duration,
    /// TLS handshake; zero for `ws`.
    pub tls: Duration,
    /// HTTP upgrade.
    pub upgrade: Duration,
    /// From the upgrade to the first message.
    pub first_message: Duration,
}

/// What the query of a resume says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resume<'a> {
    /// The session to resume, and the last number received.
    pub session: Option<(&'a str, u64)>,
    /// Declares that notices are understood.
    pub declare_notice: bool,
    /// Declares that the client opens its new socket before it leaves the old one.
    pub declare_overlap: bool,
    /// What the last notice said of the way.
    pub hint: Option<&'a Reconnect>,
}

/// An accepted upgrade.
#[derive(Debug)]
pub struct Dialed {
    /// The socket.
    pub socket: WebSocketStream<Stream>,
    /// Times so far.
    pub phases: Phases,
    /// The revision, where the response names it.
    pub revision: Option<String>,
}

/// Why an attempt got no socket. Holds neither query nor headers.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address.
    #[error("failed to resolve {address}")]
    Resolve {
        /// The address dialled.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No TCP connection.
    #[error("failed to connect to {address}")]
    Connect {
        /// The address dialled.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The operator's policy refuses the host, or what its name leads to.
    #[error("the host may not be dialled")]
    NotAllowed(#[source] outbound::Refused),
    /// The TLS handshake failed.
    #[error("failed to agree on TLS")]
    Tls(#[source] std::io::Error),
    /// The URL's host cannot be a TLS name.
    #[error("the URL's host is no valid TLS name")]
    TlsName,
    /// The request cannot be built; a token with characters that a header does not take.
    #[error("failed to build the upgrade request")]
    Request,
    /// Another status than 101.
    #[error("the upgrade was answered with {0}")]
    Refused(u16),
    /// No valid answer to the upgrade.
    #[error("failed to upgrade")]
    Handshake(#[source] Box<WsError>),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Dials once. The endpoint's connect timeout bounds all of it.
pub async fn dial(
    endpoint: &Endpoint,
    resume: Resume<'_>,
    token: Option<&Token>,
    pin: Option<&Pin>,
) -> Result<Dialed, DialError> {
    let request = request(endpoint, resume, token, pin)?;
    let deadline = Instant::now() + endpoint.connect_timeout;
    let attempt = pin!(connect(endpoint, request));
    timeout_at(deadline, attempt)
        .await
        .unwrap_or(Err(DialError::Timeout(endpoint.connect_timeout)))
}

async fn connect(endpoint: &Endpoint, request: Request<()>) -> Result<Dialed, DialError> {
    let mut phases = Phases::default();
    let name = endpoint.tls_name.as_ref().unwrap_or(&endpoint.host);
    let stream = stream(
        &endpoint.connect_to,
        endpoint.tls.as_ref().map(|tls| (tls, &**name)),
        endpoint.outbound.as_deref(),
        &mut phases,
    )
    .await?;

    let begun = Instant::now();
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let (socket, response) = client_async_with_config(request, stream, Some(config))
        .await
        .map_err(|error| match error {
            WsError::Http(response) => DialError::Refused(response.status().as_u16()),
            other => DialError::Handshake(Box::new(other)),
        })?;
    phases.upgrade = begun.elapsed();
    let revision = response
        .headers()
        .get(REVISION_HEADER)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    Ok(Dialed {
        socket,
        phases,
        revision,
    })
}

/// A stream to `host:port`, where the policy lets it, encrypted where a TLS set-up and a name are given.
pub(super) async fn stream(
    address: &str,
    tls: Option<(&Arc<rustls::ClientConfig>, &str)>,
    policy: Option<&Policy>,
    phases: &mut Phases,
) -> Result<Stream, DialError> {
    let begun = Instant::now();
    let resolve = |source| DialError::Resolve {
        address: address.to_owned(),
        source,
    };
    let found: Vec<SocketAddr> = match policy {
        None => lookup_host(address).await.map_err(resolve)?.collect(),
        Some(policy) => outbound::lookup(policy, address)
            .await
            .map_err(|error| match error {
                outbound::DialError::Io(source) => resolve(source),
                outbound::DialError::Refused(refused) => DialError::NotAllowed(refused),
            })?,
    };
    phases.dns = begun.elapsed();

    let begun = Instant::now();
    let tcp = TcpStream::connect(&*found)
        .await
        .map_err(|source| DialError::Connect {
            address: address.to_owned(),
            source,
        })?;
    // Small frames must not wait for each other; a socket that cannot do it works all the same.
    let _ = tcp.set_nodelay(true);
    phases.tcp = begun.elapsed();

    let Some((config, name)) = tls else {
        return Ok(Either::Left(tcp));
    };
    let begun = Instant::now();
    let name = ServerName::try_from(name.to_owned()).map_err(|_| DialError::TlsName)?;
    let tls = TlsConnector::from(config.clone())
        .connect(name, tcp)
        .await
        .map_err(DialError::Tls)?;
    phases.tls = begun.elapsed();
    Ok(Either::Right(Box::new(tls)))
}

fn request(
    endpoint: &Endpoint,
    resume: Resume<'_>,
    token: Option<&Token>,
    pin: Option<&Pin>,
) -> Result<Request<()>, DialError> {
    let mut request = Request::builder()
        .uri(target(endpoint, resume, token))
        .header(header::HOST, &endpoint.authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .header(header::USER_AGENT, &endpoint.user_agent)
        .body(())
        .map_err(|_| DialError::Request)?;
    let headers = request.headers_mut();
    for (name, value) in &endpoint.headers {
        headers.append(name, value.clone());
    }
    if let Some(offered) = &endpoint.subprotocols {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered.clone());
    }
    if let (Some(token), TokenIn::Header) = (token, &endpoint.token_in) {
        headers.insert(header::AUTHORIZATION, bearer(token).ok_or(DialError::Request)?);
    }
    if let Some(Pin(value)) = pin {
        headers.insert(PIN_HEADER, HeaderValue::clone(value));
    }
    let hint = resume.hint.and_then(|hint| hint.header.as_deref());
    if let Some((name, value)) = hint.and_then(hint_header) {
        headers.insert(name, value);
    }
    Ok(request)
}

/// A hint's header, `name: value`. Only `x-…` headers: a service that may steer its clients need not change who they say they are.
fn hint_header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    let name = HeaderName::try_from(name.trim()).ok()?;
    let value = HeaderValue::try_from(value.trim()).ok()?;
    name.as_str().starts_with("x-").then_some((name, value))
}

/// The URL with the session's own query behind the user's, and with a hint's prefix before its path.
fn target(endpoint: &Endpoint, resume: Resume<'_>, token: Option<&Token>) -> String {
    let mut url = endpoint.url.clone();
    url.set_fragment(None);
    let Resume {
        session,
        declare_notice,
        declare_overlap,
        hint,
    } = resume;
    if let Some(prefix) = hint.and_then(|h| h.path.as_deref()) {
        let path = format!("{}{}", prefix.trim_end_matches('/'), url.path());
        url.set_path(&path);
    }
    if let (Some(token), TokenIn::Query(name)) = (token, &endpoint.token_in) {
        url.query_pairs_mut().append_pair(name, &token.reveal());
    }
    let hint = hint.and_then(|h| h.query.as_deref());
    if session.is_some() || declare_notice || declare_overlap || hint.is_some() {
        let mut query = url.query_pairs_mut();
        if let Some((session, last)) = session {
            query.append_pair("session", session);
            query.append_pair("last", &last.to_string());
        }
        if declare_notice {
            query.append_pair("notice", "wsroll.v1");
        }
        if declare_overlap {
            query.append_pair("overlap", "1");
        }
        if let Some(hint) = hint {
            query.extend_pairs(form_urlencoded::parse(hint.as_bytes()));
        }
    }
    url.into()
}

// === impl DialError ===

impl DialError {
    /// What kind of failure this is.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Resolve { .. } => Failure::Resolve,
            Self::Connect { .. } | Self::NotAllowed(_) => Failure::Connect,
            Self::Tls(error) => Failure::Tls {
                reason: tls::reason(error)
                    .unwrap_or("the service closed the connection in the TLS handshake"),
            },
            Self::TlsName => Failure::Tls {
                reason: "the name is none that a certificate can be for; say another in tls.serverName (--server-name)",
            },
            Self::Refused(status) => Failure::Refused { status: *status },
            Self::Request => Failure::Handshake,
            // With TLS 1.3 a server tells what it thinks of a client's certificate after the handshake.
            Self::Handshake(error) => match tls::reason(&**error) {
                Some(reason) => Failure::Tls { reason },
                None => Failure::Handshake,
            },
            Self::Timeout(_) => Failure::Timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_the_url_comes_first_and_the_hint_last() {
        let endpoint = Endpoint::new("ws://chat/ws?room=1#frag", "t").unwrap();
        let resume = Resume {
            session: Some(("s 1", 17)),
            declare_notice: true,
            declare_overlap: true,
            hint: Some(&Reconnect {
                query: Some("wsroll=x7Qp".to_owned()),
                ..Reconnect::default()
            }),
        };
        assert_eq!(
            target(&endpoint, resume, None),
            "ws://chat/ws?room=1&session=s+1&last=17&notice=wsroll.v1&overlap=1&wsroll=x7Qp"
        );
    }

    #[test]
    fn a_first_connect_leaves_the_url_alone() {
        let endpoint = Endpoint::new("ws://chat/ws", "t").unwrap();
        assert_eq!(target(&endpoint, Resume::default(), None), "ws://chat/ws");
    }

    #[test]
    fn a_hint_may_be_a_path_or_a_header() {
        let endpoint = Endpoint::new("ws://chat/ws?room=1", "t").unwrap();
        let lead = |path: Option<&str>, header: Option<&str>| {
            let hint = Reconnect {
                path: path.map(str::to_owned),
                header: header.map(str::to_owned),
                ..Reconnect::default()
            };
            let resume = Resume {
                hint: Some(&hint),
                ..Resume::default()
            };
            request(&endpoint, resume, None, None).unwrap()
        };
        let by_path = lead(Some("/wsroll-x7Qp"), None);
        assert_eq!(by_path.uri().to_string(), "ws://chat/wsroll-x7Qp/ws?room=1");
        let by_header = lead(None, Some("x-wsroll-hint: x7Qp"));
        assert_eq!(by_header.uri().to_string(), "ws://chat/ws?room=1");
        assert_eq!(by_header.headers()["x-wsroll-hint"], "x7Qp");
        for bad in [
            "authorization: Bearer t",
            "host: elsewhere",
            "x-a",
            "x-a: b\r\nx: y",
        ] {
            let request = lead(None, Some(bad));
            assert!(!request.headers().contains_key("authorization"), "{bad}");
            assert_eq!(request.headers()["host"], "chat", "{bad}");
            assert!(!request.headers().contains_key("x-a"), "{bad}");
        }
    }

    #[test]
    fn token_and_pin_are_headers() {
        let endpoint = Endpoint::new("ws://chat/ws", "wsroll-probe/1").unwrap();
        let (token, pin) = (Token::new("t"), Pin::new("p").unwrap());
        let request = request(&endpoint, Resume::default(), Some(&token), Some(&pin)).unwrap();
        let headers = request.headers();
        assert_eq!(headers["authorization"], "Bearer t");
        assert_eq!(headers["wsroll-pin"], "p");
        assert_eq!(headers["host"], "chat");
        assert_eq!(headers["user-agent"], "wsroll-probe/1");
        assert!(!format!("{request:?}").contains("Bearer t"));
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failed_connect() {
        let port = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let endpoint = Endpoint::new(&format!("ws://127.0.0.1:{port}/ws"), "t").unwrap();
        let error = dial(&endpoint, Resume::default(), None, None).await.unwrap_err();
        assert_eq!(error.failure(), Failure::Connect);
    }
}
