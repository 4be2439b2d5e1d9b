//! Fleets: what they see of healthy and broken revisions while they run.

use std::time::Duration;

use jiff::Timestamp;
use wsroll::engine::evidence::{ProbeEvidence, ProbeTarget};
use wsroll::probe::{FleetJob, ProbeJob, ProbeKind, ProbeSupervisor, Seen, Sight, sight};
use wsroll::session::Failure;

use crate::stage::{Stage, drain, eventually, pin};

/// Four sessions on each revision that reconnect every second.
fn job(stage: &Stage, run: &str) -> ProbeJob {
    let targets = vec![
        (ProbeTarget::Stable, Some(pin("s"))),
        (ProbeTarget::Canary, Some(pin("c"))),
    ];
    let mut fleet = FleetJob::new(targets);
    fleet.recycle = Duration::from_secs(1);
    fleet.window = Duration::from_mins(1);
    fleet.health_timeout = Duration::from_secs(1);
    ProbeJob {
        run: run.to_owned(),
        since: Timestamp::UNIX_EPOCH,
        dial: stage.dial(),
        sessions: 4,
        kind: ProbeKind::Fleet(fleet),
    }
}

fn evidence(probes: &ProbeSupervisor, target: ProbeTarget) -> ProbeEvidence {
    match probes.observe("chat").unwrap().seen {
        Seen::Fleet(evidence) => evidence
            .into_iter()
            .find(|evidence| evidence.target == target)
            .unwrap(),
        Seen::Rehearsal(_) => panic!("not a fleet"),
    }
}

async fn canary_once(probes: &ProbeSupervisor, seen: impl Fn(&ProbeEvidence) -> bool) -> ProbeEvidence {
    eventually(|| Some(evidence(probes, ProbeTarget::Canary)).filter(&seen)).await
}

#[tokio::test]
async fn healthy_revisions_give_reconnects_without_failures() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, "f-1"))).unwrap();
    let seen = canary_once(&probes, |seen| seen.total.restored >= 12).await;
    let stable = evidence(&probes, ProbeTarget::Stable);
    for seen in [seen, stable] {
        assert_eq!((seen.total.failed, seen.total.state_lost), (0, 0), "{seen:?}");
        assert_eq!(seen.total.unannounced, 0);
        assert_eq!(seen.last_failure, None);
        assert!(seen.window.restored_p50_ms <= seen.window.restored_p95_ms);
    }
    // The same run again changes nothing; no run stops it.
    let before = evidence(&probes, ProbeTarget::Canary).total.restored;
    probes.ensure("chat", Some(job(&stage, "f-1"))).unwrap();
    assert!(evidence(&probes, ProbeTarget::Canary).total.restored >= before);
    probes.ensure("chat", None).unwrap();
    assert!(probes.observe("chat").is_none());
    eventually(|| (canary.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_drain_is_no_failure() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, "f-1"))).unwrap();
    canary_once(&probes, |seen| seen.open == 4).await;
    let spare = stage.server("v2", "").await;
    stage.router.route("c", &spare);
    drain(&canary, 20.0, None).await;
    eventually(|| (canary.open() == 0 && spare.open() == 4).then_some(())).await;
    let seen = canary_once(&probes, |seen| seen.open == 4).await;
    assert_eq!((seen.total.failed, seen.total.unannounced), (0, 0), "{seen:?}");
    probes.shutdown().await;
}

#[tokio::test]
async fn a_crash_is_unannounced_and_fails_in_a_row() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, "f-1"))).unwrap();
    canary_once(&probes, |seen| seen.open == 4).await;
    canary.kill();
    let seen = canary_once(&probes, |seen| seen.failures_in_a_row > 3).await;
    assert!(seen.total.unannounced >= 1, "{seen:?}");
    let stable = evidence(&probes, ProbeTarget::Stable);
    assert_eq!((stable.total.failed, stable.failures_in_a_row), (0, 0));
    probes.shutdown().await;
}

#[tokio::test]
async fn a_mute_canary_shows_within_seconds() {
    let stage = Stage::new().await;
    let (_stable, _canary) = stage.pair("mute").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, "f-1"))).unwrap();
    let seen = canary_once(&probes, |seen| seen.failures_in_a_row > 3).await;
    assert_eq!((seen.total.restored, seen.open), (0, 0));
    assert_eq!(seen.total.success_percent(), Some(0.0));
    probes.shutdown().await;
}

#[tokio::test]
async fn a_forgetful_canary_loses_state() {
    let stage = Stage::new().await;
    let (_stable, _canary) = stage.pair("forget").await;
    let probes = ProbeSupervisor::new();
    probes.ensure("chat", Some(job(&stage, "f-1"))).unwrap();
    let seen = canary_once(&probes, |seen| seen.total.state_lost > 0).await;
    let sentence = seen.last_failure.unwrap();
    assert!(sentence.starts_with("state lost"), "{sentence}");
    assert_eq!(evidence(&probes, ProbeTarget::Stable).total.state_lost, 0);
    probes.shutdown().await;
}

#[tokio::test]
async fn a_look_tells_who_answers() {
    let stage = Stage::new().await;
    let (_stable, canary) = stage.pair("").await;
    let limit = Duration::from_secs(3);
    let revisions = |seen: Vec<Result<Sight, Failure>>| -> Vec<Result<String, Failure>> {
        seen.into_iter().map(|s| s.map(|s| s.revision)).collect()
    };
    let seen = sight(&stage.dial(), None, 3, limit).await.unwrap();
    assert_eq!(revisions(seen), vec![Ok("v1".to_owned()); 3]);
    let seen = sight(&stage.dial(), Some(&pin("c")), 2, limit).await.unwrap();
    assert_eq!(revisions(seen), vec![Ok("v2".to_owned()); 2]);
    eventually(|| (canary.open() == 0).then_some(())).await;
    let seen = sight(&stage.dial(), Some(&pin("x")), 1, limit).await.unwrap();
    assert_eq!(revisions(seen), [Err(Failure::Refused { status: 503 })]);
}
