//! Leader election by a `Lease`, and the permission to write that follows from it.
//!
//! The design is kubert's, with client-go's notion of time:
//! - every write of the Lease carries the `resourceVersion` it was read with, so that of two writers one gets a
//!   409, reads again and yields;
//! - a foreign Lease has expired when it was *seen* unchanged for its whole duration on our own monotonic clock,
//!   so that clocks which disagree between nodes elect no second leader;
//! - before every write to the cluster the holder asks its own clock through [`LeaseGuard::valid`]. The guard
//!   lapses a third of the duration before the Lease does; writes time out within that third;
//! - a lost Lease ends the process: nobody has to think about half-done work of a former leader;
//! - a leader that stops vacates the Lease, so that the next one need not wait.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The name of the operator's Lease.
pub const NAME: &str = "wsroll-operator";

/// How long a Lease is good for without a renewal.
pub const DURATION: Duration = Duration::from_secs(15);

/// Who takes part in an election, and in which.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the Lease: the operator's own.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// Unique per pod, and the same after a restart of its container: the new process takes its predecessor's Lease
    /// over at once.
    pub identity: String,
    /// How long the Lease is good for without a renewal; at least 3 s.
    pub duration: Duration,
}

/// Why an election ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else holds the Lease, it was deleted, or it could not be renewed in time. The process has to end.
    #[error("lost the lease: {0}")]
    Lost(&'static str),
}

/// The permission to write: valid while this process leads. Cheap to clone, asked before every external write.
#[derive(Clone, Debug)]
pub struct LeaseGuard {
    until: watch::Receiver<Option<Instant>>,
}

/// Takes part in the election until told to stop.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    settings: Settings,
    until: watch::Sender<Option<Instant>>,
    clock: fn() -> Timestamp,
}

/// What is known between two steps.
#[derive(Debug, Default)]
struct State {
    /// The Lease as we wrote it last, while we lead.
    held: Option<Lease>,
    /// The version of a foreign Lease, and since when it has not changed.
    seen: Option<(String, Instant)>,
}

/// What became of one call.
enum Answer<T> {
    Ok(T),
    /// 409: somebody else wrote.
    Conflict,
    /// 404.
    Gone,
    /// Anything else, a timeout included: nobody knows whether it took effect.
    Failed,
}

// === impl Error ===

impl Error {
    /// A closed set, for metric labels.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lease_lost",
        }
    }
}

// === impl Settings ===

impl Settings {
    /// The operator's own election, under [`NAME`] for [`DURATION`].
    pub fn new(namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        let (namespace, identity) = (namespace.into(), identity.into());
        Self {
            namespace,
            name: NAME.to_owned(),
            identity,
            duration: DURATION,
        }
    }

    /// Renewals are this far apart; one call, and every write of a leader, takes at most as long.
    pub fn renew_every(&self) -> Duration {
        self.duration / 3
    }

    /// How long after the start of a successful renewal the guard stays valid.
    fn good_for(&self) -> Duration {
        self.duration * 2 / 3
    }
}

// === impl LeaseGuard ===

impl LeaseGuard {
    /// A guard that is valid until further notice, for tests and for tools that write on a person's behalf.
    pub fn unlimited() -> Self {
        let far = Instant::now() + Duration::from_hours(24 * 365);
        Self {
            until: watch::channel(Some(far)).1,
        }
    }

    /// Whether this process may write at `now`.
    pub fn valid(&self, now: Instant) -> bool {
        self.until.borrow().is_some_and(|until| now < until)
    }

    /// Waits until this process leads. `false` when the election has ended instead.
    pub async fn acquired(&mut self) -> bool {
        self.until.wait_for(Option::is_some).await.is_ok()
    }
}

// === impl Elector ===

impl Elector {
    /// Makes an elector, and the guard that follows it.
    pub fn new(client: Client, settings: Settings) -> (Self, LeaseGuard) {
        let (until, receiver) = watch::channel(None);
        let api = Api::namespaced(client, &settings.namespace);
        (
            Self {
                api,
                settings,
                until,
                clock: Timestamp::now,
            },
            LeaseGuard { until: receiver },
        )
    }

    /// Runs for the Lease, and renews it once it is held, until `stop`; then vacates it. Returns an error when a
    /// held Lease was lost.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut state = State::default();
        let outcome = stop.run_until_cancelled(self.take_part(&mut state)).await;
        self.until.send_replace(None);
        match outcome {
            Some(Err(error)) => Err(error),
            Some(Ok(never)) => match never {},
            None => {
                self.vacate().await;
                Ok(())
            }
        }
    }

    async fn take_part(&self, state: &mut State) -> Result<std::convert::Infallible, Error> {
        loop {
            let pause = match state.held.take() {
                Some(lease) => self.renew(lease, state).await?,
                None => self.candidate(state).await,
            };
            sleep(pause.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }

    /// Renews the Lease we hold.
    async fn renew(&self, mut lease: Lease, state: &mut State) -> Result<Duration, Error> {
        let started = Instant::now();
        self.stamp(&mut lease);
        match self.replace(&lease).await {
            Answer::Ok(renewed) => {
                self.hold(renewed, started, state);
                Ok(self.settings.renew_every())
            }
            Answer::Gone => Err(Error::Lost("it was deleted")),
            Answer::Conflict | Answer::Failed => {
                if !self.until.borrow().is_some_and(|until| Instant::now() < until) {
                    return Err(Error::Lost("it could not be renewed in time"));
                }
                // Read again: our own write may have taken effect, or somebody touched the Lease's metadata.
                match self.get().await {
                    Answer::Ok(present) if self.is_ours(&present) => state.held = Some(present),
                    Answer::Ok(_) => return Err(Error::Lost("somebody else holds it")),
                    Answer::Gone => return Err(Error::Lost("it was deleted")),
                    Answer::Conflict | Answer::Failed => state.held = Some(lease),
                }
                Ok(self.retry_after())
            }
        }
    }

    /// Looks whether the Lease can be had.
    async fn candidate(&self, state: &mut State) -> Duration {
        let started = Instant::now();
        let present = match self.get().await {
            Answer::Ok(lease) => lease,
            Answer::Gone => {
                if let Answer::Ok(created) = self.create().await {
                    self.hold(created, started, state);
                    return self.settings.renew_every();
                }
                return self.retry_after();
            }
            Answer::Conflict | Answer::Failed => return self.settings.renew_every(),
        };
        let left = self.left(&present, state);
        if !left.is_zero() {
            return left.min(self.settings.renew_every());
        }
        let started = Instant::now();
        match self.replace(&self.taken(present)).await {
            Answer::Ok(taken) => {
                self.hold(taken, started, state);
                self.settings.renew_every()
            }
            Answer::Conflict | Answer::Gone | Answer::Failed => self.retry_after(),
        }
    }

    /// How long a Lease is still somebody else's.
    fn left(&self, lease: &Lease, state: &mut State) -> Duration {
        let spec = lease.spec.clone().unwrap_or_default();
        let vacant = spec.holder_identity.as_deref().is_none_or(str::is_empty);
        if vacant || self.is_ours(lease) {
            return Duration::ZERO;
        }
        let version = lease.resource_version().unwrap_or_default();
        let since = match &state.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        state.seen = Some((version, since));
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(self.settings.duration, Duration::from_secs);
        (since + duration).saturating_duration_since(Instant::now())
    }

    /// The Lease, taken over.
    fn taken(&self, mut lease: Lease) -> Lease {
        let now = MicroTime((self.clock)());
        let same = self.is_ours(&lease);
        let spec = lease.spec.get_or_insert_default();
        if !same || spec.acquire_time.is_none() {
            spec.acquire_time = Some(now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.settings.identity.clone());
        self.stamp(&mut lease);
        lease
    }

    fn stamp(&self, lease: &mut Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(MicroTime((self.clock)()));
        spec.lease_duration_seconds = i32::try_from(self.settings.duration.as_secs()).ok();
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        holder == Some(&self.settings.identity)
    }

    fn hold(&self, lease: Lease, started: Instant, state: &mut State) {
        if self.until.borrow().is_none() {
            tracing::info!(
                lease = self.settings.name,
                identity = self.settings.identity,
                "leading"
            );
        }
        self.until.send_replace(Some(started + self.settings.good_for()));
        state.held = Some(lease);
    }

    fn retry_after(&self) -> Duration {
        self.settings.duration / 15
    }

    /// Gives the Lease up, if it is ours. A failure only costs the next leader its wait.
    async fn vacate(&self) {
        // A step may have been interrupted in the middle of a write, so the cluster is asked what is ours.
        let Answer::Ok(mut lease) = self.get().await else {
            return;
        };
        if !self.is_ours(&lease) {
            return;
        }
        lease.spec.get_or_insert_default().holder_identity = None;
        if matches!(self.replace(&lease).await, Answer::Ok(_)) {
            tracing::info!(lease = self.settings.name, "vacated the lease");
        }
    }

    async fn get(&self) -> Answer<Lease> {
        self.answer("get", self.api.get(&self.settings.name)).await
    }

    async fn replace(&self, lease: &Lease) -> Answer<Lease> {
        self.answer(
            "replace",
            self.api
                .replace(&self.settings.name, &PostParams::default(), lease),
        )
        .await
    }

    async fn create(&self) -> Answer<Lease> {
        let metadata = ObjectMeta {
            name: Some(self.settings.name.clone()),
            ..ObjectMeta::default()
        };
        let lease = self.taken(Lease {
            metadata,
            spec: Some(LeaseSpec::default()),
        });
        self.answer("create", self.api.create(&PostParams::default(), &lease))
            .await
    }

    async fn answer<T>(&self, call: &'static str, run: impl Future<Output = kube::Result<T>>) -> Answer<T> {
        match timeout(self.settings.renew_every(), run).await {
            Ok(Ok(value)) => Answer::Ok(value),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Answer::Conflict,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Answer::Gone,
            Ok(Err(error)) => {
                tracing::warn!(
                    call,
                    error = &error as &dyn std::error::Error,
                    "the lease did not answer"
                );
                Answer::Failed
            }
            Err(_) => {
                tracing::warn!(call, "the lease did not answer in time");
                Answer::Failed
            }
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
