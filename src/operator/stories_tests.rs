//! Each test plays the API server: what is read and written, and when.

use std::time::Duration;

use serde_json::json;

use super::*;

fn live() -> WebSocketRollout {
    serde_json::from_value(json!({
        "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
        "metadata": {"name": "chat", "namespace": "prod", "uid": "u-1"},
        "spec": {"template": {}, "traffic": {"port": 8080, "routes": [{"name": "chat"}]}, "probes": {"url": "ws://x/ws"}},
    }))
    .unwrap()
}

fn story(number: u64) -> Story {
    Story {
        v: 1,
        number,
        id: format!("r{number}abcd"),
        ..Story::default()
    }
}

fn api_error(code: u16) -> Error {
    let status = serde_json::from_value(
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "no", "reason": "No", "code": code}),
    );
    Error::api("write the stories", kube::Error::Api(Box::new(status.unwrap())))
}

#[test]
fn a_config_map_holds_a_key_per_release_and_is_owned_without_holding_up_a_deletion() {
    let stories = Stories(vec![story(12), story(11), story(9)]);
    let map = config_map(&live(), &stories, Some("7".to_owned()));
    let value = serde_json::to_value(&map).unwrap();
    assert_eq!(value["metadata"]["name"], "chat-releases");
    assert_eq!(value["metadata"]["labels"], json!({"wsroll.dev/rollout": "chat"}));
    assert_eq!(value["metadata"]["resourceVersion"], "7");
    let owner = &value["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["uid"], &owner["blockOwnerDeletion"]),
        (&json!("u-1"), &json!(false))
    );
    let keys: Vec<&String> = map.data.as_ref().unwrap().keys().collect();
    assert_eq!(keys, ["release-11.json", "release-12.json", "release-9.json"]);
    assert_eq!(stories_of(&map), stories);
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let mut map = config_map(&live(), &Stories(vec![story(2)]), None);
    let data = map.data.get_or_insert_default();
    data.insert("release-1.json".to_owned(), "of another version".to_owned());
    data.insert("note".to_owned(), "somebody's".to_owned());
    assert_eq!(stories_of(&map), Stories(vec![story(2)]));
}

#[test]
fn what_was_kept_before_a_restart_is_taken_over_under_what_was_seen_since() {
    let mut kept = Kept {
        stories: Stories(vec![story(3)]),
        ..Kept::default()
    };
    let older = Story {
        sessions: 77,
        ..story(3)
    };
    let map = config_map(&live(), &Stories(vec![older, story(2)]), Some("5".to_owned()));
    kept.found(Ok(Some(map)), "chat");
    assert_eq!(kept.stories, Stories(vec![story(3), story(2)]));
    assert_eq!(kept.version.as_deref(), Some("5"));
    assert!(kept.not_before.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_later_and_what_is_there_is_read_again() {
    for (error, wait) in [
        (api_error(409), WRITE_EVERY),
        (api_error(500), AGAIN_AFTER),
        (api_error(403), REFUSED_AGAIN_AFTER),
    ] {
        let mut kept = Kept {
            written: Some(Vec::new()),
            ..Kept::default()
        };
        kept.wrote(Err(error), Vec::new(), "chat");
        assert_eq!(kept.written, None);
        assert_eq!(kept.not_before, Some(Instant::now() + wait));
    }
    let mut kept = Kept::default();
    let marks = Stories(vec![story(1)]).marks();
    kept.wrote(
        Ok(config_map(&live(), &Stories::default(), Some("8".to_owned()))),
        marks.clone(),
        "chat",
    );
    assert_eq!((kept.version.as_deref(), kept.written), (Some("8"), Some(marks)));
    assert_eq!(kept.not_before, Some(Instant::now() + Duration::from_secs(3)));
}
