//! Objects by their JSON: applied, read, patched.

use anyhow::{Context as _, Result};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;

/// Field manager of the tests: the user's.
const MANAGER: &str = "wsroll-e2e";

/// The API of a kind; `None` for a kind without namespaces.
pub fn api(client: &Client, api_version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Server-side apply, as `kubectl apply --server-side --force-conflicts` does it.
pub async fn apply(client: &Client, object: &Value) -> kube::Result<DynamicObject> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let api = api(
        client,
        text("/apiVersion"),
        text("/kind"),
        object.pointer("/metadata/namespace").and_then(Value::as_str),
    );
    api.patch(
        text("/metadata/name"),
        &PatchParams::apply(MANAGER).force(),
        &Patch::Apply(object),
    )
    .await
}

/// The documents of a YAML file of the repository.
pub fn from_file(path: &str) -> Result<Vec<Value>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_saphyr::from_multiple::<Value>(&text).with_context(|| format!("failed to parse {}", path.display()))
}
