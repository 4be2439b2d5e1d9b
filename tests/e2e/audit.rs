//! A release can be read back: by `history`, by `report`, and from the audit trail, line by line.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::{ListParams, LogParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::process::Command;
use wsroll::report::audit::{AuditRecord, Event};

use crate::harness::{self, App, Case, NAME};

/// A whole release, on two busy cores.
const RELEASE: Duration = Duration::from_secs(150);
/// The operator's Deployment, as it is shipped.
const OPERATOR: &str = "wsroll-operator";

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_release_can_be_read_back_with_every_order() {
    harness::run("audit", async |case| {
        audit_to_stdout(case).await?;
        case.serve(&App::version("v1")).await?;
        let load = case.load(100).await?;
        case.apply(&App::version("v2")).await?;
        let done = case.until_released(1, RELEASE).await?;
        load.stop().await?.unharmed(1)?;
        let to = done.release.map(|r| r.canary).or(done.stable).unwrap_or_default();
        // The story's last phase is written after the status.
        case.poll("the story to be kept", Duration::from_secs(20), async || {
            let kept = case.api::<ConfigMap>().get_opt("chat-releases").await?;
            let story = kept.and_then(|map| map.data?.remove("release-1.json"));
            Ok(story.is_some_and(|text| text.contains("Soaking") || text.contains("Completed")))
        })
        .await?;

        let rows: Value = serde_json::from_str(&wsroll(case, &["history", NAME, "-o", "json"]).await?)?;
        ensure!(
            rows[0]["release"] == 1 && rows[0]["revision"] == json!(to),
            "{rows}"
        );
        ensure!(rows[0]["unannounced"] == 0, "{rows}");
        ensure!(rows[0]["moved"].as_i64() >= Some(100), "{rows}");

        let page = wsroll(case, &["report", NAME, "-o", "markdown"]).await?;
        for part in [
            "# ",
            "## Timeline",
            "## Waves",
            "## What to look at",
            "Rehearsing",
            "Moving, step",
            &to,
        ] {
            ensure!(page.contains(part), "{part} is not in\n{page}");
        }

        // Returns are told when they are read, which is a round or two later.
        case.poll("the trail to be whole", Duration::from_secs(20), async || {
            Ok(orders(&trail(case).await?).is_ok())
        })
        .await
        .ok();
        let trail = trail(case).await?;
        orders(&trail)?;
        let file = std::env::temp_dir().join(format!("{}.jsonl", case.namespace));
        let lines: Vec<String> = trail
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        std::fs::write(&file, lines.join("\n"))?;
        let path = file.display().to_string();
        let told = wsroll(
            case,
            &[
                "report",
                NAME,
                "--release",
                "1",
                "--audit-file",
                &path,
                "-o",
                "json",
            ],
        )
        .await;
        let _ = std::fs::remove_file(&file);
        let told: Value = serde_json::from_str(&told?)?;
        ensure!(told["story"]["to"] == json!(to), "{}", told["story"]);
        ensure!(told["skipped"] == 0 && told["lost"] == 0, "{told}");
        Ok(())
    })
    .await;
}

/// Every session that was moved is told, under an order that was told before.
fn orders(trail: &[AuditRecord]) -> Result<()> {
    let (mut given, mut last) = (Vec::new(), BTreeMap::new());
    let (mut released, mut returned) = (0, 0);
    for record in trail {
        match &record.event {
            Event::OrderGiven(data) => {
                ensure!(record.pod.is_some() && record.release == Some(1), "{record:?}");
                given.push(data.order.clone());
            }
            Event::Progress { order, total, .. } => _ = last.insert(order.clone(), *total),
            Event::SessionReleased { .. } => released += 1,
            Event::SessionReturned { stray, .. } => returned += i32::from(!stray),
            Event::Unannounced { .. } => anyhow::bail!("{record:?}"),
            _ => {}
        }
    }
    ensure!(!given.is_empty(), "no order was told");
    let mut once = given.clone();
    once.sort();
    once.dedup();
    ensure!(once.len() == given.len(), "an order was told twice: {given:?}");
    ensure!(
        last.keys().all(|order| given.contains(order)),
        "{last:?} of {given:?}"
    );
    let waves = last.iter().filter(|(order, _)| order.contains("-w"));
    let closed: u64 = waves
        .map(|(_, total)| total.closed_clean + total.closed_forced)
        .sum();
    ensure!(closed >= 100, "{closed} sessions were closed: {last:?}");
    ensure!(
        released >= 100 && returned >= 100,
        "{released} released, {returned} returned"
    );
    let phases: Vec<&str> = trail
        .iter()
        .filter_map(|r| match &r.event {
            Event::Phase { to, .. } => Some(to.as_str()),
            _ => None,
        })
        .collect();
    ensure!(
        phases.contains(&"Preflight") && phases.contains(&"Soaking"),
        "{phases:?}"
    );
    Ok(())
}

/// Has the operator write its trail, and waits for the new one.
async fn audit_to_stdout(case: &Case) -> Result<()> {
    let env = json!([{"name": "WSROLL_AUDIT", "value": "stdout"}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "operator", "env": env}]}}}});
    case.api::<Deployment>()
        .patch(OPERATOR, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    case.poll("the operator with a trail", Duration::from_secs(60), async || {
        let deployment = case.api::<Deployment>().get(OPERATOR).await?;
        let seen = deployment.status.as_ref().and_then(|s| s.observed_generation);
        let status = deployment.status.clone().unwrap_or_default();
        Ok(seen == deployment.metadata.generation
            && status.updated_replicas == Some(1)
            && status.replicas == Some(1)
            && status.ready_replicas == Some(1))
    })
    .await
}

/// The records in the operator's output; its logs are between them.
async fn trail(case: &Case) -> Result<Vec<AuditRecord>> {
    let pods = case.api::<Pod>();
    let operators = ListParams::default().labels("app.kubernetes.io/component=operator");
    let mut records = Vec::new();
    for pod in pods.list(&operators).await? {
        let log = pods.logs(&pod.name_any(), &LogParams::default()).await?;
        records.extend(
            log.lines()
                .filter_map(|line| serde_json::from_str::<AuditRecord>(line).ok()),
        );
    }
    Ok(records)
}

/// Runs the program as a user does.
async fn wsroll(case: &Case, args: &[&str]) -> Result<String> {
    let output = Command::new(&case.settings.wsroll)
        .args(args)
        .args(["--namespace", &case.namespace])
        .output()
        .await
        .context("failed to start wsroll")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "wsroll {}: {told}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}
