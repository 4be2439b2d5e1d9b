//! Metrics of the audit trail.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What becomes of records, by the kind of sink: `stdout`, `file`, `http`.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    written: Family<SinkLabels, Counter>,
    dropped: Family<DropLabels, Counter>,
    queued: Family<SinkLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    sink: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    sink: &'static str,
    reason: &'static str,
}

// === impl AuditMetrics ===

impl AuditMetrics {
    /// Registers what becomes of records.
    pub fn register(registry: &mut Registry) -> Self {
        let written = Family::default();
        registry.register("records", "Records that a sink took", written.clone());
        let dropped = Family::default();
        let help = "Records that were dropped: the queue was full, or the sink refused them or was away";
        registry.register("dropped", help, dropped.clone());
        let queued = Family::default();
        registry.register("queued", "Records that wait for their sink", queued.clone());
        Self {
            written,
            dropped,
            queued,
        }
    }

    /// Counts records that a sink took.
    pub fn written(&self, sink: &'static str, records: u64) {
        self.written.get_or_create(&SinkLabels { sink }).inc_by(records);
    }

    /// Counts records that were dropped: `full`, `refused`, `failed` or `shutdown`.
    pub fn dropped(&self, sink: &'static str, reason: &'static str, records: u64) {
        self.dropped
            .get_or_create(&DropLabels { sink, reason })
            .inc_by(records);
    }

    /// Sets how many records wait.
    pub fn queued(&self, sink: &'static str, records: usize) {
        let records = i64::try_from(records).unwrap_or(i64::MAX);
        self.queued.get_or_create(&SinkLabels { sink }).set(records);
    }
}
