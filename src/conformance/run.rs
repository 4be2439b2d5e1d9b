//! One run: the order of the looks, and the tidying up after them.

use rand::RngExt as _;
use serde_json::{Value, json};

use super::crowd::{Crowd, Traffic};
use super::lag::Lag;
use super::port::{Answer, Port};
use super::report::Report;
use super::rule;
use crate::drain::identity::IdentityKey;

/// What to play against.
#[derive(Clone, Debug)]
pub struct Config {
    /// `http://HOST:9911`.
    pub url: String,
    /// The drain token.
    pub token: String,
    /// The service's own port; without it no rule about moving sessions can be looked at.
    pub traffic: Option<Traffic>,
    /// The key with which sessions are told in events, where it is known.
    pub identity_key: Option<IdentityKey>,
    /// Clients in the largest scene, at least 16.
    pub sessions: usize,
    /// Drains a process that has other sessions than ours, too.
    pub live: bool,
}

/// Why nothing could be played.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client could not be made.
    #[error("failed to build the http client")]
    Build(#[source] reqwest::Error),
    /// Somebody uses the process.
    #[error("{0} sessions are open that are not ours, and would be closed: use --live to do it")]
    InUse(u64),
    /// A client could not be opened.
    #[error("failed to open a client: {0}")]
    Open(String),
}

/// A run under way.
pub(super) struct Run {
    pub(super) port: Port,
    pub(super) report: Report,
    pub(super) config: Config,
    /// Part of every id and name.
    pub(super) name: String,
    /// As the first report had it.
    pub(super) instance: Option<String>,
    /// The report has a `drain`.
    pub(super) tells_orders: bool,
    pub(super) lag: Lag,
    started: Vec<String>,
}

/// Plays everything. A broken rule is no error: the report tells it.
pub async fn play(config: Config) -> Result<Report, Error> {
    let mut run = Run::new(config)?;
    let played = tokio::select! {
        played = run.play() => played,
        // The orders are cancelled all the same.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    run.tidy_up().await;
    played.map(|()| run.report)
}

// === impl Run ===

impl Run {
    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self {
            port: Port::new(&config.url, &config.token).map_err(Error::Build)?,
            report: Report::new("not reached"),
            name: format!("conformance-{:08x}", rand::rng().random::<u32>()),
            instance: None,
            tells_orders: false,
            lag: Lag::watch(),
            started: Vec::new(),
            config,
        })
    }

    async fn play(&mut self) -> Result<(), Error> {
        if !self.report_form().await {
            return Ok(());
        }
        if self.config.traffic.is_some() && !self.config.live {
            match self.port.sessions().await {
                Ok(report) if report.open > 0 => return Err(Error::InUse(report.open)),
                _ => {}
            }
        }
        self.versions_and_methods().await;
        self.authorization().await;
        self.bad_orders().await;
        self.orders().await;
        self.events_form().await;
        match self.config.traffic.clone() {
            None => {
                for rule in rule::ALL {
                    if self.report.outcome(rule) == Some(super::Outcome::NotTested) {
                        self.report.not_tested(rule, "needs --ws");
                    }
                }
            }
            Some(traffic) => {
                let mut crowd = Crowd::new(traffic, &self.name);
                let moved = self.moves(&mut crowd).await;
                crowd.leave().await;
                match moved {
                    Ok(()) => {}
                    Err(error) if crowd.members.is_empty() => return Err(Error::Open(error.to_string())),
                    // The first ones were taken, so it is no wrong URL or header.
                    Err(error) => {
                        let evidence = format!("client {} was refused: {error}", crowd.members.len() + 1);
                        self.report.check(&rule::DRAIN_ACCEPTS, false, evidence);
                    }
                }
                self.events_account(&crowd).await;
            }
        }
        self.instance_stayed().await;
        Ok(())
    }

    async fn instance_stayed(&mut self) {
        let Some(first) = self.instance.clone() else {
            return;
        };
        let last = self.port.sessions().await.ok().and_then(|report| report.instance);
        let evidence = format!("{first} at first, {} at last", last.as_deref().unwrap_or("none"));
        self.report
            .check(&rule::SESSIONS_INSTANCE, last.as_ref() == Some(&first), evidence);
    }

    /// The id of an order of this run.
    pub(super) fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// An order that moves nobody.
    pub(super) fn idle_order(&self, name: &str) -> Value {
        json!({"id": self.id(name), "reason": "drill", "select": {"all": {}}, "mode": "leave",
            "ratePerSecond": 2, "leaseSeconds": 10, "onDeadline": "wait",
            "reconnect": {"minMs": 0, "maxMs": 500}, "closeCode": 1012})
    }

    /// Gives an order, and remembers to cancel it.
    pub(super) async fn start(&mut self, order: &Value) -> Answer {
        if let Some(id) = order["id"].as_str()
            && !self.started.iter().any(|started| started == id)
        {
            self.started.push(id.to_owned());
        }
        self.port.put(order).await
    }

    /// Cancels what may still run. An implementation may know only its last order: the rest are 404 there.
    async fn tidy_up(&mut self) {
        for id in self.started.drain(..).rev().take(3) {
            self.port.delete(&id).await;
        }
    }
}
