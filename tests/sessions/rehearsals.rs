//! Rehearsals: a healthy revision passes, and each fault fails under its own name.

use std::time::Duration;

use jiff::Timestamp;
use rstest::rstest;
use wsroll::api::spec::Scenario;
use wsroll::engine::evidence::{RehearsalActs, RehearsalReport, RehearsalStage, ScenarioOutcome};
use wsroll::probe::{ProbeJob, ProbeKind, ProbeSupervisor, RehearsalJob, RehearsalTimeouts, Seen};
use wsroll::session::Dialect;

use crate::stage::{self, Stage, drain, eventually, pin};

fn job(stage: &Stage, sessions: u32) -> ProbeJob {
    let mut rehearsal = RehearsalJob::new(Some(pin("s")), pin("c"), 1012);
    rehearsal.timeouts = RehearsalTimeouts {
        restored: Duration::from_secs(3),
        exchange: Duration::from_secs(2),
        drain: Duration::from_secs(10),
        crash: Duration::from_secs(10),
    };
    rehearsal.scenarios = vec![Scenario::HandOff, Scenario::GracefulShutdown];
    ProbeJob {
        run: "r-1".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        dial: stage.dial(),
        sessions,
        kind: ProbeKind::Rehearsal(rehearsal),
    }
}

fn report(probes: &ProbeSupervisor) -> RehearsalReport {
    match probes.observe("chat").unwrap().seen {
        Seen::Rehearsal(report) => *report,
        Seen::Fleet(_) => panic!("not a rehearsal"),
    }
}

/// The report at the first stage other than running.
async fn outcome(probes: &ProbeSupervisor) -> RehearsalReport {
    eventually(|| Some(report(probes)).filter(|r| r.stage != RehearsalStage::Running)).await
}

#[tokio::test]
async fn a_healthy_revision_passes() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, 20))).unwrap();
    assert_eq!(outcome(&probes).await.stage, RehearsalStage::AwaitingDrain);
    // Out of rotation first, as the operator does it.
    let spare = stage.server("v2", "").await;
    stage.router.route("c", &spare);
    drain(&canary, 50.0, None).await;
    let report =
        eventually(|| Some(report(&probes)).filter(|r| r.stage != RehearsalStage::AwaitingDrain)).await;
    assert_eq!(report.stage, RehearsalStage::Passed);
    // Handed over, opened on the canary, let go of.
    assert_eq!((report.figures.attempts, report.figures.restored), (60, 60));
    assert_eq!(report.stable.restored, 40, "twice there and back, on stable");
    assert_eq!((report.figures.unannounced, report.figures.state_lost), (0, 0));
    assert!(report.figures.restored_p95_ms.is_some());
    assert_eq!(canary.open(), 0);
    probes.shutdown().await;
    assert_eq!(spare.open(), 0);
}

#[tokio::test]
async fn pods_that_stay_in_rotation_while_they_drain_pass_too() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, 20))).unwrap();
    assert_eq!(outcome(&probes).await.stage, RehearsalStage::AwaitingDrain);
    // Whoever comes back meets the same order again.
    drain(&canary, 50.0, None).await;
    let report =
        eventually(|| Some(report(&probes)).filter(|r| r.stage != RehearsalStage::AwaitingDrain)).await;
    assert_eq!(report.stage, RehearsalStage::Passed);
    probes.shutdown().await;
}

#[rstest]
#[case("mute", "firstMessage")]
#[case("refuse=100%", "connected")]
#[case("refuse=30%", "connected")]
#[case("forget", "stateEqual")]
#[case("crash=60", "unannounced")]
#[case("slow=2500", "exchange")]
#[tokio::test]
async fn a_broken_revision_fails_by_name(#[case] fault: &str, #[case] check: &str) {
    let stage = Stage::new().await;
    let _servers = stage.pair(fault).await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, 40))).unwrap();
    let RehearsalStage::Failed(failure) = outcome(&probes).await.stage else {
        panic!("{fault}: not failed");
    };
    assert_eq!(failure.check, check, "{fault}: {}", failure.message);
    probes.shutdown().await;
}

#[tokio::test]
async fn a_mute_revision_is_described_in_numbers() {
    let stage = Stage::new().await;
    let _servers = stage.pair("mute").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, 5))).unwrap();
    let RehearsalStage::Failed(failure) = outcome(&probes).await.stage else {
        panic!("not failed");
    };
    assert_eq!(
        failure.message,
        "HandOff: 0 of 5 sessions got a first message within 3 s: accepted, but no first message came in time"
    );
}

#[tokio::test]
async fn a_pin_that_leads_to_stable_is_no_rehearsal() {
    let stage = Stage::new().await;
    let (stable, _canary) = stage.pair("").await;
    stage.router.route("c", &stable);
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, 2))).unwrap();
    let RehearsalStage::Failed(failure) = outcome(&probes).await.stage else {
        panic!("not failed");
    };
    assert_eq!(failure.check, "revision", "{}", failure.message);
}

#[tokio::test]
async fn an_ordinary_shutdown_instead_of_a_drain_fails() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, 5))).unwrap();
    assert_eq!(outcome(&probes).await.stage, RehearsalStage::AwaitingDrain);
    canary.shutdown().await;
    let failure = eventually(|| match report(&probes).stage {
        RehearsalStage::Failed(failure) => Some(failure),
        _ => None,
    })
    .await;
    assert_eq!(failure.check, "unannounced", "{}", failure.message);
    assert!(failure.message.contains("1001"), "{}", failure.message);
}

#[tokio::test]
async fn a_first_revision_is_rehearsed_without_stable() {
    let stage = Stage::new().await;
    let (_stable, _canary) = stage.pair("").await;
    let mut job = job(&stage, 3);
    if let ProbeKind::Rehearsal(rehearsal) = &mut job.kind {
        rehearsal.stable_pin = None;
        rehearsal.canary_revision = Some("v2".to_owned());
    }
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job)).unwrap();
    assert_eq!(outcome(&probes).await.stage, RehearsalStage::AwaitingDrain);
    probes.shutdown().await;
}

/// A job in the dialect that needs nothing but WebSocket, which the example service answers like any other.
fn foreign(stage: &Stage, sessions: u32) -> ProbeJob {
    let mut job = job(stage, sessions);
    job.dial.dialect = Dialect::Ping;
    job
}

#[tokio::test]
async fn a_foreign_service_passes_by_its_pongs_and_its_close_code() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(foreign(&stage, 10))).unwrap();
    assert_eq!(outcome(&probes).await.stage, RehearsalStage::AwaitingDrain);
    let spare = stage.server("v2", "").await;
    stage.router.route("c", &spare);
    drain(&canary, 50.0, None).await;
    let report =
        eventually(|| Some(report(&probes)).filter(|r| r.stage != RehearsalStage::AwaitingDrain)).await;
    assert_eq!(report.stage, RehearsalStage::Passed);
    assert_eq!((report.figures.attempts, report.figures.restored), (30, 30));
    assert_eq!(report.figures.unannounced, 0);
    probes.shutdown().await;
}

#[tokio::test]
async fn a_foreign_service_that_cuts_fails() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(foreign(&stage, 5))).unwrap();
    assert_eq!(outcome(&probes).await.stage, RehearsalStage::AwaitingDrain);
    canary.shutdown().await;
    let failure = eventually(|| match report(&probes).stage {
        RehearsalStage::Failed(failure) => Some(failure),
        _ => None,
    })
    .await;
    assert_eq!(failure.check, "unannounced", "{}", failure.message);
}

#[tokio::test]
async fn a_foreign_service_that_only_a_signal_ends_is_not_asked_to_leave() {
    let stage = Stage::new().await;
    let (_stable, _canary) = stage.pair("").await;
    let mut job = foreign(&stage, 5);
    if let ProbeKind::Rehearsal(rehearsal) = &mut job.kind {
        rehearsal.drains = false;
    }
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job)).unwrap();
    assert_eq!(outcome(&probes).await.stage, RehearsalStage::Passed);
    probes.shutdown().await;
}

#[tokio::test]
async fn a_foreign_service_that_accepts_and_never_reads_is_mute() {
    let stage = Stage::new().await;
    let (_stable, _canary) = stage.pair("").await;
    let silent = stage::Silent::start().await;
    stage.router.route_to("c", silent.address);
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(foreign(&stage, 2))).unwrap();
    let RehearsalStage::Failed(failure) = outcome(&probes).await.stage else {
        panic!("not failed");
    };
    assert_eq!(failure.check, "firstMessage", "{}", failure.message);
}

/// A rehearsal of one scenario, on two pods of the canary.
async fn pair_of_pods(stage: &Stage) -> [session_server::Server; 2] {
    let pods = [
        stage.pod("pod-a", "v2", "").await,
        stage.pod("pod-b", "v2", "").await,
    ];
    stage
        .router
        .route_among("c", &[pods[0].traffic_addr(), pods[1].traffic_addr()]);
    pods
}

fn only(stage: &Stage, scenario: Scenario, acts: RehearsalActs) -> ProbeJob {
    let mut job = job(stage, 6);
    if let ProbeKind::Rehearsal(rehearsal) = &mut job.kind {
        rehearsal.scenarios = vec![scenario];
        rehearsal.acts = acts;
    }
    job
}

#[tokio::test]
async fn a_crash_is_waited_for_by_pod_and_the_operator_says_which_one_died() {
    let stage = Stage::new().await;
    let pods = pair_of_pods(&stage).await;
    let probes = ProbeSupervisor::new();
    let ensure = |acts| {
        probes
            .ensure("chat", Some(only(&stage, Scenario::Crash, acts)))
            .unwrap();
    };
    ensure(RehearsalActs::default());
    let RehearsalStage::AwaitingCrash(on) = outcome(&probes).await.stage else {
        panic!("not awaited");
    };
    assert_eq!(on.pods, [("pod-a".to_owned(), 3), ("pod-b".to_owned(), 3)].into());
    stage.router.route_among("c", &[pods[1].traffic_addr()]);
    pods[0].kill();
    ensure(RehearsalActs {
        crashed: Some("pod-a".to_owned()),
        ..RehearsalActs::default()
    });
    let report = eventually(|| Some(report(&probes)).filter(|r| r.stage == RehearsalStage::Passed)).await;
    assert_eq!(report.scenarios[0].figures.restored, 3, "{report:#?}");
    probes.shutdown().await;
}

#[tokio::test]
async fn a_crash_that_never_comes_is_skipped_with_what_was_in_the_way() {
    let stage = Stage::new().await;
    let _pods = pair_of_pods(&stage).await;
    let mut job = only(
        &stage,
        Scenario::Crash,
        RehearsalActs {
            hindrance: Some("users may be on it".to_owned()),
            ..RehearsalActs::default()
        },
    );
    if let ProbeKind::Rehearsal(rehearsal) = &mut job.kind {
        rehearsal.timeouts.drain = Duration::from_secs(1);
    }
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job)).unwrap();
    let report = eventually(|| Some(report(&probes)).filter(|r| r.stage == RehearsalStage::Passed)).await;
    let Some(ScenarioOutcome::Skipped { reason }) = &report.scenarios[0].outcome else {
        panic!("{report:#?}");
    };
    assert_eq!(reason, "it was waited for 1 s: users may be on it");
    probes.shutdown().await;
}
