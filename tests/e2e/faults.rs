//! What goes wrong around a release: the operator, its way to others, its objects, the room for its pods. Held sessions say
//! whether anybody noticed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use wsroll::api::status::Verb;

use crate::harness::{self, App, Case, Partition, reason_of};

/// A whole release with faults in the middle, on two busy cores.
const RELEASE: Duration = Duration::from_secs(240);

/// One step, so that a release with a fault in each of its phases is done in time.
fn one_step(version: &str) -> App {
    App::version(version).steps(
        &json!([{"weight": 50, "pause": {"duration": "1s"}}, {"weight": 100, "pause": {"duration": "1s"}}]),
    )
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn an_operator_that_is_killed_in_every_phase_brings_the_release_to_its_end() {
    harness::run("every-phase", async |case| {
        case.serve(&one_step("v1")).await?;
        let mut load = case.load(100).await?;
        case.apply(&one_step("v2")).await?;
        let phases = [
            "Preflight",
            "Surging",
            "Rehearsing",
            "Shifting",
            "Moving",
            "Analysing",
            "Finishing",
        ];
        let mut killed = Vec::new();
        loop {
            let now = case
                .until_or(
                    "a phase in which nobody was killed yet",
                    RELEASE,
                    |s| {
                        let phase = s.phase.as_deref().unwrap_or_default();
                        let over = s.releases == 1 && matches!(phase, "Soaking" | "Healthy");
                        over || (phases.contains(&phase) && !killed.iter().any(|k| k == phase))
                    },
                    |s| matches!(s.phase.as_deref(), Some("RollingBack" | "RolledBack")),
                )
                .await?;
            let phase = now.phase.clone().unwrap_or_default();
            if !phases.contains(&phase.as_str()) {
                break;
            }
            case.kill_operator().await?;
            killed.push(phase);
        }
        // Phases that pass between two looks cannot be met; most are.
        ensure!(killed.len() >= 4, "killed in {killed:?} only");
        let done = case.until_released(1, RELEASE).await?;
        load.until_all_on(&done.stable.unwrap_or_default(), Duration::from_secs(10))
            .await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn of_two_operators_the_other_goes_on_when_the_leader_dies() {
    harness::run("two", async |case| {
        case.serve(&App::version("v1").slowly()).await?;
        case.scale_operator(2).await?;
        let mut load = case.load(150).await?;
        case.apply(&App::version("v2").slowly()).await?;
        case.until_in_wave(2, RELEASE).await?;
        let first = case.leader().await?;
        case.kill_pod(&first).await?;
        case.poll("another leader", Duration::from_secs(40), async || {
            Ok(case.leader().await? != first)
        })
        .await?;
        let done = case.until_released(1, RELEASE).await?;
        load.until_all_on(&done.stable.unwrap_or_default(), Duration::from_secs(10))
            .await?;
        load.stop().await?.unharmed(1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn cut_off_from_the_api_server_nothing_moves_and_then_it_goes_on() {
    harness::run("no-api", async |case| {
        cut_off(case, 443, Duration::from_secs(40)).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn cut_off_from_the_pods_no_pod_is_taken_for_empty() {
    harness::run("no-pods", async |case| {
        cut_off(case, 9911, Duration::from_secs(40)).await
    })
    .await;
}

/// The operator loses its way to a port in the middle of a wave: sessions stand still until it is back.
async fn cut_off(case: &Case, port: u16, still: Duration) -> Result<()> {
    let slow = json!({"spec": {"drain": {"budget": {"connectsPerSecond": 4}}}});
    case.serve(&one_step("v1").patch(slow.clone())).await?;
    let mut load = case.load(150).await?;
    case.apply(&one_step("v2").patch(slow)).await?;
    case.until_in_wave(1, RELEASE).await?;
    let before: Vec<_> = case.pods().await?;
    let partition = Partition::between_operator_and(case, port)?;
    // The pods' leases run out; nobody moves sessions on behalf of an operator that is not heard.
    load.until_quiet(Duration::from_secs(6), Duration::from_secs(90))
        .await?;
    let there = load.now().map(|now| now.revisions);
    load.until_quiet(still / 4, still).await?;
    ensure!(
        load.now().map(|now| now.revisions) == there,
        "sessions moved although nobody was heard"
    );
    let now = case.pods().await?;
    for pod in &before {
        ensure!(
            now.iter().any(|p| p.metadata.uid == pod.metadata.uid),
            "pod {:?} was deleted while nobody could know its sessions",
            pod.metadata.name
        );
    }
    partition.heal()?;
    let done = case.until_released(1, RELEASE).await?;
    load.until_all_on(&done.stable.unwrap_or_default(), Duration::from_secs(10))
        .await?;
    load.stop().await?.unharmed(1)
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn slots_and_pins_that_somebody_deletes_are_made_again() {
    harness::run("deleted-objects", async |case| {
        case.serve(&App::version("v1").slowly()).await?;
        let mut load = case.load(150).await?;
        case.apply(&App::version("v2").slowly()).await?;
        let moving = case.until_in_wave(2, RELEASE).await?;
        let slot = moving.release.map(|r| r.canary_slot).context("no release")?;
        let services: Api<Service> = case.api();
        let service = format!("chat-{slot}");
        let gone = services.get(&service).await?.metadata.uid;
        services.delete(&service, &DeleteParams::default()).await?;
        let pins = case.route_api().get("chat-pins").await?.metadata.uid;
        case.route_api()
            .delete("chat-pins", &DeleteParams::default())
            .await?;
        case.poll("both to be there again", Duration::from_secs(20), async || {
            let service = services.get_opt(&service).await?.and_then(|s| s.metadata.uid);
            let route = case
                .route_api()
                .get_opt("chat-pins")
                .await?
                .and_then(|r| r.metadata.uid);
            Ok(service.is_some() && service != gone && route.is_some() && route != pins)
        })
        .await?;
        let done = case.until_released(1, RELEASE).await?;
        load.until_all_on(&done.stable.unwrap_or_default(), Duration::from_secs(10))
            .await?;
        let summary = load.stop().await?;
        // Who comes back while there is no backend is refused and tries again; nobody is cut.
        ensure!(
            summary.unannounced_disconnects == 0 && summary.messages_lost == 0 && summary.state_lost == 0,
            "sessions were harmed: {summary:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn without_room_in_the_quota_the_release_says_so_and_goes_back() {
    harness::run("quota", async |case| {
        case.serve(&App::version("v1")).await?;
        let load = case.load(50).await?;
        let pods = json!({
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "full", "namespace": case.namespace},
            "spec": {"hard": {"pods": "1"}},
        });
        case.apply_raw(&pods).await?;
        case.apply(&App::version("v2").patch(json!({"spec": {"progressDeadline": "15s"}})))
            .await?;
        refused_room(case, "exceeded quota").await?;
        load.stop().await?.untouched()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own and an admission policy for it)"]
async fn pods_that_an_admission_policy_refuses_are_named_and_the_release_goes_back() {
    harness::run("admission", async |case| {
        case.serve(&App::version("v1")).await?;
        let load = case.load(50).await?;
        let name = &case.namespace;
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                }]},
                "validations": [{
                    "expression": "!('team' in object.metadata.labels)", "message": "no team is let in here",
                }],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {
                "policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
            },
        });
        case.apply_raw(&policy).await?;
        case.apply_raw(&binding).await?;
        let refused = json!({"spec": {"progressDeadline": "15s", "template": {"metadata": {"labels": {"team": "x"}}}}});
        let seen = async {
            case.until_policy_holds(&json!({"team": "x"})).await?;
            case.apply(&App::version("v2").patch(refused)).await?;
            refused_room(case, "no team is let in here").await
        }
        .await;
        case.delete_raw(&binding).await?;
        case.delete_raw(&policy).await?;
        seen?;
        load.stop().await?.untouched()
    })
    .await;
}

/// Status names the reason while it waits, and the release ends where it began.
async fn refused_room(case: &Case, reason: &str) -> Result<()> {
    case.until(&format!("{reason:?} in the condition"), RELEASE, |s| {
        s.phase.as_deref() == Some("Surging") && reason_of(s, "Ready").2.contains(reason)
    })
    .await?;
    let back = case.until_rolled_back(RELEASE).await?;
    let (_, _, message) = reason_of(&back, "Stalled");
    ensure!(
        message.contains("ProgressDeadlineExceeded") && message.contains(reason),
        "the reason is not told: {message}"
    );
    ensure!(case.greatest_weight(1) == 0, "a weight was given to nobody");
    Ok(())
}

#[tokio::test]
#[ignore = "needs cluster (makes a namespace of its own)"]
async fn a_newer_template_in_the_middle_of_a_rollback_is_released_after_it() {
    harness::run("back-and-on", async |case| {
        case.serve(&App::version("v1").slowly()).await?;
        let mut load = case.load(150).await?;
        case.apply(&App::version("v2").slowly()).await?;
        case.until_in_wave(2, RELEASE).await?;
        case.request(Verb::Abort).await?;
        case.until_phase("RollingBack", Duration::from_secs(10)).await?;
        case.apply(&App::version("v3")).await?;
        let done = case
            .until("the newer release to be done", RELEASE, |s| {
                s.releases == 2 && matches!(s.phase.as_deref(), Some("Soaking" | "Healthy"))
            })
            .await?;
        load.until_all_on(&done.stable.unwrap_or_default(), Duration::from_secs(10))
            .await?;
        // There, back, and on: one move each.
        load.stop().await?.unharmed(3)
    })
    .await;
}
