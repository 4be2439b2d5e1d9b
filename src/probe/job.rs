//! What the operator asks probes to do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::engine::evidence::ProbeTarget;
use crate::outbound::Policy;
use crate::session::{ConfigError, Dialect, Endpoint, Met, Pin, Profiles, SessionConfig, Token};

/// The `User-Agent` of every probe, so that services can leave them out of their own figures.
const USER_AGENT: &str = concat!("wsroll-probe/", env!("CARGO_PKG_VERSION"));

/// Where probes dial and as whom.
#[derive(Debug, Clone)]
pub struct ProbeDial {
    /// The service's URL, as users dial it.
    pub url: String,
    /// `host:port` to dial instead; the `Host` header stays the URL's.
    pub connect_to: Option<String>,
    /// What is spoken.
    pub dialect: Dialect,
    /// Further request headers.
    pub headers: Vec<(String, String)>,
    /// Subprotocols to offer.
    pub subprotocols: Vec<String>,
    /// The token of the probes' user.
    pub token: Option<Token>,
    /// The token of somebody else, who must not get at the probes' sessions.
    pub other_token: Option<Token>,
    /// Where the ids of their sessions are collected, so that they can be told from users.
    pub met: Met,
    /// What may be dialled, where the URL is not the caller's own.
    pub outbound: Option<Arc<Policy>>,
}

/// One run of probes.
#[derive(Debug, Clone)]
pub struct ProbeJob {
    /// Names the run: a job with the same name is the same run, whatever else it says.
    pub run: String,
    /// When the run was ordered.
    pub since: Timestamp,
    /// Where and as whom.
    pub dial: ProbeDial,
    /// Sessions (per target).
    pub sessions: u32,
    /// What to do.
    pub kind: ProbeKind,
}

/// What a run does.
#[derive(Debug, Clone)]
pub enum ProbeKind {
    /// Plays the scenarios once and says whether they held.
    Rehearsal(RehearsalJob),
    /// Holds sessions and measures their reconnects until it is stopped.
    Fleet(FleetJob),
}

/// The scenarios of a rehearsal: hand-over from stable to the canary, then a drain with notice.
#[derive(Debug, Clone)]
pub struct RehearsalJob {
    /// Leads to stable; `None` where there is none yet, and sessions begin on the canary.
    pub stable_pin: Option<Pin>,
    /// Leads to the revision under test.
    pub canary_pin: Pin,
    /// The revision that must answer behind the canary's pin, where the service tells its revision.
    pub canary_revision: Option<String>,
    /// The code that the drain must close with.
    pub close_code: u16,
    /// Whether the sessions can be asked to leave; not so where only a signal ends them.
    pub drains: bool,
    /// Whether the drain must tell who declared that it understands notices.
    pub notices: bool,
    /// Least share of connection attempts that must succeed, in percent.
    pub success_floor_percent: f64,
    /// Bounds.
    pub timeouts: RehearsalTimeouts,
}

/// How long each part of a rehearsal may take.
#[derive(Debug, Clone, Copy)]
pub struct RehearsalTimeouts {
    /// From the first dial until the session is restored, retries included.
    pub restored: Duration,
    /// From a message to its answer.
    pub exchange: Duration,
    /// From [`AwaitingDrain`](crate::engine::evidence::RehearsalStage::AwaitingDrain) until every session was closed.
    pub drain: Duration,
}

/// A fleet that stays.
#[derive(Debug, Clone)]
pub struct FleetJob {
    /// The revisions and the pins that lead to them; without a pin the probes take the way that any user takes.
    pub targets: Vec<(ProbeTarget, Option<Pin>)>,
    /// How often each session reconnects, spread over the sessions.
    pub recycle: Duration,
    /// The time that `window` figures cover.
    pub window: Duration,
    /// How long an answer, or a first message, may take.
    pub health_timeout: Duration,
    /// Reconnect profiles.
    pub profiles: Profiles,
}

// === impl ProbeDial ===

impl ProbeDial {
    /// The endpoint that this describes.
    pub fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let mut endpoint = Endpoint::new(&self.url, USER_AGENT)?.subprotocols(&self.subprotocols)?;
        if let Some(address) = &self.connect_to {
            endpoint = endpoint.connect_to(address)?;
        }
        for (name, value) in &self.headers {
            endpoint = endpoint.header(name, value)?;
        }
        if let Some(policy) = &self.outbound {
            endpoint = endpoint.outbound(Arc::clone(policy));
        }
        Ok(endpoint)
    }

    /// Session settings with the defaults.
    pub(super) fn config(&self) -> Result<SessionConfig, ConfigError> {
        let mut config = SessionConfig::new(self.endpoint()?);
        config.dialect = self.dialect;
        config.met = Some(self.met.clone());
        Ok(config)
    }
}

// === impl RehearsalTimeouts ===

impl Default for RehearsalTimeouts {
    fn default() -> Self {
        Self {
            restored: Duration::from_secs(10),
            exchange: Duration::from_secs(5),
            drain: Duration::from_mins(2),
        }
    }
}

// === impl RehearsalJob ===

impl RehearsalJob {
    /// A rehearsal with default bounds: nine attempts in ten must succeed.
    pub fn new(stable_pin: Option<Pin>, canary_pin: Pin, close_code: u16) -> Self {
        Self {
            stable_pin,
            canary_pin,
            canary_revision: None,
            close_code,
            drains: true,
            notices: true,
            success_floor_percent: 90.0,
            timeouts: RehearsalTimeouts::default(),
        }
    }
}

// === impl FleetJob ===

impl FleetJob {
    /// A fleet whose sessions reconnect every 30 s, seen through a window of five minutes; no answer within 3 s is a
    /// failed health check.
    pub fn new(targets: Vec<(ProbeTarget, Option<Pin>)>) -> Self {
        Self {
            targets,
            recycle: Duration::from_secs(30),
            window: Duration::from_mins(5),
            health_timeout: Duration::from_secs(3),
            profiles: Profiles::default(),
        }
    }
}
