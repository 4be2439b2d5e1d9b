//! What the operator asks probes to do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::script::{Ready, Script};
use crate::api::spec::Scenario;
use crate::engine::evidence::{ProbeTarget, RehearsalActs};
use crate::outbound::Policy;
use crate::session::{
    ConfigError, Dialect, Endpoint, Met, Pin, Profiles, SessionConfig, Times, Tls, Token, TokenIn,
};

/// The `User-Agent` of every probe, so that services can leave them out of their own figures.
const USER_AGENT: &str = concat!("wsroll-probe/", env!("CARGO_PKG_VERSION"));

/// The request header that says what a probe is there for: `rehearsal`, `fleet` or `look`.
pub const PURPOSE_HEADER: &str = "wsroll-probe";

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
    /// How they speak, and how they are secured.
    pub manner: Manner,
    /// What may be dialled, where the URL is not the caller's own.
    pub outbound: Option<Arc<Policy>>,
}

/// What most services do not need to be told.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// The ready-made dialect, whose subprotocols are offered where no others are named.
    pub ready: Option<Ready>,
    /// The script, where the dialect is one.
    pub script: Option<Arc<Script>>,
    /// Where the token goes.
    pub token_in: TokenIn,
    /// A TLS set-up, and the name that the service's certificate must be for where it is not the URL's host.
    pub tls: Option<(Tls, Option<String>)>,
    /// How long sessions wait between attempts.
    pub profiles: Profiles,
    /// Collects how long connects took.
    pub times: Option<Times>,
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

/// A rehearsal: which scenarios, against what, and what the operator has done for it until now.
#[derive(Debug, Clone)]
pub struct RehearsalJob {
    /// The scenarios, in this order.
    pub scenarios: Vec<Scenario>,
    /// Leads to stable; `None` where there is none yet, and sessions begin on the canary.
    pub stable_pin: Option<Pin>,
    /// Leads to the revision under test.
    pub canary_pin: Pin,
    /// Leads to nobody, so that connects are refused; `None` where there is no such way.
    pub nobody_pin: Option<Pin>,
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
    /// Reconnects in a second that the service can bear.
    pub connects_per_second: u32,
    /// Bounds.
    pub timeouts: RehearsalTimeouts,
    /// What the operator has done; of a run that is under way only this may change.
    pub acts: RehearsalActs,
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
    /// From the death of a pod until its sessions are restored, one by one.
    pub crash: Duration,
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
        if let Some(ready) = self.manner.ready {
            endpoint = endpoint.ready(ready)?;
        }
        if let Some((tls, name)) = &self.manner.tls {
            endpoint = endpoint.secured(tls, name.clone());
        }
        if let Some(policy) = &self.outbound {
            endpoint = endpoint.outbound(Arc::clone(policy));
        }
        Ok(endpoint.token_in(self.manner.token_in.clone()))
    }

    /// Session settings with the defaults, for probes with this purpose.
    pub(super) fn config(&self, purpose: &str) -> Result<SessionConfig, ConfigError> {
        let endpoint = self.endpoint()?.header(PURPOSE_HEADER, purpose)?;
        let mut config = SessionConfig::new(endpoint);
        config.dialect = self.dialect;
        config.script.clone_from(&self.manner.script);
        config.profiles = self.manner.profiles;
        config.times.clone_from(&self.manner.times);
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
            crash: Duration::from_mins(1),
        }
    }
}

// === impl RehearsalJob ===

impl RehearsalJob {
    /// All five scenarios with default bounds: nine attempts in ten must succeed.
    pub fn new(stable_pin: Option<Pin>, canary_pin: Pin, close_code: u16) -> Self {
        Self {
            scenarios: Scenario::ALL.to_vec(),
            stable_pin,
            canary_pin,
            nobody_pin: None,
            canary_revision: None,
            close_code,
            drains: true,
            notices: true,
            success_floor_percent: 90.0,
            connects_per_second: 50,
            timeouts: RehearsalTimeouts::default(),
            acts: RehearsalActs::default(),
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
