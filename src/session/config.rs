//! What a session needs to know before it dials.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use thiserror::Error;
use url::Url;

use super::backoff::Profiles;
use super::times::Times;
use super::tls::{Tls, TlsError, TlsFiles};
use super::token::Token;
use crate::api::script::{Ready, Script};
use crate::outbound::Policy;

/// The request header that a pins route matches.
pub const PIN_HEADER: &str = "wsroll-pin";

/// Why an endpoint cannot be used as written.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The URL does not parse.
    #[error("failed to parse the URL")]
    Url(#[source] url::ParseError),
    /// The URL parses, but nothing can be dialled by it.
    #[error("the URL must begin with ws:// or wss:// and name a host")]
    Scheme,
    /// `connect_to` has no port, or is empty.
    #[error("{0:?} is not of the form host:port")]
    ConnectTo(String),
    /// A header name or value has characters that HTTP does not allow.
    #[error("{0:?} is not a valid header")]
    Header(String),
    /// A login's URL is none of HTTP's.
    #[error("a login's URL must begin with http:// or https:// and name a host")]
    LoginUrl,
    /// It is no JSON path.
    #[error("{0:?} is no JSON path")]
    Path(String),
    /// No TLS set-up could be made out of the machine's root certificates.
    #[error("failed to set up TLS")]
    Tls(#[source] TlsError),
}

/// Where to dial and what to send with the upgrade; shared by all sessions of a fleet.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) url: Url,
    pub(super) host: String,
    pub(super) authority: HeaderValue,
    pub(super) connect_to: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) subprotocols: Option<HeaderValue>,
    pub(super) user_agent: HeaderValue,
    pub(super) connect_timeout: Duration,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) tls_name: Option<String>,
    pub(super) token_in: TokenIn,
    pub(super) outbound: Option<Arc<Policy>>,
}

/// Where a token goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum TokenIn {
    /// `Authorization: Bearer …`.
    #[default]
    Header,
    /// A parameter of the URL's query.
    Query(String),
    /// Nowhere but where the script says `${token}`.
    Script,
}

/// The value by which the pins route sends a probe to one revision.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(pub(super) HeaderValue);

/// What is spoken on a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The session protocol of `examples/session-server`: sessions resume, and their state is compared.
    #[default]
    Session,
    /// Nothing but WebSocket itself: a ping that is answered is all that is known of a service. There is no state, and
    /// nothing that could be resumed.
    Ping,
    /// What [`SessionConfig::script`] says.
    Script,
}

/// How sessions behave; shared by all sessions of a fleet.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Where to dial.
    pub endpoint: Endpoint,
    /// What is spoken.
    pub dialect: Dialect,
    /// The script of [`Dialect::Script`], compiled once.
    pub script: Option<Arc<Script>>,
    /// Declares that the client understands notices.
    pub declare_notice: bool,
    /// Opens the new socket before it lets go of the old one, where a notice allows it.
    pub make_before_break: bool,
    /// Reconnect profiles.
    pub profiles: Profiles,
    /// How long the first message may take after the upgrade.
    pub welcome_timeout: Duration,
    /// A message without an answer for this long means that the socket is dead; `None` waits for ever.
    pub answer_timeout: Option<Duration>,
    /// A clean close with this code counts as announced without a notice.
    pub ordered_code: u16,
    /// Collects the sessions' ids.
    pub met: Option<Met>,
    /// Collects how long their connects took.
    pub times: Option<Times>,
}

/// Ids of sessions, until somebody takes them. Never shown by `Debug`.
#[derive(Clone, Default)]
pub struct Met(Arc<Mutex<HashSet<String>>>);

/// Most ids that wait to be taken.
const MAX_MET: usize = 4_096;

// === impl Endpoint ===

impl Endpoint {
    /// An endpoint that is dialled at the URL's own host and port, with a 10 s connect timeout.
    pub fn new(url: &str, user_agent: &str) -> Result<Self, ConfigError> {
        let url = Url::parse(url).map_err(ConfigError::Url)?;
        let default_port = match url.scheme() {
            "ws" => 80,
            "wss" => 443,
            _ => return Err(ConfigError::Scheme),
        };
        let Some(host) = url.host_str().map(str::to_owned) else {
            return Err(ConfigError::Scheme);
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let tls = if url.scheme() == "wss" {
            Some(Tls::new(&TlsFiles::default()).map_err(ConfigError::Tls)?.0)
        } else {
            None
        };
        Ok(Self {
            connect_to: format!("{host}:{}", url.port().unwrap_or(default_port)),
            authority: header_value(&authority)?,
            host,
            url,
            headers: Vec::new(),
            subprotocols: None,
            user_agent: header_value(user_agent)?,
            connect_timeout: Duration::from_secs(10),
            tls,
            tls_name: None,
            token_in: TokenIn::default(),
            outbound: None,
        })
    }

    /// Dials this `host:port` instead of the URL's; the `Host` header and the TLS name stay the URL's.
    pub fn connect_to(mut self, address: &str) -> Result<Self, ConfigError> {
        let valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !valid {
            return Err(ConfigError::ConnectTo(address.to_owned()));
        }
        address.clone_into(&mut self.connect_to);
        Ok(self)
    }

    /// Adds a request header.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, ConfigError> {
        let name = HeaderName::try_from(name).map_err(|_| ConfigError::Header(name.to_owned()))?;
        let mut value = header_value(value)?;
        value.set_sensitive(true);
        self.headers.push((name, value));
        Ok(self)
    }

    /// Offers subprotocols, in order of preference.
    pub fn subprotocols(mut self, names: &[String]) -> Result<Self, ConfigError> {
        self.subprotocols = if names.is_empty() {
            None
        } else {
            Some(header_value(&names.join(", "))?)
        };
        Ok(self)
    }

    /// The `host:port` that is dialled.
    pub fn address(&self) -> &str {
        &self.connect_to
    }

    /// Dials only what the policy lets be dialled: where others wrote the URL.
    #[must_use]
    pub fn outbound(mut self, policy: Arc<Policy>) -> Self {
        self.outbound = Some(policy);
        self
    }

    /// Bounds TCP, TLS and upgrade together.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Where the token goes.
    #[must_use]
    pub fn token_in(mut self, place: TokenIn) -> Self {
        self.token_in = place;
        self
    }

    /// Speaks the script: its subprotocols and its query, where nobody said others.
    pub fn ready(mut self, ready: Ready) -> Result<Self, ConfigError> {
        if self.subprotocols.is_none() {
            let names: Vec<String> = ready.subprotocols().iter().map(ToString::to_string).collect();
            self = self.subprotocols(&names)?;
        }
        for (name, value) in ready.query() {
            if !self.url.query_pairs().any(|(known, _)| known == *name) {
                self.url.query_pairs_mut().append_pair(name, value);
            }
        }
        Ok(self)
    }

    /// Uses this TLS set-up; the certificate must be for `server_name`, or else for the URL's host.
    #[must_use]
    pub fn secured(mut self, tls: &Tls, server_name: Option<String>) -> Self {
        self.tls_name = server_name;
        self.tls(tls.0.clone())
    }

    /// Trusts what this TLS set-up trusts, instead of the machine's root certificates.
    #[must_use]
    pub fn tls(mut self, tls: Arc<rustls::ClientConfig>) -> Self {
        self.tls = self.tls.is_some().then_some(tls);
        self
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The query and the headers may hold credentials.
        f.debug_struct("Endpoint")
            .field("host", &self.host)
            .field("path", &self.url.path())
            .field("connect_to", &self.connect_to)
            .finish_non_exhaustive()
    }
}

// === impl Pin ===

impl Pin {
    /// A pin with this header value.
    pub fn new(value: &str) -> Result<Self, ConfigError> {
        let mut value = header_value(value).map_err(|_| ConfigError::Header(PIN_HEADER.into()))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whoever knows the value can reach a canary.
        f.write_str("Pin(…)")
    }
}

// === impl SessionConfig ===

impl SessionConfig {
    /// Whether sessions have a state that can be read and compared.
    pub fn knows_state(&self) -> bool {
        match self.dialect {
            Dialect::Session => true,
            Dialect::Ping => false,
            Dialect::Script => self
                .script
                .as_ref()
                .is_some_and(|script| !script.state.is_empty()),
        }
    }

    /// The defaults: notices declared, break before make, first message within 10 s, code 1012.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            dialect: Dialect::default(),
            script: None,
            declare_notice: true,
            make_before_break: false,
            profiles: Profiles::default(),
            welcome_timeout: Duration::from_secs(10),
            answer_timeout: None,
            ordered_code: 1012,
            met: None,
            times: None,
        }
    }
}

// === impl Met ===

impl Met {
    /// Adds a session.
    pub fn add(&self, session: &str) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if met.len() < MAX_MET {
            met.insert(session.to_owned());
        }
    }

    /// The sessions since the last time.
    pub fn take(&self) -> Vec<String> {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        met.drain().collect()
    }
}

impl std::fmt::Debug for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Met(…)")
    }
}

/// The header that carries a token.
pub(super) fn bearer(token: &Token) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn header_value(value: &str) -> Result<HeaderValue, ConfigError> {
    HeaderValue::try_from(value).map_err(|_| ConfigError::Header(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_host_header_stays_the_urls() {
        let endpoint = Endpoint::new("ws://chat.example.com/ws", "t")
            .unwrap()
            .connect_to("10.0.0.1:8000")
            .unwrap();
        assert_eq!(endpoint.authority, "chat.example.com");
        assert_eq!(endpoint.connect_to, "10.0.0.1:8000");
    }

    #[test]
    fn a_port_in_the_url_is_part_of_the_host_header() {
        let endpoint = Endpoint::new("ws://chat.example.com:8080/ws", "t").unwrap();
        assert_eq!(endpoint.authority, "chat.example.com:8080");
        assert_eq!(endpoint.connect_to, "chat.example.com:8080");
    }

    #[rstest]
    #[case("http://chat.example.com/ws")]
    #[case("chat.example.com")]
    #[case("")]
    fn other_urls_are_refused(#[case] url: &str) {
        assert!(Endpoint::new(url, "t").is_err());
    }

    #[rstest]
    #[case("10.0.0.1")]
    #[case(":80")]
    #[case("host:99999")]
    fn a_bad_address_is_refused(#[case] address: &str) {
        let endpoint = Endpoint::new("ws://chat/ws", "t").unwrap();
        assert!(endpoint.connect_to(address).is_err());
    }
}
