//! Writing a ReplicaSet's replicas, so that a decrement cannot race.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::labels::MANAGER_WORKLOAD;
use super::pods::patch;

/// How long one write may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the replicas were not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody wrote the ReplicaSet since it was read: read again and decide again.
    #[error("the replica set changed since it was read")]
    Raced,
    /// No answer in time; whether it was written is unknown.
    #[error("no answer in {TIMEOUT:?}")]
    Timeout,
    /// The API server refused.
    #[error("failed to patch the replica set")]
    Api(#[source] kube::Error),
}

impl Error {
    /// A closed set, for metric labels and Event reasons.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Raced => "conflict",
            Self::Timeout => "timeout",
            Self::Api(_) => "api",
        }
    }
}

/// The replicas a set is asked to have.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The patch that sets the replicas of the very object that was read: it fails when anything in it has changed
/// since, its status included (so a pod that turned unready since stops a decrement). `None` where nothing is to do.
pub fn replicas_patch(set: &ReplicaSet, wanted: i32) -> Option<json_patch::Patch> {
    if replicas(set) == wanted {
        return None;
    }
    patch(json!([
        {"op": "test", "path": "/metadata/uid", "value": set.uid()},
        {"op": "test", "path": "/metadata/resourceVersion", "value": set.resource_version()},
        {"op": "add", "path": "/spec/replicas", "value": wanted},
    ]))
}

/// Sets the replicas of the ReplicaSet that was read. Does nothing where they are that already.
pub async fn set_replicas(client: &Client, set: &ReplicaSet, wanted: i32) -> Result<(), Error> {
    let Some(patch) = replicas_patch(set, wanted) else {
        return Ok(());
    };
    let api: Api<ReplicaSet> = Api::namespaced(client.clone(), &set.namespace().unwrap_or_default());
    let params = PatchParams {
        field_manager: Some(MANAGER_WORKLOAD.to_owned()),
        ..PatchParams::default()
    };
    let name = set.name_any();
    let patch = Patch::<()>::Json(patch);
    match tokio::time::timeout(TIMEOUT, api.patch_metadata(&name, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if raced(&error) => Err(Error::Raced),
        Ok(Err(error)) => Err(Error::Api(error)),
        Err(_) => Err(Error::Timeout),
    }
}

/// Whether the API server refused because the object is another one than was read: a conflict (409), or a failed
/// `test` of a JSON patch (422).
pub fn raced(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            status.code == 409
                || (status.code == 422
                    && status
                        .details
                        .as_ref()
                        .is_none_or(|details| details.causes.is_empty()))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use tower_test::mock;

    use super::*;

    fn set(version: &str, replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "chat-x", "namespace": "prod", "uid": "s-1", "resourceVersion": version},
            "spec": {"replicas": replicas, "selector": {}},
        }))
        .unwrap()
    }

    #[test]
    fn a_decrement_fails_on_a_newer_object() {
        let patch = replicas_patch(&set("7", 3), 2).unwrap();
        let apply = |version| {
            let mut value = serde_json::to_value(set(version, 3)).unwrap();
            json_patch::patch(&mut value, &patch).map(|()| value["spec"]["replicas"].clone())
        };
        assert_eq!(apply("7").unwrap(), json!(2));
        apply("8").unwrap_err();
    }

    async fn answer(code: u16, body: serde_json::Value) -> Result<(), Error> {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let server = tokio::spawn(async move {
            let (request, send) = handle.next_request().await.expect("a patch");
            assert_eq!(request.method(), http::Method::PATCH);
            assert_eq!(request.headers()["content-type"], "application/json-patch+json");
            assert!(
                request
                    .uri()
                    .to_string()
                    .contains("fieldManager=wsroll%2Fworkload")
            );
            send.send_response(
                Response::builder()
                    .status(code)
                    .body(Body::from(body.to_string().into_bytes()))
                    .unwrap(),
            );
        });
        let result = set_replicas(&Client::new(service, "prod"), &set("7", 3), 2).await;
        tokio::time::timeout(Duration::from_secs(2), server)
            .await
            .expect("the call was made")
            .unwrap();
        result
    }

    fn failure(code: u16, reason: &str, details: &serde_json::Value) -> serde_json::Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason,
            "code": code, "details": details})
    }

    #[tokio::test]
    async fn a_race_is_told_from_other_failures() {
        let done = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "chat-x"}});
        answer(200, done).await.unwrap();
        for (code, reason) in [(409, "Conflict"), (422, "Invalid")] {
            let error = answer(code, failure(code, reason, &json!({}))).await.unwrap_err();
            assert_eq!(error.category(), "conflict");
        }
        let causes = json!({"causes": [{"field": "spec.replicas"}]});
        assert_eq!(
            answer(422, failure(422, "Invalid", &causes))
                .await
                .unwrap_err()
                .category(),
            "api"
        );
        assert_eq!(
            answer(403, failure(403, "Forbidden", &json!({})))
                .await
                .unwrap_err()
                .category(),
            "api"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up_on() {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let silent = tokio::spawn(async move {
            let held = handle.next_request().await;
            tokio::time::sleep(Duration::from_mins(1)).await;
            drop(held);
        });
        let error = set_replicas(&Client::new(service, "prod"), &set("7", 3), 2)
            .await
            .unwrap_err();
        assert_eq!(error.category(), "timeout");
        silent.abort();
    }

    #[test]
    fn nothing_to_do_is_no_patch() {
        assert_eq!(replicas_patch(&set("7", 3), 3), None);
    }
}
