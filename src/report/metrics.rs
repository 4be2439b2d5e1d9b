//! What Prometheus reads.
//!
//! Labels have closed sets of values, the names of rollouts aside: never an error's text, a pod's name or a session.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::drain::accounting::Outcome;
use crate::report::audit::AuditMetrics;

/// The prefix of every metric.
pub const PREFIX: &str = "wsroll";

/// The roles that [`RolloutMetrics::sessions`] tells apart.
const ROLES: [&str; 3] = ["stable", "canary", "old"];
/// What can become of a session in a drain.
const FATES: [&str; 4] = ["notified", "closed", "forced", "returned"];
/// What can become of a moved session.
const RESULTS: [&str; 4] = ["back", "stray", "missing", "dormant"];

/// All metrics of the operator. Clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The controller itself.
    pub reconcile: ReconcileMetrics,
    /// What rollouts do to sessions.
    pub rollout: RolloutMetrics,
    /// What probes see.
    pub probe: ProbeMetrics,
    /// What becomes of the audit trail's records.
    pub audit: AuditMetrics,
    /// Events that were not published because the queue was full.
    pub events_dropped: Counter,
}

/// The controller itself.
#[derive(Clone, Debug)]
pub struct ReconcileMetrics {
    runs: Family<ResultLabel, Counter>,
    duration: Histogram,
    api_errors: Family<ErrorLabels, Counter>,
}

/// What rollouts do to sessions.
#[derive(Clone, Debug)]
pub struct RolloutMetrics {
    sessions: Family<RoleLabels, Gauge>,
    unknown_pods: Family<RolloutLabels, Gauge>,
    drain: Family<FateLabels, Gauge>,
    phase: Family<PhaseLabels, Gauge>,
    weight: Family<RolloutLabels, Gauge>,
    unannounced: Family<RolloutLabels, Gauge>,
    returned: Family<ResultLabels, Counter>,
    return_duration: Family<RolloutLabels, Histogram, fn() -> Histogram>,
    natural_return: Family<RolloutLabels, Gauge<f64, AtomicU64>>,
    rollbacks: Family<ReasonLabels, Counter>,
}

/// What probes see.
#[derive(Clone, Debug)]
pub struct ProbeMetrics {
    attempts: Family<TargetLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
}

/// Observes how long a reconcile took when it is dropped.
#[derive(Debug)]
pub struct DurationGuard {
    started: Instant,
    histogram: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    call: &'static str,
    category: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RolloutLabels {
    namespace: String,
    rollout: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabels {
    namespace: String,
    rollout: String,
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FateLabels {
    namespace: String,
    rollout: String,
    fate: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    namespace: String,
    rollout: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    namespace: String,
    rollout: String,
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    namespace: String,
    rollout: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    namespace: String,
    rollout: String,
    target: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    namespace: String,
    rollout: String,
    target: &'static str,
    kind: &'static str,
}

/// What became of the sessions that a release moves; see `status.drain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Sessions that were told.
    pub notified: i64,
    /// Sessions closed in their turn.
    pub closed: i64,
    /// Sessions closed at a deadline.
    pub forced: i64,
    /// Sessions that resumed elsewhere, where the receiving pods tell.
    pub returned: Option<i64>,
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything under [`PREFIX`].
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        let events_dropped = Counter::default();
        registry.register(
            "events_dropped",
            "Events not published because the queue was full",
            events_dropped.clone(),
        );
        Self {
            reconcile: ReconcileMetrics::register(registry),
            rollout: RolloutMetrics::register(registry),
            probe: ProbeMetrics::register(registry.sub_registry_with_prefix("probe")),
            audit: AuditMetrics::register(registry.sub_registry_with_prefix("audit")),
            events_dropped,
        }
    }
}

// === impl ReconcileMetrics ===

impl ReconcileMetrics {
    /// Registers the controller's own metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let runs = Family::default();
        registry.register(
            "reconciles",
            "Reconciles by result: ok, or the error's category",
            runs.clone(),
        );
        // 1 ms to 16 s: a reconcile is a few calls of the API server and of pods, each bounded.
        let duration = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let help = "How long reconciles take";
        registry.register_with_unit("reconcile_duration", help, Unit::Seconds, duration.clone());
        let api_errors = Family::default();
        registry.register(
            "api_errors",
            "Failed calls of the API server and of drain ports",
            api_errors.clone(),
        );
        Self {
            runs,
            duration,
            api_errors,
        }
    }

    /// Counts a reconcile: `ok`, or the error's category.
    pub fn result(&self, result: &'static str) {
        self.runs.get_or_create(&ResultLabel { result }).inc();
    }

    /// Measures until the guard is dropped.
    pub fn measure(&self) -> DurationGuard {
        DurationGuard {
            started: Instant::now(),
            histogram: self.duration.clone(),
        }
    }

    /// Counts a failed call, for instance (`drain`, `unreachable`).
    pub fn api_error(&self, call: &'static str, category: &'static str) {
        self.api_errors
            .get_or_create(&ErrorLabels { call, category })
            .inc();
    }
}

// === impl RolloutMetrics ===

impl RolloutMetrics {
    /// Registers what rollouts do to sessions.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            sessions: Family::default(),
            unknown_pods: Family::default(),
            drain: Family::default(),
            phase: Family::default(),
            weight: Family::default(),
            unannounced: Family::default(),
            returned: Family::default(),
            // 50 ms to 100 s: from a reconnect at once to a phone that wakes up.
            return_duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.05, 2.0, 12))
            }),
            natural_return: Family::default(),
            rollbacks: Family::default(),
        };
        registry.register(
            "sessions",
            "Open sessions on pods that answer",
            metrics.sessions.clone(),
        );
        registry.register(
            "unknown_pods",
            "Pods whose sessions are not known",
            metrics.unknown_pods.clone(),
        );
        registry.register(
            "drain_sessions",
            "Sessions that the present release moved, by fate",
            metrics.drain.clone(),
        );
        registry.register("phase", "1 for the phase a rollout is in", metrics.phase.clone());
        registry.register(
            "weight_percent",
            "Share of new connections of the new revision",
            metrics.weight.clone(),
        );
        let help = "Sessions of the present release that ended without an announcement";
        registry.register("unannounced_sessions", help, metrics.unannounced.clone());
        let help = "Moved sessions by what became of them: back, stray, missing or dormant";
        registry.register("returned_sessions", help, metrics.returned.clone());
        let help = "Time from a session's release to its return";
        registry.register_with_unit(
            "return_duration",
            help,
            Unit::Seconds,
            metrics.return_duration.clone(),
        );
        let help = "Share of sessions that leave stable by themselves and come back in time";
        registry.register("natural_return_percent", help, metrics.natural_return.clone());
        registry.register("rollbacks", "Rollbacks by reason", metrics.rollbacks.clone());
        metrics
    }

    /// Sets the open sessions of a role: `stable`, `canary` or `old`.
    pub fn set_sessions(&self, namespace: &str, rollout: &str, role: &'static str, sessions: i64) {
        let labels = RoleLabels {
            namespace: namespace.to_owned(),
            rollout: rollout.to_owned(),
            role,
        };
        self.sessions.get_or_create(&labels).set(sessions);
    }

    /// Sets the number of pods whose sessions are not known.
    pub fn set_unknown_pods(&self, namespace: &str, rollout: &str, pods: i64) {
        self.unknown_pods
            .get_or_create(&RolloutLabels::new(namespace, rollout))
            .set(pods);
    }

    /// Sets what became of the sessions that the present release moves.
    pub fn set_drain(&self, namespace: &str, rollout: &str, fates: Fates) {
        let Fates {
            notified,
            closed,
            forced,
            returned,
        } = fates;
        let counts = [Some(notified), Some(closed), Some(forced), returned];
        for (fate, count) in FATES.into_iter().zip(counts) {
            let labels = FateLabels {
                namespace: namespace.to_owned(),
                rollout: rollout.to_owned(),
                fate,
            };
            match count {
                Some(count) => _ = self.drain.get_or_create(&labels).set(count),
                None => _ = self.drain.remove(&labels),
            }
        }
    }

    /// Sets the phase; `before` is the one that was set last.
    pub fn set_phase(&self, namespace: &str, rollout: &str, before: Option<&str>, phase: &str) {
        let labels = |phase: &str| PhaseLabels {
            namespace: namespace.to_owned(),
            rollout: rollout.to_owned(),
            phase: phase.to_owned(),
        };
        if let Some(before) = before.filter(|before| *before != phase) {
            self.phase.remove(&labels(before));
        }
        self.phase.get_or_create(&labels(phase)).set(1);
    }

    /// Sets the weight of the new revision, percent.
    pub fn set_weight(&self, namespace: &str, rollout: &str, percent: i64) {
        self.weight
            .get_or_create(&RolloutLabels::new(namespace, rollout))
            .set(percent);
    }

    /// Sets the unannounced ends of sessions.
    pub fn set_unannounced(&self, namespace: &str, rollout: &str, sessions: i64) {
        self.unannounced
            .get_or_create(&RolloutLabels::new(namespace, rollout))
            .set(sessions);
    }

    /// Counts what became of a moved session.
    pub fn returned(&self, namespace: &str, rollout: &str, outcome: Outcome) {
        let (result, after) = match outcome {
            Outcome::Back(after) => (RESULTS[0], Some(after)),
            Outcome::Stray(after) => (RESULTS[1], Some(after)),
            Outcome::Missing => (RESULTS[2], None),
            Outcome::Dormant => (RESULTS[3], None),
        };
        let labels = RolloutLabels::new(namespace, rollout);
        if let Some(after) = after {
            self.return_duration
                .get_or_create(&labels)
                .observe(after.as_secs_f64());
        }
        let RolloutLabels { namespace, rollout } = labels;
        let labels = ResultLabels {
            namespace,
            rollout,
            result,
        };
        self.returned.get_or_create(&labels).inc();
    }

    /// Sets the share of sessions that come back after they left by themselves, percent.
    pub fn set_natural_return(&self, namespace: &str, rollout: &str, percent: f64) {
        self.natural_return
            .get_or_create(&RolloutLabels::new(namespace, rollout))
            .set(percent);
    }

    /// Counts a rollback; the reason is a threshold's or a request's identifier.
    pub fn rolled_back(&self, namespace: &str, rollout: &str, reason: &str) {
        let labels = ReasonLabels {
            namespace: namespace.to_owned(),
            rollout: rollout.to_owned(),
            reason: reason.to_owned(),
        };
        self.rollbacks.get_or_create(&labels).inc();
    }

    /// Drops the gauges of a rollout that is gone; its counters stay.
    pub fn forget(&self, namespace: &str, rollout: &str, phase: Option<&str>) {
        let labels = RolloutLabels::new(namespace, rollout);
        self.unknown_pods.remove(&labels);
        self.weight.remove(&labels);
        self.unannounced.remove(&labels);
        self.natural_return.remove(&labels);
        let RolloutLabels { namespace, rollout } = labels;
        for role in ROLES {
            self.sessions.remove(&RoleLabels {
                namespace: namespace.clone(),
                rollout: rollout.clone(),
                role,
            });
        }
        for fate in FATES {
            self.drain.remove(&FateLabels {
                namespace: namespace.clone(),
                rollout: rollout.clone(),
                fate,
            });
        }
        if let Some(phase) = phase {
            self.phase.remove(&PhaseLabels {
                namespace,
                rollout,
                phase: phase.to_owned(),
            });
        }
    }
}

// === impl RolloutLabels ===

impl RolloutLabels {
    fn new(namespace: &str, rollout: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            rollout: rollout.to_owned(),
        }
    }
}

// === impl ProbeMetrics ===

impl ProbeMetrics {
    /// Registers what probes see.
    pub fn register(registry: &mut Registry) -> Self {
        let attempts = Family::default();
        registry.register(
            "attempts",
            "Connects and reconnects of probes, by the revision they aim at",
            attempts.clone(),
        );
        let failures = Family::default();
        registry.register("failures", "Failed probes by kind", failures.clone());
        Self { attempts, failures }
    }

    /// Counts attempts at a target: `stable` or `canary`.
    pub fn attempts(&self, namespace: &str, rollout: &str, target: &'static str, count: u64) {
        self.attempts
            .get_or_create(&TargetLabels::new(namespace, rollout, target))
            .inc_by(count);
    }

    /// Counts failures of a kind.
    pub fn failures(
        &self,
        namespace: &str,
        rollout: &str,
        target: &'static str,
        kind: &'static str,
        count: u64,
    ) {
        let TargetLabels {
            namespace,
            rollout,
            target,
        } = TargetLabels::new(namespace, rollout, target);
        self.failures
            .get_or_create(&FailureLabels {
                namespace,
                rollout,
                target,
                kind,
            })
            .inc_by(count);
    }
}

// === impl TargetLabels ===

impl TargetLabels {
    fn new(namespace: &str, rollout: &str, target: &'static str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            rollout: rollout.to_owned(),
            target,
        }
    }
}

// === impl DurationGuard ===

impl Drop for DurationGuard {
    fn drop(&mut self) {
        self.histogram.observe(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn names_units_and_labels() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.reconcile.result("ok");
        metrics.reconcile.api_error("drain", "unreachable");
        let guard = metrics.reconcile.measure();
        tokio::time::advance(Duration::from_millis(3)).await;
        drop(guard);
        metrics.rollout.set_sessions("prod", "chat", "stable", 812);
        metrics.rollout.rolled_back("prod", "chat", "StateLost");
        metrics.rollout.set_drain(
            "prod",
            "chat",
            Fates {
                notified: 3,
                closed: 2,
                forced: 1,
                returned: None,
            },
        );
        let after = Duration::from_millis(700);
        metrics.rollout.returned("prod", "chat", Outcome::Back(after));
        metrics.rollout.returned("prod", "chat", Outcome::Missing);
        metrics.rollout.set_natural_return("prod", "chat", 87.5);
        metrics.probe.attempts("prod", "chat", "canary", 4);
        metrics.probe.failures("prod", "chat", "canary", "timeout", 2);
        let text = text(&registry);
        for line in [
            "wsroll_reconciles_total{result=\"ok\"} 1",
            "wsroll_api_errors_total{call=\"drain\",category=\"unreachable\"} 1",
            "wsroll_reconcile_duration_seconds_bucket{le=\"0.004\"} 1",
            "wsroll_sessions{namespace=\"prod\",rollout=\"chat\",role=\"stable\"} 812",
            "wsroll_rollbacks_total{namespace=\"prod\",rollout=\"chat\",reason=\"StateLost\"} 1",
            "wsroll_drain_sessions{namespace=\"prod\",rollout=\"chat\",fate=\"forced\"} 1",
            "wsroll_returned_sessions_total{namespace=\"prod\",rollout=\"chat\",result=\"missing\"} 1",
            "wsroll_return_duration_seconds_count{namespace=\"prod\",rollout=\"chat\"} 1",
            "wsroll_return_duration_seconds_bucket{le=\"0.8\",namespace=\"prod\",rollout=\"chat\"} 1",
            "wsroll_natural_return_percent{namespace=\"prod\",rollout=\"chat\"} 87.5",
            "wsroll_probe_attempts_total{namespace=\"prod\",rollout=\"chat\",target=\"canary\"} 4",
            "wsroll_probe_failures_total{namespace=\"prod\",rollout=\"chat\",target=\"canary\",kind=\"timeout\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    /// Name and kind of every metric that is shown once everything has happened.
    fn shown() -> Vec<(String, String)> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.events_dropped.inc();
        metrics.audit.written("file", 1);
        metrics.audit.dropped("file", "full", 1);
        metrics.audit.queued("file", 1);
        metrics.reconcile.result("ok");
        metrics.reconcile.api_error("drain", "unreachable");
        drop(metrics.reconcile.measure());
        let (rollout, at) = (&metrics.rollout, ("prod", "chat"));
        rollout.set_sessions(at.0, at.1, "stable", 1);
        rollout.set_unknown_pods(at.0, at.1, 1);
        rollout.set_drain(at.0, at.1, Fates::default());
        rollout.set_phase(at.0, at.1, None, "Healthy");
        rollout.set_weight(at.0, at.1, 1);
        rollout.set_unannounced(at.0, at.1, 1);
        rollout.returned(at.0, at.1, Outcome::Back(Duration::from_secs(1)));
        rollout.set_natural_return(at.0, at.1, 50.0);
        rollout.rolled_back(at.0, at.1, "StateLost");
        metrics.probe.attempts(at.0, at.1, "stable", 1);
        metrics.probe.failures(at.0, at.1, "stable", "reconnect", 1);
        let text = text(&registry);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut shown: Vec<_> = types
            .filter_map(|line| line.split_once(' '))
            .map(|(name, kind)| {
                let suffix = if kind == "counter" { "_total" } else { "" };
                (format!("{name}{suffix}"), kind.to_owned())
            })
            .collect();
        shown.sort();
        shown
    }

    #[tokio::test]
    async fn the_documentation_lists_every_metric_and_no_other() {
        let code = include_str!("metrics.rs").split("#[cfg(test)]").next().unwrap();
        let code = code.to_owned() + include_str!("audit/metrics.rs");
        let registered =
            code.matches("registry.register(").count() + code.matches("registry.register_with_unit(").count();
        assert_eq!(shown().len(), registered, "a metric that `shown` does not touch");
        let page = include_str!("../../docs/metrics.md");
        let mut listed: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `wsroll_")?.split_once("` | "))
            .map(|(name, rest)| {
                (
                    format!("wsroll_{name}"),
                    rest.split(' ').next().unwrap().to_owned(),
                )
            })
            .collect();
        listed.sort();
        assert_eq!(listed, shown());
    }

    #[test]
    fn a_rollout_has_one_phase_and_goes_without_a_trace() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry).rollout;
        metrics.set_phase("prod", "chat", None, "Healthy");
        metrics.set_phase("prod", "chat", Some("Healthy"), "Moving");
        metrics.set_sessions("prod", "chat", "canary", 1);
        metrics.set_weight("prod", "chat", 10);
        let shown = text(&registry);
        assert!(shown.contains("phase=\"Moving\"} 1") && !shown.contains("Healthy"));
        metrics.forget("prod", "chat", Some("Moving"));
        assert!(!text(&registry).contains("chat"), "{}", text(&registry));
    }
}
