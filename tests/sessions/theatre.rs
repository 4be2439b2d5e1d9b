//! Pods of the example service as a stage for scenarios: what the operator does in a cluster is done to them directly.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use session_server::Server;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use wsroll::api::spec::Scenario;
use wsroll::drain::client::{DrainClient, Token};
use wsroll::engine::evidence::{RehearsalPods, ScenarioReport};
use wsroll::probe::{Board, Declined, Farewell, RehearsalTimeouts, Setting, Victim, Way, rehearse};
use wsroll::session::Pin;

use crate::stage::{DRAIN_TOKEN, Stage, drain_as, pin};

/// Stable under pin `s`, the pods of the canary under pin `c`, and nobody under pin `n`.
pub struct Theatre {
    pub stage: Stage,
    stable: Server,
    pods: Mutex<Vec<Pod>>,
    faults: String,
    born: Mutex<usize>,
    orders: AtomicUsize,
}

struct Pod {
    name: String,
    server: Server,
    order: Option<String>,
}

impl Theatre {
    /// A canary of so many pods with these faults.
    pub async fn new(pods: usize, faults: &str) -> Self {
        let stage = Stage::new().await;
        let stable = stage.server("v1", "").await;
        stage.router.route("s", &stable);
        let theatre = Self {
            stage,
            stable,
            pods: Mutex::default(),
            faults: faults.to_owned(),
            born: Mutex::default(),
            orders: AtomicUsize::new(0),
        };
        for _ in 0..pods {
            theatre.start().await;
        }
        theatre
    }

    pub fn setting(&self, sessions: u32) -> Setting {
        // Bounds for what never comes. A thousand clients beside their servers on a busy machine come late.
        let step = Duration::from_secs(if sessions > 100 { 60 } else { 6 });
        let timeouts = RehearsalTimeouts {
            restored: step,
            // Six writes in a row, each answered late.
            exchange: step * 3,
            drain: step * 3,
            crash: step * 3,
        };
        Setting {
            sessions,
            canary_revision: Some("v2".to_owned()),
            two_revisions: true,
            ..Setting::new(&self.stage.dial(), timeouts).unwrap()
        }
    }

    /// Plays these scenarios with so many sessions.
    pub async fn play(&self, scenarios: &[Scenario], sessions: u32) -> Vec<ScenarioReport> {
        let board = Board::new(Timestamp::UNIX_EPOCH);
        let set = self.setting(sessions);
        rehearse(&set, scenarios, self, &board, &CancellationToken::new()).await;
        board.scenarios()
    }

    /// Sessions that are open on any pod.
    pub async fn open(&self) -> usize {
        let pods = self.pods.lock().await;
        self.stable.open() + pods.iter().map(|pod| pod.server.open()).sum::<usize>()
    }

    async fn start(&self) {
        let mut born = self.born.lock().await;
        *born += 1;
        let name = format!("pod-{born}");
        let server = self.stage.pod(&name, "v2", &self.faults).await;
        let mut pods = self.pods.lock().await;
        pods.push(Pod {
            name,
            server,
            order: None,
        });
        self.serve(&pods);
    }

    fn serve(&self, pods: &[Pod]) {
        let among: Vec<_> = pods.iter().map(|pod| pod.server.traffic_addr()).collect();
        self.stage.router.route_among("c", &among);
    }
}

impl wsroll::probe::Stage for Theatre {
    async fn lead(&self, way: Way) -> Result<Option<Pin>, Declined> {
        Ok(Some(pin(match way {
            Way::Old => "s",
            Way::New => "c",
            Way::Nobody => "n",
        })))
    }

    fn farewell(&self) -> Result<Farewell, Declined> {
        Ok(Farewell {
            code: Some(1012),
            notices: true,
        })
    }

    async fn drain(&self) -> Result<(), Declined> {
        let mut pods = self.pods.lock().await;
        // An order that was cancelled is not taken up again.
        let number = self.orders.fetch_add(1, Ordering::Relaxed);
        for pod in &mut *pods {
            let id = format!("r{number}-{}", pod.name);
            drain_as(&id, &pod.server, 200.0, None).await;
            pod.order = Some(id);
        }
        Ok(())
    }

    async fn calm(&self) {
        let client = DrainClient::new(Duration::from_secs(5)).unwrap();
        for pod in &mut *self.pods.lock().await {
            if let (Some(id), Some(port)) = (pod.order.take(), pod.server.drain_addr()) {
                client.cancel(port, &Token::new(DRAIN_TOKEN), &id).await.unwrap();
            }
        }
    }

    async fn crash(&self, on: RehearsalPods) -> Result<Victim, Declined> {
        let victim = on.pods.iter().max_by_key(|(_, probes)| **probes);
        let victim = victim.map(|(pod, _)| pod.clone()).unwrap_or_default();
        let mut pods = self.pods.lock().await;
        let place = pods.iter().position(|pod| pod.name == victim).unwrap();
        pods.remove(place).server.kill();
        self.serve(&pods);
        drop(pods);
        self.start().await;
        Ok(Victim::Pod(victim))
    }

    async fn counted(&self) -> BTreeMap<String, u64> {
        let client = DrainClient::new(Duration::from_secs(5)).unwrap();
        let mut counted = BTreeMap::new();
        for pod in &*self.pods.lock().await {
            let port = pod.server.drain_addr().unwrap();
            if let Ok(report) = client.sessions(port, &Token::new(DRAIN_TOKEN)).await {
                counted.insert(pod.name.clone(), report.open);
            }
        }
        counted
    }
}
