//! What a sidecar counts, in Prometheus' text format.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::relay::Ending;

/// The counters; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) sessions: Gauge,
    pub(super) forwarded: Gauge,
    pub(super) connections: Gauge,
    pub(super) pending: Gauge,
    pub(super) accepted: Counter,
    pub(super) refused: Family<RefusedLabels, Counter>,
    pub(super) requests: Counter,
    pub(super) notices: Counter,
    pub(super) from_clients: Flow,
    pub(super) from_applications: Flow,
    /// What the application sent to clients that had been closed already.
    pub(super) dropped: Flow,
    closed: Family<ClosedLabels, Counter>,
    durations: Histogram,
}

/// Messages of one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Flow {
    bytes: Counter,
    messages: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    code: u16,
    initiator: &'static str,
    clean: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusedLabels {
    pub(super) reason: &'static str,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            sessions: Gauge::default(),
            forwarded: Gauge::default(),
            connections: Gauge::default(),
            pending: Gauge::default(),
            accepted: Counter::default(),
            refused: Family::default(),
            requests: Counter::default(),
            notices: Counter::default(),
            from_clients: Flow::default(),
            from_applications: Flow::default(),
            dropped: Flow::default(),
            closed: Family::default(),
            // A second to a day and a half.
            durations: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
        };
        let all = metrics.clone();
        registry.register("sessions", "Sessions that are open", all.sessions);
        registry.register(
            "sessions_forwarded",
            "Of them, sockets relayed to another pod",
            all.forwarded,
        );
        registry.register("connections", "Connections of clients", all.connections);
        registry.register_with_unit(
            "pending",
            "Bytes kept for readers that are slow",
            Unit::Bytes,
            all.pending,
        );
        registry.register("sessions_accepted", "Sessions that began", all.accepted);
        registry.register(
            "sessions_refused",
            "Upgrades that could not be served",
            all.refused,
        );
        registry.register("sessions_closed", "Sessions that ended", all.closed);
        registry.register("requests", "Plain requests", all.requests);
        registry.register("notices", "Notices sent", all.notices);
        registry.register_with_unit(
            "session_duration",
            "How long sessions lasted",
            Unit::Seconds,
            all.durations,
        );
        all.from_clients.register(registry, "client", "from clients");
        all.from_applications
            .register(registry, "application", "from the application");
        all.dropped.register(
            registry,
            "dropped",
            "from the application for clients that were closed already",
        );
        metrics
    }

    /// A session ended after so long.
    pub(super) fn ended(&self, ending: Ending, lasted_ms: u64) {
        let labels = ClosedLabels {
            code: ending.code(),
            initiator: ending.initiator(),
            clean: if ending.clean { "true" } else { "false" },
        };
        self.closed.get_or_create(&labels).inc();
        self.durations.observe(lasted_ms as f64 / 1000.0);
    }
}

// === impl Flow ===

impl Flow {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        let bytes = format!("Bytes of WebSocket frames {help}");
        registry.register_with_unit(format!("{name}_sent"), bytes, Unit::Bytes, self.bytes.clone());
        let messages = format!("WebSocket messages {help}");
        registry.register(format!("{name}_messages"), messages, self.messages.clone());
    }

    pub(super) fn add(&self, bytes: usize, messages: u64) {
        self.bytes.inc_by(bytes as u64);
        if messages > 0 {
            self.messages.inc_by(messages);
        }
    }
}
