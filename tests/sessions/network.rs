//! Faults from outside: latency, cut connections, and a network that parts, between the probes and a healthy service.

use std::time::Duration;

use jiff::Timestamp;
use wsroll::api::spec::Scenario::{GracefulShutdown, HandOff, StatePreservation};
use wsroll::engine::evidence::{ProbeEvidence, ProbeTarget, RehearsalPods, ScenarioOutcome};
use wsroll::probe::{
    Board, Declined, Farewell, FleetJob, ProbeJob, ProbeKind, ProbeSupervisor, Seen, Victim, Way, rehearse,
};
use wsroll::session::Pin;

use crate::stage::{Stage, eventually, pin};
use crate::theatre::Theatre;

#[tokio::test]
async fn what_latency_costs_is_in_the_figures() {
    let theatre = Theatre::new(2, "").await;
    theatre
        .stage
        .router
        .weather(|w| w.latency = Duration::from_millis(100));
    let reports = theatre
        .play(&[HandOff, StatePreservation, GracefulShutdown], 6)
        .await;
    for report in &reports {
        assert!(
            matches!(report.outcome, Some(ScenarioOutcome::Passed { .. })),
            "{report:#?}"
        );
        // To the service and back, at least once.
        assert!(report.mean_ms >= Some(200), "{report:#?}");
    }
}

#[tokio::test]
async fn a_network_that_is_too_slow_for_the_service_level_fails_by_name() {
    let theatre = Theatre::new(2, "").await;
    theatre
        .stage
        .router
        .weather(|w| w.latency = Duration::from_millis(1_100));
    let report = theatre.play(&[StatePreservation], 4).await.remove(0);
    let Some(ScenarioOutcome::Failed(failure)) = &report.outcome else {
        panic!("{report:#?}");
    };
    assert_eq!(failure.check, "inTime", "{report:#?}");
}

/// Cuts every connection where a drain is ordered.
struct Cutter(Theatre);

impl wsroll::probe::Stage for Cutter {
    async fn lead(&self, way: Way) -> Result<Option<Pin>, Declined> {
        self.0.lead(way).await
    }

    fn farewell(&self) -> Result<Farewell, Declined> {
        self.0.farewell()
    }

    async fn drain(&self) -> Result<(), Declined> {
        self.0.stage.router.weather(|w| w.resets += 1);
        Ok(())
    }

    async fn calm(&self) {}

    async fn crash(&self, on: RehearsalPods) -> Result<Victim, Declined> {
        self.0.crash(on).await
    }

    async fn counted(&self) -> std::collections::BTreeMap<String, u64> {
        self.0.counted().await
    }
}

#[tokio::test]
async fn connections_that_are_cut_are_no_farewell() {
    let cutter = Cutter(Theatre::new(2, "").await);
    let board = Board::new(Timestamp::UNIX_EPOCH);
    let set = cutter.0.setting(6);
    let cancelled = tokio_util::sync::CancellationToken::new();
    let failure = rehearse(&set, &[GracefulShutdown], &cutter, &board, &cancelled).await;
    assert_eq!(failure.unwrap().check, "unannounced");
}

#[tokio::test]
async fn a_parted_network_is_seen_and_sessions_are_whole_when_it_heals() {
    let stage = Stage::new().await;
    let _servers = stage.pair("").await;
    let mut fleet = FleetJob::new(vec![(ProbeTarget::Canary, Some(pin("c")))]);
    fleet.recycle = Duration::from_secs(60);
    fleet.health_timeout = Duration::from_secs(1);
    let job = ProbeJob {
        run: "parted".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        dial: stage.dial(),
        sessions: 4,
        kind: ProbeKind::Fleet(fleet),
    };
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job)).unwrap();
    let seen = |holds: fn(&ProbeEvidence) -> bool| {
        let probes = &probes;
        eventually(move || match probes.observe("chat")?.seen {
            Seen::Fleet(evidence) => evidence.into_iter().next().filter(holds),
            Seen::Rehearsal(_) => None,
        })
    };
    seen(|evidence| evidence.open == 4).await;
    stage.router.weather(|w| w.parted = true);
    let parted = seen(|evidence| evidence.open == 0 && evidence.failures_in_a_row >= 4).await;
    assert_eq!(parted.total.state_lost, 0);
    stage.router.weather(|w| w.parted = false);
    let healed = seen(|evidence| evidence.open == 4 && evidence.failures_in_a_row == 0).await;
    assert_eq!(
        (healed.total.state_lost, healed.total.unannounced),
        (0, 0),
        "{healed:#?}"
    );
    probes.shutdown().await;
}
