//! How live sessions leave their pods: at whose word, at which pace, and what happens when something stands in the way.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use wsroll::api::RolloutStatus;
use wsroll::api::status::Verb;

use crate::harness::{self, App, Case, reason_of};

/// A whole release, on two busy cores.
const RELEASE: Duration = Duration::from_secs(180);

/// One step: everybody moves at once, as fast as the budget allows.
fn at_once(version: &str) -> App {
    App::version(version).steps(&json!([{"weight": 100, "pause": {"duration": "1s"}}]))
}

/// The same, let go of by the sidecar, which gives notice to clients that declared it: the example service is asked nothing and
/// reports nothing.
fn by_sidecar(version: &str) -> App {
    at_once(version).patch(json!({"spec": {"drain": {
        "via": "Sidecar",
        "notice": {"hint": "None"},
        "sidecar": {"notices": [{"declaredByQuery": "notice=wsroll.v1"}]},
    }}}))
}

fn budget(per_second: u32) -> Value {
    json!({"spec": {"drain": {"budget": {"connectsPerSecond": per_second}}}})
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn without_an_operator_pods_stand_still_when_their_lease_ends_and_go_on_when_it_is_back() {
    stands_still("lease", at_once).await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn without_an_operator_sidecars_stand_still_as_well() {
    stands_still("lease-sidecar", by_sidecar).await;
}

async fn stands_still(name: &str, app: fn(&str) -> App) {
    harness::run(name, async |case| {
        case.serve(&app("v1").patch(budget(3))).await?;
        let mut load = case.load(200).await?;
        case.apply(&app("v2").patch(budget(3))).await?;
        let moving = case.until_in_wave(1, RELEASE).await?;
        case.lose_operator().await?;
        // Until the lease is over the pods go on with what they were told.
        load.until_quiet(Duration::from_secs(5), Duration::from_secs(60))
            .await?;
        let canary = canary(&moving);
        let there = load.now().and_then(|now| now.revisions.get(&canary).copied());
        ensure!(
            there.is_some_and(|n| n < 150),
            "{there:?} of 200 sessions were moved without an operator"
        );
        // The rest may go faster: the budget is one of the edits that count in a release.
        case.apply(&app("v2").patch(budget(50))).await?;
        case.scale_operator(1).await?;
        case.until_released(1, RELEASE).await?;
        load.until_all_on(&canary, Duration::from_secs(10)).await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_cancelled_order_leaves_the_rest_where_it_is_whatever_the_application_says_of_its_sessions() {
    harness::run("cancel", async |case| {
        // It would say that there is nobody: the sidecar sees for itself.
        let app = |version| by_sidecar(version).fault("lie").patch(budget(10));
        case.serve(&app("v1")).await?;
        let mut load = case.load(200).await?;
        case.apply(&app("v2")).await?;
        case.until_in_wave(1, RELEASE).await?;
        case.request(Verb::Pause).await?;
        let paused = case.until_phase("Paused", Duration::from_secs(5)).await?;
        load.until_quiet(Duration::from_secs(3), Duration::from_secs(15))
            .await?;
        let canary = canary(&paused);
        let there = load.now().and_then(|now| now.revisions.get(&canary).copied());
        ensure!(
            there.is_some_and(|n| (1..150).contains(&n)),
            "{there:?} of 200 sessions were moved in spite of the pause"
        );
        case.request(Verb::Abort).await?;
        let back = case.until_rolled_back(RELEASE).await?;
        load.until_all_on(&back.stable.unwrap_or_default(), Duration::from_secs(10))
            .await?;
        let counted = load.stop().await?;
        counted.unharmed(2)?;
        // Who was not asked before the pause was not asked at all.
        ensure!(
            counted.announced_disconnects <= 2 * there.unwrap_or_default() + 10,
            "{there:?} had moved: {counted:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn the_pace_settles_at_what_reconnects_can_bear() {
    harness::run("adaptive", async |case| {
        let app = |version| {
            at_once(version)
                .fault("restore-per-second=10")
                .patch(budget(50))
                .patch(json!({"spec": {
                    "probes": {"recycle": "2s"},
                    "thresholds": {"reconnectTime": {"noise": "6s"}, "reconnectSuccess": {"window": "60s", "minSamples": 15}},
                }}))
        };
        case.serve(&app("v1")).await?;
        // Slowly opened: what restores slowly welcomes newcomers at once.
        let mut load = case.load(300).await?;
        case.apply(&app("v2")).await?;
        let done = case.until_released(1, RELEASE).await?;
        load.until_all_on(&canary(&done), Duration::from_secs(30)).await?;
        load.stop().await?.unharmed(1)?;
        let paces: Vec<f64> = case
            .statuses()
            .iter()
            .filter_map(|s| Some(s.drain.as_ref()?.pace.as_ref()?.limit))
            .collect();
        let least = paces.iter().copied().fold(f64::INFINITY, f64::min);
        ensure!(
            (1.0..50.0).contains(&least),
            "the pace never left the budget, or fell to nothing: {paces:?}"
        );
        let named = |s: &RolloutStatus| {
            let drain = s.drain.as_ref()?;
            drain.pace.as_ref()?.reason.clone()
        };
        ensure!(
            case.statuses().iter().any(|s| named(s).is_some()),
            "nobody was told why"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn by_signal_one_pod_goes_at_a_time_and_the_next_when_its_clients_are_back() {
    harness::run("signal", async |case| {
        let app = |version| {
            at_once(version).patch(json!({"spec": {"drain": {
                "via": "Signal",
                "sessionsFrom": {"port": 8080, "path": "/metrics", "metric": "session_server_open_sockets"},
                "notice": {"hint": "None", "reconnectWindow": "2s"},
            }}}))
        };
        case.serve(&app("v1")).await?;
        let mut load = case.load(90).await?;
        case.apply(&app("v2")).await?;
        let (done, most) = most_going(case, case.until_released(1, RELEASE)).await;
        let done = done?;
        ensure!(most <= 1, "{most} pods went at one time");
        let waves = waves(case);
        ensure!(
            waves.iter().all(|(_, pods)| pods.len() == 1),
            "more than a pod in a wave: {waves:?}"
        );
        load.until_all_on(&canary(&done), Duration::from_secs(15)).await?;
        let counted = load.stop().await?;
        by_the_application(&counted)?;
        ensure!(
            counted.messages_lost == 0 && counted.state_lost == 0,
            "{counted:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn who_does_not_answer_the_protocol_goes_by_signal_only_when_accepted_and_unknown_only_at_the_deadline()
{
    harness::run("auto", async |case| {
        let go = case.stranger("go").await?;
        let server = go.server(&[], "/ws").patch(json!({"spec": {
            "replicas": 2,
            "drain": {"via": "Auto", "deadline": "8s", "notice": {"hint": "None", "reconnectWindow": "1s"}},
            "steps": [{"weight": 100, "pause": {"duration": "1s"}}],
        }}));
        case.serve_stranger(&server, &server.version("v1")).await?;
        let mut clients = go.program(None);
        clients.args(["hold", "--url", &case.url("ws", "/ws")]);
        let mut load = case.hold(clients, 30).await?;
        case.apply_stranger(&server, &server.version("v2")).await?;
        let waiting = case
            .until("the choice to be asked for", RELEASE, |s| {
                reason_of(s, "Stalled").1 == "SignalNotAccepted"
            })
            .await?;
        let (_, _, message) = reason_of(&waiting, "Stalled");
        ensure!(
            message.contains("promote") && message.contains("Sidecar"),
            "no remedy: {message}"
        );
        ensure!(case.greatest_weight(1) == 0, "somebody was moved");
        case.request(Verb::Promote).await?;
        case.until_released(1, RELEASE).await?;
        load.until_all_on("v2", Duration::from_secs(15)).await?;
        let early: Vec<_> = waves(case)
            .into_iter()
            .filter(|(elapsed_ms, _)| *elapsed_ms < 8_000)
            .collect();
        ensure!(
            early.is_empty(),
            "pods whose sessions nobody knew went before their deadline: {early:?}"
        );
        let counted = load.stop().await?;
        ensure!(counted.max_disconnects_per_session <= 1, "{counted:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn sessions_that_nobody_may_cut_keep_their_revision_and_the_release_that_needs_its_place_waits() {
    harness::run("leave", async |case| {
        let app = |version| {
            at_once(version).patch(json!({"spec": {
                "replicas": 2,
                "drain": {"mode": "Leave", "deadline": "1h", "notice": {"hint": "None"}},
                "rollbackWindow": "1s",
            }}))
        };
        case.serve(&app("v1")).await?;
        let first = case.load(20).await?;
        case.apply(&app("v2")).await?;
        let v1 = case.until_released(1, RELEASE).await?.release.map(|r| r.stable);
        case.until_phase("Healthy", Duration::from_secs(30)).await?;
        let second = case.load(20).await?;
        case.apply(&app("v3")).await?;
        case.until_released(2, RELEASE).await?;
        case.until_phase("Healthy", Duration::from_secs(30)).await?;
        // Three slots: one serves, two hold sessions.
        case.apply(&app("v4")).await?;
        let v1 = v1.context("there was no first release")?;
        let waiting = case
            .until("the release to wait", Duration::from_secs(60), |s| {
                reason_of(s, "Reconciling").2.contains(&v1) || reason_of(s, "Ready").2.contains(&v1)
            })
            .await?;
        let leaving = waiting.leaving.iter().find(|l| l.revision == v1);
        ensure!(
            leaving.is_some_and(|l| l.sessions == 20),
            "who is waited for is not told: {:?}",
            waiting.leaving
        );
        first.stop().await?.untouched()?;
        case.until_released(3, RELEASE).await?;
        second.stop().await?.untouched()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn in_a_window_sessions_land_on_the_new_revision_without_a_hint() {
    harness::run("window", async |case| {
        let app = |version| {
            App::version(version)
                .steps(&json!([
                    {"weight": 50, "pause": {"duration": "2s"}, "moveSessions": "Window"},
                    {"weight": 100, "pause": {"duration": "1s"}},
                ]))
                .patch(json!({"spec": {"drain": {"notice": {"hint": "None", "reconnectWindow": "1s"}}}}))
        };
        case.serve(&app("v1")).await?;
        let mut load = case.load(200).await?;
        case.apply(&app("v2")).await?;
        let done = case.until_released(1, RELEASE).await?;
        let statuses = case.statuses();
        let half = statuses
            .iter()
            .rfind(|s| s.phase.as_deref() == Some("Analysing") && s.step.as_deref() == Some("1/2"))
            .context("the first step was never watched")?;
        let moved: i64 = half
            .revisions
            .iter()
            .filter(|r| r.role == "canary")
            .map(|r| r.sessions)
            .sum();
        ensure!(moved >= 80, "{moved} of 200 sessions were moved at half way");
        ensure!(
            statuses
                .iter()
                .filter_map(|s| s.wave.as_ref())
                .any(|w| w.window.is_some()),
            "no window was ever told of"
        );
        load.until_all_on(&canary(&done), Duration::from_secs(10)).await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn an_operator_with_another_sidecar_moves_nobody() {
    harness::run("frozen", async |case| {
        case.serve(&by_sidecar("v1")).await?;
        let load = case.load(60).await?;
        let before = case.snapshot().await?;
        case.restart_operator_with("WSROLL_SIDECAR_IMAGE", "registry.invalid/another:2")
            .await?;
        let settings = json!({"spec": {"drain": {"sidecar": {"limits": {"connections": 77}}}}});
        case.apply(&by_sidecar("v1").patch(settings)).await?;
        // Who has answered a request has seen the rollout and decided.
        let refused = case.request(Verb::Promote).await.unwrap_err().to_string();
        ensure!(refused.contains("nothing to promote"), "{refused}");
        let after = case.snapshot().await?;
        ensure!(before == after, "it changed {before:?} to {after:?}");
        load.stop().await?.untouched()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn evicted_pods_let_their_sessions_go_in_turn() {
    harness::run("evicted", async |case| {
        case.serve(&by_sidecar("v1")).await?;
        let mut load = case.load(300).await?;
        let before: BTreeSet<String> = case
            .pods()
            .await?
            .iter()
            .map(kube::ResourceExt::name_any)
            .collect();
        // As `kubectl drain` does with the pods of a node: two of three were on it.
        let gone: Vec<&String> = before.iter().take(2).collect();
        for pod in &gone {
            case.evict(pod).await?;
        }
        case.poll("the pods to be replaced", Duration::from_secs(90), async || {
            let now = case.pods().await?;
            let left = now.iter().filter(|p| gone.contains(&&p.name_any())).count();
            Ok(left == 0 && now.len() == 3)
        })
        .await?;
        load.until("all sessions to be open", Duration::from_secs(20), |now, all| {
            now.open == all
        })
        .await?;
        let counted = load.stop().await?;
        // A session may come to the other pod that goes before the gateway has heard of it.
        counted.unharmed(2)?;
        ensure!(
            counted.announced_disconnects >= 100,
            "the pods had hardly any sessions: {counted:?}"
        );
        Ok(())
    })
    .await;
}

fn canary(status: &RolloutStatus) -> String {
    let release = status.release.as_ref();
    release.map_or_else(|| status.stable.clone().unwrap_or_default(), |r| r.canary.clone())
}

/// Every wave of a release that was seen: how long it ran under an operator, in milliseconds, and its pods.
fn waves(case: &Case) -> Vec<(i64, Vec<String>)> {
    let mut found: Vec<(String, i64, Vec<String>)> = Vec::new();
    for wave in case.statuses().into_iter().filter_map(|s| s.wave) {
        let pods = wave.pods.iter().map(|p| p.name.clone()).collect();
        match found.last_mut() {
            Some(last) if last.0 == wave.id => *last = (wave.id, wave.elapsed_ms, pods),
            _ => found.push((wave.id, wave.elapsed_ms, pods)),
        }
    }
    found
        .into_iter()
        .map(|(_, elapsed, pods)| (elapsed, pods))
        .collect()
}

/// The outcome, and the most pods that were terminating at one time meanwhile.
async fn most_going<T>(case: &Case, outcome: impl Future<Output = T>) -> (T, usize) {
    let mut most = 0;
    let count = async {
        let mut look = tokio::time::interval(Duration::from_millis(200));
        loop {
            look.tick().await;
            if let Ok(pods) = case.pods().await {
                let going = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some());
                most = most.max(going.count());
            }
        }
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = count => unreachable!("counts for ever"),
    };
    (outcome, most)
}

/// The application's own goodbye on SIGTERM, once for each session, and never a cut.
fn by_the_application(counted: &harness::Summary) -> Result<()> {
    ensure!(
        counted.max_disconnects_per_session <= 1 && counted.close_codes.keys().all(|code| code == "1001"),
        "{counted:?}"
    );
    Ok(())
}
