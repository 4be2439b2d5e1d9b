//! Bad input: a clear message that names the field and the remedy, and nothing changed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use wsroll::api::RolloutStatus;

use crate::harness::{self, App, Case, PORT, reason_of, route};

/// How soon a person is told.
const TOLD: Duration = Duration::from_secs(20);

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn steps_that_do_not_rise_to_100_are_refused() {
    harness::run("steps", async |case| {
        let steps = |list: Value| App::version("v1").steps(&list);
        for (bad, says) in [
            (
                json!([{"weight": 50}, {"weight": 10}, {"weight": 100}]),
                "weights must rise",
            ),
            (
                json!([{"weight": 50}, {"weight": 50}, {"weight": 100}]),
                "weights must rise",
            ),
            (
                json!([{"weight": 10}, {"weight": 50}]),
                "the last step must have weight 100",
            ),
            (json!([]), "steps"),
            (
                json!([{"weight": 0}, {"weight": 100}]),
                "greater than or equal to 1",
            ),
        ] {
            let message = case.refused(&steps(bad.clone())).await?;
            ensure!(message.contains(says), "{bad}: {message}");
        }
        ensure!(
            case.snapshot()
                .await?
                .keys()
                .all(|k| !k.starts_with("replicaset")),
            "something was made"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn values_of_no_sense_are_refused() {
    harness::run("values", async |case| {
        let spec = |patch: Value| App::version("v1").patch(json!({"spec": patch}));
        for (bad, says) in [
            (
                json!({"probes": {"url": "http://chat.example.com/ws"}}),
                "ws:// or wss://",
            ),
            (
                json!({"probes": {"url": "ws://me:secret@chat.example.com/ws"}}),
                "no credentials",
            ),
            (json!({"probes": {"connectTo": "gateway"}}), "host:port"),
            (
                json!({"drain": {"budget": {"connectsPerSecond": 5, "overDuration": "1m"}}}),
                "not both",
            ),
            (json!({"drain": {"notice": {"closeCode": 1006}}}), "close code"),
            (json!({"rollbackWindow": "-5s"}), "rollbackWindow"),
            (json!({"traffic": {"port": 0}}), "port"),
            (json!({"traffic": {"routes": []}}), "routes"),
        ] {
            let message = case.refused(&spec(bad.clone())).await?;
            ensure!(message.contains(says), "{bad}: {message}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_template_that_is_none_is_named() {
    let app = App::version("v1").patch(json!({"spec": {"template": {"spec": {"containers": "chat:1"}}}}));
    stalls(
        "template",
        &app,
        "InvalidSpec",
        &["spec.template", "not a pod template"],
        async |_| Ok(()),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_template_that_the_api_server_refuses_is_named() {
    let app = App::version("v1").patch(json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}));
    stalls(
        "refused",
        &app,
        "TemplateInvalid",
        &["spec.template", "restartPolicy"],
        async |_| Ok(()),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_port_that_pods_do_not_have_is_named() {
    let app = App::version("v1").patch(json!({"spec": {"traffic": {"port": 9090}}}));
    stalls(
        "port",
        &app,
        "InvalidSpec",
        &["spec.traffic.port", "9090", "8080"],
        async |_| Ok(()),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_route_that_does_not_exist_is_named() {
    let app = App::version("v1").patch(json!({"spec": {"traffic": {"routes": [{"name": "chatt"}]}}}));
    stalls(
        "noroute",
        &app,
        "RouteNotFound",
        &["chatt", "chat-a"],
        async |_| Ok(()),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_route_to_somebody_else_is_named_and_left_alone() {
    let app = App::version("v1");
    stalls(
        "foreign",
        &app,
        "ForeignBackend",
        &["chat", "chat-a"],
        async |case| {
            let mut foreign = route(case);
            foreign["spec"]["rules"][0]["backendRefs"] = json!([{"name": "redis", "port": 6379}]);
            case.apply_raw(&foreign).await?;
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_service_that_would_lead_users_to_a_rehearsal_stops_the_release_until_it_is_accepted() {
    harness::run("service", async |case| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "legacy", "namespace": case.namespace},
            "spec": {"selector": {"app": "chat"}, "ports": [{"port": PORT}]},
        });
        case.apply_raw(&service).await?;
        let before = case.snapshot().await?;
        case.apply(&App::version("v1")).await?;
        let status = until_stalled(case, "ServiceSelectsRehearsal").await?;
        let (.., message) = reason_of(&status, "Stalled");
        ensure!(
            message.contains("legacy") && message.contains("wsroll.dev/role"),
            "{message}"
        );
        ensure!(case.snapshot().await? == before, "something was changed");
        let accepted = json!({"metadata": {"annotations": {"wsroll.dev/acknowledge": "service/legacy"}}});
        case.apply(&App::version("v1").patch(accepted)).await?;
        case.until_phase("Healthy", Duration::from_secs(60)).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_token_that_is_missing_is_named_and_awaited() {
    harness::run("notoken", async |case| {
        let elsewhere = json!({"spec": {"probes": {"tokenFrom": {"secretKeyRef": {"name": "elsewhere", "key": "token"}}}}});
        let before = case.snapshot().await?;
        case.apply(&App::version("v1").patch(elsewhere)).await?;
        let status = until_stalled(case, "SecretMissing").await?;
        let (.., message) = reason_of(&status, "Stalled");
        ensure!(message.contains("elsewhere") && message.contains("spec.probes.tokenFrom"), "{message}");
        ensure!(case.snapshot().await? == before, "something was changed");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "elsewhere", "namespace": case.namespace},
            "stringData": {"token": "x"},
        });
        case.apply_raw(&secret).await?;
        case.until_phase("Healthy", Duration::from_secs(60)).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_second_rollout_for_a_route_waits() {
    harness::run("contested", async |case| {
        case.serve(&App::version("v1")).await?;
        let before = case.snapshot().await?;
        let second = App::version("v1").patch(json!({"metadata": {"name": "second"}}));
        case.apply(&second).await?;
        let (reason, message) = stalled_of(case, "second").await?;
        ensure!(
            reason == "RouteContested" && message.contains("belongs to the rollout \"chat\""),
            "{reason}: {message}"
        );
        ensure!(case.snapshot().await? == before, "something was changed");
        case.serves(5).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn an_unreadable_object_does_not_hold_up_the_others() {
    harness::run("unreadable", async |case| {
        let broken = App::version("v1").patch(json!({
            "metadata": {"name": "broken"},
            "spec": {"traffic": {"routes": [{"name": "broken"}]}},
        }));
        case.apply(&broken).await?;
        stalled_of(case, "broken").await?;
        // A time that the schema takes and no calendar of ours does: as a later version might have written it.
        let far = json!({"status": {"state": {"initializing": {"since": "9999-12-31T23:59:59-12:00"}}}});
        case.rollouts_raw()
            .patch_status("broken", &PatchParams::default(), &Patch::Merge(&far))
            .await
            .context("the schema does not take it")?;
        case.poll("the broken one to be named", TOLD, async || {
            let (reason, message) = stalled_of(case, "broken").await?;
            Ok(reason == "InvalidSpec" && message.contains("cannot be read"))
        })
        .await?;
        case.serve(&App::version("v1")).await?;
        case.apply(&App::version("v2")).await?;
        case.until_released(1, Duration::from_secs(150)).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_wrong_probe_url_holds_the_release_before_anything_moves() {
    harness::run("probeurl", async |case| {
        case.serve(&App::version("v1")).await?;
        let load = case.load(50).await?;
        let url = format!("ws://{}/elsewhere", case.host);
        case.apply(&App::version("v2").patch(json!({"spec": {"probes": {"url": url}}})))
            .await?;
        let status = case
            .until("the URL to be named", Duration::from_secs(30), |s| {
                reason_of(s, "Ready").2.contains("spec.probes.url")
            })
            .await?;
        ensure!(status.phase.as_deref() == Some("Preflight"), "{:?}", status.phase);
        ensure!(case.greatest_weight(1) == 0, "{}", case.story());
        load.stop().await?.untouched()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_template_that_never_becomes_ready_is_rolled_back() {
    harness::run("neverready", async |case| {
        case.serve(&App::version("v1")).await?;
        let load = case.load(50).await?;
        let app = App::version("v2")
            .fault("no-such-fault")
            .patch(json!({"spec": {"progressDeadline": "10s"}}));
        case.apply(&app).await?;
        let back = case.until_rolled_back(Duration::from_secs(60)).await?;
        let (stalled, _, message) = reason_of(&back, "Stalled");
        ensure!(
            stalled && message.contains("ProgressDeadlineExceeded"),
            "{message}"
        );
        ensure!(message.contains("0 of") && message.contains("ready"), "{message}");
        ensure!(case.greatest_weight(1) == 0, "{}", case.story());
        load.stop().await?.untouched()
    })
    .await;
}

/// Applied in a state of the cluster that `prepare` makes, the rollout stalls for this reason and nothing is changed.
async fn stalls(
    name: &str,
    app: &App,
    reason: &str,
    says: &[&str],
    prepare: impl AsyncFn(&Case) -> Result<()>,
) {
    harness::run(name, async |case| {
        prepare(case).await?;
        let before = case.snapshot().await?;
        case.apply(app).await?;
        let status = until_stalled(case, reason).await?;
        let (.., message) = reason_of(&status, "Stalled");
        for part in says {
            ensure!(message.contains(part), "{part:?} is not in: {message}");
        }
        let (ready, ready_reason, _) = reason_of(&status, "Ready");
        ensure!(!ready && ready_reason == reason, "Ready={ready} {ready_reason}");
        ensure!(case.snapshot().await? == before, "something was changed");
        Ok(())
    })
    .await;
}

async fn until_stalled(case: &Case, reason: &str) -> Result<RolloutStatus> {
    case.until(&format!("Stalled={reason}"), TOLD, |s| {
        let (stalled, told, _) = reason_of(s, "Stalled");
        stalled && told == reason
    })
    .await
}

/// Reason and message of another rollout's condition, as soon as it is stalled.
async fn stalled_of(case: &Case, name: &str) -> Result<(String, String)> {
    let stalled = async || -> Result<Option<(String, String)>> {
        let rollout = case.rollouts_raw().get(name).await?;
        let conditions = rollout
            .data
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .cloned();
        let found = conditions
            .unwrap_or_default()
            .into_iter()
            .find(|c| c["type"] == "Stalled" && c["status"] == "True");
        let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
        Ok(found.map(|c| (text(&c, "reason"), text(&c, "message"))))
    };
    case.poll(&format!("{name} to be stalled"), TOLD, async || {
        Ok(stalled().await?.is_some())
    })
    .await?;
    stalled().await?.context("it is no longer stalled")
}
