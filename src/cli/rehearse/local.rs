//! A stage of commands: the service is started, asked to drain, restarted and killed on this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::process::Service;
use super::switch::Switch;
use crate::drain::client::{DrainClient, Token};
use crate::drain::protocol::{DrainOrder, Mode, OnDeadline, Reason, Reconnect, Select};
use crate::engine::evidence::RehearsalPods;
use crate::probe::{Declined, Farewell, ProbeDial, Stage, Victim, Way, sight};
use crate::session::Pin;

/// Sessions per second of an ordered drain.
const RATE: f64 = 50.0;
/// The code of an ordered drain.
const CODE: u16 = 1012;
/// How often a service that starts is dialled.
const LOOK: Duration = Duration::from_millis(200);

/// The service, its second instance, and the switch before them.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) switch: Switch,
    pub(super) first: String,
    pub(super) second: Option<String>,
    pub(super) service: Option<Service>,
    pub(super) second_service: Option<Service>,
    pub(super) dial: ProbeDial,
    pub(super) ready_timeout: Duration,
    pub(super) drain: Option<DrainPort>,
    pub(super) course: Course,
}

/// What was done until now.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Whether sessions are being handed over to the second instance.
    handing_over: AtomicBool,
    orders: AtomicU32,
    order: Mutex<Option<String>>,
}

/// A drain port.
#[derive(Debug)]
pub(super) struct DrainPort {
    address: SocketAddr,
    client: DrainClient,
    token: Token,
}

// === impl DrainPort ===

impl DrainPort {
    pub(super) async fn new(url: &str, token_file: &Path) -> anyhow::Result<Self> {
        let host = url
            .strip_prefix("http://")
            .context("--drain-url: must begin with http://")?;
        let host = host.trim_end_matches('/');
        let mut found = tokio::net::lookup_host(host)
            .await
            .with_context(|| format!("--drain-url: failed to resolve {host:?}; expected http://HOST:PORT"))?;
        let address = found.next().context("--drain-url: no address")?;
        let token = std::fs::read_to_string(token_file)
            .with_context(|| format!("--drain-token-file: failed to read {}", token_file.display()))?;
        Ok(Self {
            address,
            client: DrainClient::new(Duration::from_secs(5))?,
            token: Token::new(token.trim()),
        })
    }
}

// === impl Local ===

impl Local {
    /// Starts what is to be started, and waits until an upgrade works.
    pub(super) async fn begin(&self) -> anyhow::Result<()> {
        if let Some(service) = &self.service {
            service.start().await?;
        }
        self.ready(self.service.as_ref()).await
    }

    async fn ready(&self, service: Option<&Service>) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.ready_timeout;
        loop {
            let seen = sight(&self.dial, None, 1, Duration::from_secs(5)).await?;
            let Some(Err(failure)) = seen.into_iter().next() else {
                return Ok(());
            };
            if let Some(service) = service
                && let Some(status) = service.ended().await
            {
                anyhow::bail!("the service ended before it took a connection: {status}");
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "no upgrade worked within {} s: {failure}; --ready-timeout allows more",
                self.ready_timeout.as_secs()
            );
            sleep(LOOK).await;
        }
    }

    /// Ends what was started.
    pub(super) async fn end(&self) {
        for service in [&self.service, &self.second_service].into_iter().flatten() {
            service.kill().await;
        }
    }

    fn managed(&self) -> Result<&Service, Declined> {
        let missing = "the service is not ours to end: --start-command says how it is started";
        self.service.as_ref().ok_or_else(|| Declined(missing.to_owned()))
    }

    async fn order(&self, port: &DrainPort) -> Result<(), Declined> {
        let number = self.course.orders.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("rehearsal-{}-{number}", std::process::id());
        let order = DrainOrder {
            id: id.clone(),
            reason: Reason::Drill,
            select: Select::All {},
            mode: Mode::Ask,
            rate_per_second: RATE,
            lease_seconds: 120,
            deadline_ms: None,
            on_deadline: OnDeadline::Wait,
            reconnect: Reconnect {
                min_ms: 0,
                max_ms: 1_000,
                hint: None,
            },
            close_code: CODE,
        };
        let ordered = port.client.order(port.address, &port.token, &order).await;
        ordered.map_err(|error| Declined(format!("the drain port took no order: {error}")))?;
        *self.course.order.lock().await = Some(id);
        Ok(())
    }
}

fn declined(error: &anyhow::Error) -> Declined {
    Declined(format!("{error:#}"))
}

impl Stage for Local {
    async fn lead(&self, way: Way) -> Result<Option<Pin>, Declined> {
        match way {
            Way::Old => {
                let Some(second) = &self.second else {
                    let missing = "there is one instance only: --second-connect-to, and --second-start-command where it does not \
                                   run yet, name one that sessions are handed over to";
                    return Err(Declined(missing.to_owned()));
                };
                if let Some(service) = &self.second_service {
                    service.start().await.map_err(|error| declined(&error))?;
                }
                self.switch.lead(Some(second));
                self.ready(self.second_service.as_ref())
                    .await
                    .map_err(|error| Declined(format!("the second instance: {error:#}")))?;
                self.course.handing_over.store(true, Ordering::Relaxed);
                self.switch.lead(Some(&self.first));
            }
            Way::New => {
                let handing_over = self.course.handing_over.load(Ordering::Relaxed);
                let second = self.second.as_deref().filter(|_| handing_over);
                self.switch.lead(Some(second.unwrap_or(&self.first)));
            }
            Way::Nobody => self.switch.lead(None),
        }
        Ok(None)
    }

    fn farewell(&self) -> Result<Farewell, Declined> {
        if self.drain.is_some() {
            return Ok(Farewell {
                code: Some(CODE),
                notices: true,
            });
        }
        self.managed()?;
        Ok(Farewell {
            code: None,
            notices: false,
        })
    }

    async fn drain(&self) -> Result<(), Declined> {
        if let Some(port) = &self.drain {
            return self.order(port).await;
        }
        let service = self.managed()?;
        service.stop().await.map_err(|error| declined(&error))?;
        service.start().await.map_err(|error| declined(&error))
    }

    async fn calm(&self) {
        self.course.handing_over.store(false, Ordering::Relaxed);
        self.switch.lead(Some(&self.first));
        let order = self.course.order.lock().await.take();
        if let (Some(port), Some(id)) = (&self.drain, order)
            && let Err(error) = port.client.cancel(port.address, &port.token, &id).await
        {
            tracing::warn!(
                category = error.category(),
                "the order was not cancelled; its lease will end it"
            );
        }
    }

    async fn crash(&self, _: RehearsalPods) -> Result<Victim, Declined> {
        let service = self.managed()?;
        service.kill().await;
        // Its sessions wait for it meanwhile: that is what is measured.
        service.start().await.map_err(|error| declined(&error))?;
        Ok(Victim::All)
    }

    async fn counted(&self) -> BTreeMap<String, u64> {
        // The port does not say which pod it speaks for, and here one process is all there is.
        BTreeMap::new()
    }
}
