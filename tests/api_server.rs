//! What is built here, against a real API server (and gateway): every test makes a namespace of its own, and removes it.
//! Run with `KUBECONFIG` set: `cargo test -p wsroll --test api_server -- --ignored`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use wsroll::api::spec::{Drain, Via};
use wsroll::operator::lease::{Elector, Settings};
use wsroll::traffic::http_route::{self, Acceptance};
use wsroll::traffic::pins::{self, Carrier, Pin};
use wsroll::traffic::{HTTPRoute, slots};
use wsroll::workload::labels::{MANAGER_ROUTES, MANAGER_WORKLOAD, Parent, Role};
use wsroll::workload::pods::PodFacts;
use wsroll::workload::sidecar::Sidecar;
use wsroll::workload::{Revision, replica_set, scale, token};

const UID: &str = "5f4e3d2c-0000-4000-8000-000000000000";

struct Scene {
    client: Client,
    namespace: String,
}

impl Scene {
    async fn new() -> Result<Self> {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let client = Client::try_default().await.context("set KUBECONFIG")?;
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"generateName": "wsroll-rooms-"}}))?;
        let made = Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        Ok(Self {
            client,
            namespace: made.name_any(),
        })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn parent(&self) -> Parent<'_> {
        Parent {
            name: "chat",
            namespace: &self.namespace,
            uid: UID,
        }
    }

    async fn end(self) -> Result<()> {
        Api::<Namespace>::all(self.client)
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        Ok(())
    }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [
        {"name": "chat", "image": "localhost/none:1", "imagePullPolicy": "Never", "ports": [{"containerPort": 8080}]}]}})
}

fn built(scene: &Scene, template: &Value) -> Result<Value> {
    built_with(scene, template, None)
}

fn built_with(scene: &Scene, template: &Value, sidecar: Option<Sidecar<'_>>) -> Result<Value> {
    let revision = Revision::of(template);
    let parent = scene.parent();
    let (port, replicas, role) = (8080, 1, Role::Rehearsal);
    Ok(replica_set::build(&replica_set::Spec {
        parent,
        revision: &revision.hash,
        template,
        port,
        replicas,
        role,
        via: if sidecar.is_some() {
            Via::Sidecar
        } else {
            Via::Protocol
        },
        sidecar,
    })?)
}

#[tokio::test]
#[ignore = "needs cluster (a namespace with a ReplicaSet)"]
async fn a_misspelt_field_is_named_by_the_dry_run() -> Result<()> {
    let scene = Scene::new().await?;
    let mut params = PatchParams::apply(MANAGER_WORKLOAD).validation_strict();
    params.dry_run = true;
    let sets = scene.api::<ReplicaSet>();
    let good = built(&scene, &template())?;
    let name = good["metadata"]["name"].as_str().context("a name")?.to_owned();
    sets.patch(&name, &params, &Patch::Apply(&good)).await?;
    let sidecar = Sidecar {
        image: "localhost/none:1",
        drain: &Drain::default(),
        prestop_key: "k",
        tls: true,
    };
    let fronted = built_with(&scene, &template(), Some(sidecar))?;
    sets.patch(&name, &params, &Patch::Apply(&fronted)).await?;
    let mut misspelt = template();
    misspelt["spec"]["containers"][0]["imagePullPolcy"] = json!("Never");
    let error = sets
        .patch(&name, &params, &Patch::Apply(&built(&scene, &misspelt)?))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("imagePullPolcy"), "{error}");
    scene.end().await
}

#[tokio::test]
#[ignore = "needs cluster (a namespace with a ReplicaSet)"]
async fn pods_leave_rotation_and_a_decrement_cannot_race() -> Result<()> {
    let scene = Scene::new().await?;
    let manifest = built(&scene, &template())?;
    let revision = Revision::of(&template());
    let secret = token::build(
        &scene.parent(),
        &revision.hash,
        &token::random(),
        &token::random_identity_key(),
        None,
    );
    scene
        .api::<Secret>()
        .create(&PostParams::default(), &secret)
        .await?;
    let sets = scene.api::<ReplicaSet>();
    let set: ReplicaSet = sets
        .create(&PostParams::default(), &serde_json::from_value(manifest)?)
        .await?;
    assert_eq!(replica_set::template_of(&set), Some(template()));

    let pods = scene.api::<Pod>();
    let pod = first(&pods).await?;
    let facts = PodFacts::of(&pod).context("facts")?;
    assert!(facts.serving && facts.role == Some(Role::Rehearsal));
    for patch in [facts.leave_rotation(), facts.set_deletion_cost(-7)] {
        let patch = Patch::<Pod>::Json(patch.context("a patch")?);
        let pod = pods.patch(&facts.name, &PatchParams::default(), &patch).await;
        // The kubelet may have written the pod since; the cost's patch is then refused, and made from what is there.
        if let Err(error) = pod {
            assert!(scale::raced(&error), "{error:?}");
            let present = PodFacts::of(&pods.get(&facts.name).await?).context("facts")?;
            let patch = Patch::<Pod>::Json(present.set_deletion_cost(-7).context("a patch")?);
            pods.patch(&facts.name, &PatchParams::default(), &patch).await?;
        }
    }
    let after = PodFacts::of(&pods.get(&facts.name).await?).context("facts")?;
    assert_eq!(
        (after.serving, after.role, after.deletion_cost),
        (false, Some(Role::Draining), -7)
    );

    let namesake = PodFacts {
        uid: "another".into(),
        ..after
    };
    let patch = Patch::<Pod>::Json(namesake.return_to_rotation(Role::Stable).context("a patch")?);
    let error = pods
        .patch(&namesake.name, &PatchParams::default(), &patch)
        .await
        .unwrap_err();
    assert!(scale::raced(&error), "{error:?}");

    let error = scale::set_replicas(&scene.client, &set, 0).await.unwrap_err();
    assert_eq!(
        error.category(),
        "conflict",
        "the set's status was written since it was read: {error:?}"
    );
    let fresh = sets.get(&set.name_any()).await?;
    scale::set_replicas(&scene.client, &fresh, 0).await?;
    let patch = replica_set::role_patch(&fresh, Role::Stable).context("a patch")?;
    let patched = sets
        .patch(
            &set.name_any(),
            &PatchParams::default(),
            &Patch::<ReplicaSet>::Json(patch),
        )
        .await?;
    assert_eq!(replica_set::template_role(&patched), Some(Role::Stable));
    scene.end().await
}

#[tokio::test]
#[ignore = "needs cluster (a namespace with Services and HTTPRoutes; the Gateway of WSROLL_E2E_GATEWAY_REF)"]
async fn slots_weights_and_pins_are_written_once_and_accepted() -> Result<()> {
    let scene = Scene::new().await?;
    let services = scene.api::<Service>();
    let names = slots::service_names("chat", &wsroll::api::SLOTS);
    let params = PatchParams::apply(MANAGER_ROUTES).force();
    for slot in wsroll::api::SLOTS {
        let desired = slots::build(&scene.parent(), slot, "bcdfg24567", 8080, 8080);
        let stored = services
            .patch(&desired.name_any(), &params, &Patch::Apply(&desired))
            .await?;
        assert!(slots::is_current(&stored, &desired) && slots::belongs_to(&stored, &scene.parent()));
    }
    let stored = services.get("chat-b").await?;
    let patch = slots::repoint_patch(&stored, "xwvts98765", 8080, 8080).context("a patch")?;
    let moved = services
        .patch(
            "chat-b",
            &PatchParams::default(),
            &Patch::<Service>::Json(patch.clone()),
        )
        .await?;
    assert_eq!(slots::selected_revision(&moved), Some("xwvts98765"));
    let again = services
        .patch("chat-b", &PatchParams::default(), &Patch::<Service>::Json(patch))
        .await
        .unwrap_err();
    assert!(scale::raced(&again), "{again:?}");

    let gateway = std::env::var("WSROLL_E2E_GATEWAY_REF").unwrap_or_else(|_| "wsroll-gateway/gateway".into());
    let (gateway_namespace, gateway) = gateway.split_once('/').context("namespace/name")?;
    let backends: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "port": 8080}))
        .collect();
    let routes = scene.api::<HTTPRoute>();
    let user: HTTPRoute = serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": scene.namespace},
        "spec": {"parentRefs": [{"name": gateway, "namespace": gateway_namespace}], "hostnames": ["rooms.example.com"],
            "rules": [{"name": "ws", "timeouts": {"request": "0s"}, "backendRefs": backends,
                "matches": [{"path": {"type": "PathPrefix", "value": "/ws"}}, {"method": "GET"}]}]},
    }))?;
    let user = routes.create(&PostParams::default(), &user).await?;
    http_route::validate(&user, &names, 8080)?;
    let desired: BTreeMap<_, _> = names.iter().cloned().zip([90, 10, 0]).collect();
    let patch = http_route::weights_patch(&user, &desired).context("a patch")?;
    let user = routes
        .patch(
            "chat",
            &PatchParams::default(),
            &Patch::<HTTPRoute>::Json(patch.clone()),
        )
        .await?;
    assert_eq!(http_route::weights(&user, &names)[0].weights, desired);
    assert_eq!(http_route::weights_patch(&user, &desired), None);
    let stale = routes
        .patch("chat", &PatchParams::default(), &Patch::<HTTPRoute>::Json(patch))
        .await
        .unwrap_err();
    assert!(scale::raced(&stale), "{stale:?}");
    accepted(&routes, "chat").await?;

    let pin = |carrier, value: &str| Pin {
        carrier,
        value: value.into(),
        service: "chat-b".into(),
    };
    let pins = [pin(Carrier::Probe, "p1"), pin(Carrier::Hint, "h1")];
    let made = pins::build(&scene.parent(), std::slice::from_ref(&user), &names, 8080, &pins)?;
    for desired in &made {
        let stored = routes
            .patch(&desired.name_any(), &params, &Patch::Apply(desired))
            .await?;
        assert!(pins::is_current(&stored, desired), "{stored:#?}");
        let again = routes
            .patch(&desired.name_any(), &params, &Patch::Apply(desired))
            .await?;
        // Not the version of the object: the gateway writes its status in between.
        assert_eq!(stored.metadata.generation, again.metadata.generation);
    }
    accepted(&routes, "chat-pins").await?;
    scene.end().await
}

#[tokio::test]
#[ignore = "needs cluster (a namespace with a Lease)"]
async fn of_two_operators_one_leads_and_hands_over() -> Result<()> {
    let scene = Scene::new().await?;
    let elect = |identity: &str| {
        let (elector, guard) = Elector::new(scene.client.clone(), Settings::new(&scene.namespace, identity));
        let stop = CancellationToken::new();
        (tokio::spawn(elector.run(stop.clone())), guard, stop)
    };
    let (first, mut leads, stop_first) = elect("one");
    assert!(tokio::time::timeout(Duration::from_secs(5), leads.acquired()).await?);
    let (second, mut follows, stop_second) = elect("two");
    sleep(Duration::from_secs(2)).await;
    assert!(leads.valid(Instant::now()) && !follows.valid(Instant::now()));

    stop_first.cancel();
    first.await??;
    assert!(!leads.valid(Instant::now()));
    assert!(
        tokio::time::timeout(Duration::from_secs(8), follows.acquired()).await?,
        "a vacated lease is taken soon"
    );
    let lease = scene.api::<Lease>().get(wsroll::operator::lease::NAME).await?;
    let spec = lease.spec.context("a spec")?;
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_transitions),
        (Some("two"), Some(2))
    );
    stop_second.cancel();
    second.await??;
    scene.end().await
}

async fn first(pods: &Api<Pod>) -> Result<Pod> {
    for _ in 0..100 {
        if let Some(pod) = pods.list(&ListParams::default()).await?.items.pop() {
            return Ok(pod);
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("no pod came")
}

async fn accepted(routes: &Api<HTTPRoute>, name: &str) -> Result<()> {
    let mut last = Acceptance::Pending(Vec::new());
    for _ in 0..100 {
        last = http_route::accepted(&routes.get(name).await?);
        if last == Acceptance::Accepted {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("{name} was not accepted: {last:?}")
}
