use serde_json::{Value, json};

use super::*;

fn object(change: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "chat-x-1", "uid": "p-1", "resourceVersion": "7", "annotations": {"team": "rt"},
            "creationTimestamp": "2026-11-22T08:00:00Z",
            "labels": {"wsroll.dev/revision": "x", "wsroll.dev/serving": "true", "wsroll.dev/role": "canary"}},
        "spec": {"containers": [], "nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "startTime": "2026-11-22T08:00:01Z",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "chat", "ready": true, "restartCount": 2, "image": "i", "imageID": "",
                "state": {"running": {}}}]},
    });
    json_patch::merge(&mut pod, change);
    serde_json::from_value(pod).unwrap()
}

fn facts(change: &Value) -> PodFacts {
    PodFacts::of(&object(change)).unwrap()
}

fn patched(pod: &Pod, patch: &json_patch::Patch) -> Option<PodFacts> {
    let mut value = serde_json::to_value(pod).unwrap();
    json_patch::patch(&mut value, patch).ok()?;
    PodFacts::of(&serde_json::from_value(value).unwrap())
}

#[test]
fn a_running_pod() {
    let facts = facts(&json!({}));
    assert_eq!(
        (facts.ready, facts.serving, facts.terminating, facts.finished),
        (true, true, false, false)
    );
    assert_eq!(
        (facts.role, facts.revision.as_deref()),
        (Some(Role::Canary), Some("x"))
    );
    assert_eq!(facts.ip, Some("10.0.0.7".parse().unwrap()));
    assert_eq!((facts.restarts, facts.deletion_cost, facts.trouble), (2, 0, None));
    assert!(facts.started > facts.created);
}

#[rstest::rstest]
#[case(json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}))]
#[case(json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}))]
#[case(json!({"status": {"conditions": null}}))]
#[case(json!({"status": null}))]
fn what_is_not_ready(#[case] change: Value) {
    assert!(!facts(&change).ready);
}

#[test]
fn troubles_are_named() {
    let waiting = json!({"status": {"containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "i",
        "imageID": "", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}});
    assert_eq!(facts(&waiting).trouble.as_deref(), Some("ImagePullBackOff"));
    let unscheduled = json!({"status": {"containerStatuses": null, "conditions":
        [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}});
    assert_eq!(facts(&unscheduled).trouble.as_deref(), Some("Unschedulable"));
}

#[test]
fn out_of_rotation_and_back() {
    let pod = object(&json!({}));
    let before = PodFacts::of(&pod).unwrap();
    let out = patched(&pod, &before.leave_rotation().unwrap()).unwrap();
    assert_eq!((out.serving, out.role), (false, Some(Role::Draining)));
    assert_eq!(out.leave_rotation(), None, "done once");

    let drained =
        object(&json!({"metadata": {"labels": {"wsroll.dev/serving": null, "wsroll.dev/role": "draining"}}}));
    let back = patched(&drained, &out.return_to_rotation(Role::Stable).unwrap()).unwrap();
    assert_eq!((back.serving, back.role), (true, Some(Role::Stable)));
    assert_eq!(back.return_to_rotation(Role::Stable), None);
}

#[test]
fn a_role_alone_leaves_the_rotation_as_it_is() {
    let pod = object(&json!({"metadata": {"labels": {"wsroll.dev/serving": null}}}));
    let before = PodFacts::of(&pod).unwrap();
    assert_eq!(before.set_role(Role::Canary), None);
    let after = patched(&pod, &before.set_role(Role::Stable).unwrap()).unwrap();
    assert_eq!((after.serving, after.role), (false, Some(Role::Stable)));
}

#[test]
fn a_patch_never_lands_on_a_namesake() {
    let decided = facts(&json!({}));
    let namesake = object(&json!({"metadata": {"uid": "p-2"}}));
    assert_eq!(patched(&namesake, &decided.leave_rotation().unwrap()), None);
}

#[rstest::rstest]
#[case(json!({}))]
#[case(json!({"metadata": {"annotations": null}}))]
fn a_deletion_cost(#[case] change: Value) {
    let pod = object(&change);
    let before = PodFacts::of(&pod).unwrap();
    assert_eq!(before.set_deletion_cost(0), None);
    let after = patched(&pod, &before.set_deletion_cost(-5).unwrap()).unwrap();
    assert_eq!(after.deletion_cost, -5);
}
