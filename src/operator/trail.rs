//! Tells the audit trail of rounds and of acts: what is shown to the ledger, and what must not be told.

use std::collections::HashMap;
use std::sync::Mutex;

use kube::ResourceExt as _;
use serde::Deserialize;

use super::context::{Context, Memory, lock};
use super::observe::Scene;
use crate::api::{ANNOTATION_REQUEST, RolloutStatus, WebSocketRollout};
use crate::engine::plan::Order;
use crate::report::audit::{AuditRecord, By, Event, PodData, PodSeen, Round, Scrub, VERSION, cut};

/// Longest name of a user, bytes.
const MAX_NAME: usize = 200;

/// Tells what happened since the last round. It has to come after the status was written.
pub fn round(
    ctx: &Context,
    live: &WebSocketRollout,
    scene: &Scene,
    status: &RolloutStatus,
    memory: &Mutex<Memory>,
) {
    let scrub = scrub(scene, &[&scene.observed.status, status], memory);
    let rollout = &scene.observed.rollout;
    let mut memory = lock(memory);
    let round = Round {
        namespace: &rollout.namespace,
        rollout: &rollout.name,
        read: &scene.observed.status,
        status,
        now: (ctx.now)(),
        pods: pods(scene),
        drains: std::mem::take(&mut memory.drains),
        cuts: std::mem::take(&mut memory.audited_cuts),
        sessions: std::mem::take(&mut memory.happened),
        evidence: &scene.observed.evidence,
        rehearsal: scene.observed.rehearsal.as_ref(),
        by: who(live, status),
        scrub: &scrub,
    };
    if ctx.audit.is_on() {
        let records = memory.ledger.round(round);
        ctx.audit.tell(&records, &scrub);
    }
}

/// A pod took an order.
pub fn ordered(ctx: &Context, scene: &Scene, order: &Order, memory: &Mutex<Memory>) {
    let event = lock(memory).ledger.ordered(order, follows(scene, order));
    tell(ctx, scene, &order.uid, event, memory);
}

/// A pod did not take an order.
pub fn refused(ctx: &Context, scene: &Scene, order: &Order, category: &'static str, memory: &Mutex<Memory>) {
    let event = Event::OrderRefused {
        order: order.id.clone(),
        category: category.to_owned(),
    };
    tell(ctx, scene, &order.uid, Some(event), memory);
}

/// An order was taken back.
pub fn cancelled(ctx: &Context, scene: &Scene, uid: &str, id: &str, memory: &Mutex<Memory>) {
    let event = lock(memory).ledger.cancelled(uid, id);
    tell(ctx, scene, uid, event, memory);
}

/// Pods were taken off their ReplicaSet.
pub fn retired(ctx: &Context, scene: &Scene, pods: &[(String, String)], memory: &Mutex<Memory>) {
    for (_, uid) in pods {
        let news = lock(memory).ledger.let_go(uid);
        let event = news.then(|| Event::PodRetired(pod_data(scene, uid)));
        tell(ctx, scene, uid, event, memory);
    }
}

/// A pod was deleted so that its SIGTERM handler lets its sessions go.
pub fn dismissed(ctx: &Context, scene: &Scene, uid: &str, memory: &Mutex<Memory>) {
    let news = lock(memory).ledger.let_go(uid);
    let event = news.then(|| Event::PodDismissed(pod_data(scene, uid)));
    tell(ctx, scene, uid, event, memory);
}

fn tell(ctx: &Context, scene: &Scene, uid: &str, event: Option<Event>, memory: &Mutex<Memory>) {
    let Some(event) = event.filter(|_| ctx.audit.is_on()) else {
        return;
    };
    let (observed, facts) = (&scene.observed, scene.pods.get(uid));
    // The plan's status may have begun the release, or ended it: the ledger has it.
    let memory_status = lock(memory).ledger.status().cloned();
    let status = memory_status.as_ref().unwrap_or(&observed.status);
    let release = status.release.as_ref();
    let record = AuditRecord {
        v: VERSION,
        time: (ctx.now)(),
        namespace: observed.rollout.namespace.clone(),
        rollout: observed.rollout.name.clone(),
        release: release.map(|r| r.number),
        release_id: release.map(|r| r.id.clone()),
        revision: facts.and_then(|f| f.revision.clone()),
        pod: facts.map(|f| f.name.clone()),
        event,
    };
    ctx.audit
        .tell(&[record], &scrub(scene, &[&observed.status, status], memory));
}

fn pod_data(scene: &Scene, uid: &str) -> PodData {
    PodData {
        uid: uid.to_owned(),
        sessions: pods(scene).get(uid).and_then(|p| p.sessions),
        expected: None,
    }
}

/// Whether the pod says that it follows this order: then an earlier round gave it.
fn follows(scene: &Scene, order: &Order) -> bool {
    let views = scene.observed.revisions.values();
    let pod = views.flat_map(|v| &v.pods).find(|p| p.uid == order.uid);
    let drain = pod.and_then(|p| p.sessions.as_ref()?.drain.as_ref());
    drain.is_some_and(|d| d.id == order.id)
}

fn pods(scene: &Scene) -> HashMap<String, PodSeen> {
    let views = scene.observed.revisions.iter();
    let all = views.flat_map(|(revision, view)| view.pods.iter().map(move |pod| (revision, pod)));
    all.map(|(revision, pod)| {
        let seen = PodSeen {
            name: pod.name.clone(),
            revision: Some(revision.clone()),
            sessions: pod.sessions.as_ref().map(|s| s.open),
        };
        (pod.uid.clone(), seen)
    })
    .collect()
}

/// What must not be told: the tokens of drain ports and of probes, and what leads to a revision.
pub fn scrub(scene: &Scene, statuses: &[&RolloutStatus], memory: &Mutex<Memory>) -> Scrub {
    let mut secrets: Vec<String> = scene.tokens.values().map(|t| t.expose().to_owned()).collect();
    let memory = lock(memory);
    secrets.extend(memory.tokens.values().map(|t| t.expose().to_owned()));
    secrets.extend(memory.credentials.tokens().map(|t| t.reveal().to_string()));
    let headers = &scene.observed.rollout.spec.probes.headers;
    let credential = |name: &str| {
        let name = name.to_lowercase();
        ["authorization", "cookie", "token", "key", "secret"]
            .iter()
            .any(|part| name.contains(part))
    };
    secrets.extend(
        headers
            .iter()
            .filter(|(name, _)| credential(name))
            .map(|(_, value)| value.clone()),
    );
    Scrub::new(secrets).with_pins(statuses)
}

/// What `kubectl wsroll` adds to a request.
#[derive(Debug, Deserialize)]
struct Signed {
    nonce: String,
    #[serde(default)]
    by: Option<String>,
}

/// Who wrote the request that status answers last; nobody where the annotation carries another one by now.
pub fn who(live: &WebSocketRollout, status: &RolloutStatus) -> By {
    let text = live.annotations().get(ANNOTATION_REQUEST);
    let request = text.and_then(|text| serde_json::from_str::<Signed>(text).ok());
    let answered = status.last_request.as_ref().map(|r| &r.nonce);
    let Some(request) = request.filter(|r| Some(&r.nonce) == answered) else {
        return By::default();
    };
    let field = format!("f:{ANNOTATION_REQUEST}");
    let managers = live.metadata.managed_fields.iter().flatten();
    let writer = managers
        .filter(|entry| {
            let fields = entry.fields_v1.as_ref();
            let annotations = fields.and_then(|f| f.0.get("f:metadata")?.get("f:annotations"));
            annotations.is_some_and(|a| a.get(&field).is_some())
        })
        .max_by_key(|entry| entry.time.as_ref().map(|t| t.0));
    let name = |text: &str| {
        let plain: String = text.chars().filter(|c| !c.is_control()).collect();
        cut(plain, MAX_NAME)
    };
    By {
        user: request.by.as_deref().filter(|by| !by.is_empty()).map(name),
        manager: writer.and_then(|w| w.manager.as_deref()).map(name),
        at: writer.and_then(|w| w.time.as_ref()).map(|t| t.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(annotation: &str) -> WebSocketRollout {
        serde_json::from_value(json!({
            "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
            "metadata": {"name": "chat", "namespace": "prod", "annotations": {ANNOTATION_REQUEST: annotation}, "managedFields": [
                {"manager": "argocd", "operation": "Update", "time": "2026-11-22T08:00:00Z", "fieldsV1": {"f:spec": {}}},
                {"manager": "wsroll/request", "operation": "Update", "time": "2026-11-22T08:01:00Z",
                    "fieldsV1": {"f:metadata": {"f:annotations": {format!("f:{ANNOTATION_REQUEST}"): {}}}}},
            ]},
            "spec": {"template": {}, "traffic": {"port": 8080, "routes": [{"name": "chat"}]}, "probes": {"url": "ws://x/ws"}},
        }))
        .unwrap()
    }

    fn answered(nonce: &str) -> RolloutStatus {
        serde_json::from_value(
            json!({"lastRequest": {"nonce": nonce, "verb": "abort", "accepted": true, "message": "m",
            "at": "2026-11-22T08:01:01Z"}}),
        )
        .unwrap()
    }

    #[test]
    fn a_request_tells_who_wrote_it_as_far_as_that_can_be_told() {
        let by = who(
            &live(r#"{"verb":"abort","nonce":"n1","by":"jane\n"}"#),
            &answered("n1"),
        );
        assert_eq!(by.sentence(), "jane (wsroll/request)");
        assert_eq!(by.at, Some("2026-11-22T08:01:00Z".parse().unwrap()));
        let unsigned = who(&live(r#"{"verb":"abort","nonce":"n1"}"#), &answered("n1"));
        assert_eq!(unsigned.sentence(), "unknown (wsroll/request)");
    }

    #[test]
    fn a_newer_request_says_nothing_about_the_one_that_was_answered() {
        let by = who(
            &live(r#"{"verb":"abort","nonce":"n2","by":"jane"}"#),
            &answered("n1"),
        );
        assert_eq!(by, By::default());
        assert_eq!(who(&live("no json"), &answered("n1")), By::default());
    }
}
