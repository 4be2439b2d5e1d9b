//! What a new revision is made of: its drain token, the key it shares with the rollout's other revisions, its ReplicaSet, and the
//! sidecar in it. All of that is frozen once it is created.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::Api;

use super::apply::{existing_is_fine, params};
use super::context::{CALL_LIMIT, Context};
use super::error::{Error, Result};
use super::observe::{Scene, parent};
use crate::api::ValidatedRollout;
use crate::api::spec::Via;
use crate::drain::Token;
use crate::engine::observed::Problem;
use crate::workload::labels::{self, Role};
use crate::workload::sidecar::{self, Sidecar};
use crate::workload::{certificate, replica_set, token};

/// What a revision's Secret holds, as far as its ReplicaSet depends on it.
#[derive(Debug)]
pub struct Keys {
    /// The drain token.
    pub token: Token,
    /// Whether there is a certificate for sidecars.
    pub tls: bool,
}

/// Creates the Secret and the ReplicaSet of the rollout's present template. What is there already stays as it is.
pub async fn create(ctx: &Context, scene: &Scene, revision: &str, replicas: u32, role: Role) -> Result<()> {
    let rollout = &scene.observed.rollout;
    let keys = ensure_keys(ctx, scene, revision).await?;
    let set = build(ctx, rollout, revision, replicas as i32, role, &keys).map_err(Error::Template)?;
    let set: ReplicaSet = serde_json::from_value(set)
        .map_err(|e| Error::api("build a ReplicaSet", kube::Error::SerdeError(e)))?;
    let sets: Api<ReplicaSet> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    existing_is_fine(
        ctx.write("create a ReplicaSet", sets.create(&params(), &set))
            .await,
    )
}

/// The ReplicaSet of the present template as JSON; for a dry run as well.
pub fn build(
    ctx: &Context,
    rollout: &ValidatedRollout,
    revision: &str,
    replicas: i32,
    role: Role,
    keys: &Keys,
) -> std::result::Result<serde_json::Value, replica_set::Error> {
    let drain = &rollout.spec.drain;
    let prestop_key = sidecar::prestop_key(&keys.token);
    let sidecar = match (drain.via, sidecar_image(ctx, rollout)) {
        (Via::Sidecar, Some(image)) => Some(Sidecar {
            image,
            drain,
            prestop_key: &prestop_key,
            tls: keys.tls,
        }),
        (Via::Sidecar, None) => return Err(replica_set::Error::NoSidecarImage),
        _ => None,
    };
    replica_set::build(&replica_set::Spec {
        parent: parent(rollout),
        revision,
        template: &rollout.spec.template,
        port: rollout.spec.traffic.port,
        replicas,
        role,
        via: drain.via,
        sidecar,
    })
}

/// The port at which a revision's pods take connections. One whose ReplicaSet is not in the cache yet was created just now, by the
/// present spec.
pub fn traffic_port(scene: &Scene, revision: &str) -> u16 {
    let rollout = &scene.observed.rollout;
    let application = rollout.spec.traffic.port;
    match scene.sets.get(revision) {
        Some(set) => replica_set::traffic_port(set, application),
        None if rollout.spec.drain.via == Via::Sidecar => sidecar::TRAFFIC_PORT,
        None => application,
    }
}

/// A sidecar that nobody named an image for.
pub fn missing_image(ctx: &Context, rollout: &ValidatedRollout) -> Option<Problem> {
    let missing = rollout.spec.drain.via == Via::Sidecar && sidecar_image(ctx, rollout).is_none();
    missing.then(|| Problem {
        reason: "SidecarImageMissing",
        message: "spec.drain.via is Sidecar, and no image is known for it; set spec.drain.sidecar.image, or give the operator one \
                  with --sidecar-image (WSROLL_SIDECAR_IMAGE)"
            .to_owned(),
    })
}

/// The image this operator runs from, as its own pod names it: sidecars are of the same program. `None` outside a cluster, or where
/// the pod may not be read.
pub async fn own_image(client: &Client) -> Option<String> {
    let (name, namespace) = (
        std::env::var("POD_NAME").ok()?,
        std::env::var("POD_NAMESPACE").ok()?,
    );
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match tokio::time::timeout(CALL_LIMIT, pods.get(&name)).await {
        Ok(Ok(pod)) => operator_container(&pod),
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the operator's own pod cannot be read: sidecars need --sidecar-image"
            );
            None
        }
        Err(_) => None,
    }
}

/// The image of the container that is the operator: by its name, or the only one there is.
fn operator_container(pod: &Pod) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let named = containers.iter().find(|c| c.name == "operator");
    let only = containers.first().filter(|_| containers.len() == 1);
    named.or(only)?.image.clone()
}

fn sidecar_image<'a>(ctx: &'a Context, rollout: &'a ValidatedRollout) -> Option<&'a str> {
    let own = rollout
        .spec
        .drain
        .sidecar
        .as_ref()
        .and_then(|s| s.image.as_deref());
    own.or(ctx.sidecar_image.as_deref())
}

/// The revision's keys: those it was given before, or new ones. Their Secret is created once and never rewritten, since pods keep
/// what they were started with: one that an older operator made has no certificate, and its sidecars serve plain HTTP.
async fn ensure_keys(ctx: &Context, scene: &Scene, revision: &str) -> Result<Keys> {
    let rollout = &scene.observed.rollout;
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let name = labels::token_name(&rollout.name, revision);
    let read = || async {
        let secret = ctx.read("read a drain token", secrets.get_opt(&name)).await?;
        Ok::<_, Error>(secret.as_ref().and_then(keys_of))
    };
    if let Some(keys) = read().await? {
        return Ok(keys);
    }
    let key = shared_key(ctx, scene, revision).await?;
    let issued = match rollout.spec.drain.via {
        Via::Sidecar => {
            Some(certificate::issue(&rollout.name, revision, (ctx.now)()).map_err(Error::Certificate)?)
        }
        _ => None,
    };
    let token = token::random();
    let secret = token::build(&parent(rollout), revision, &token, &key, issued.as_ref());
    match ctx
        .write("create a drain token", secrets.create(&params(), &secret))
        .await
    {
        Ok(_) => Ok(Keys {
            token,
            tls: issued.is_some(),
        }),
        // Somebody was faster: what the pods will read is what counts.
        Err(error @ Error::Raced { .. }) => read().await?.ok_or(error),
        Err(error) => Err(error),
    }
}

fn keys_of(secret: &Secret) -> Option<Keys> {
    Some(Keys {
        token: token::read(secret)?,
        tls: token::read_authority(secret).is_some(),
    })
}

/// The key with which the rollout's pods hash identities: that of another revision, or a new one where none has any.
async fn shared_key(ctx: &Context, scene: &Scene, revision: &str) -> Result<String> {
    let rollout = &scene.observed.rollout;
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    // Who users are on is asked first; sets without pods may have lost their Secret.
    let stable = scene.observed.status.stable.as_ref();
    let others = scene.sets.keys().filter(|r| Some(*r) != stable && *r != revision);
    for other in stable.into_iter().chain(others) {
        let name = labels::token_name(&rollout.name, other);
        let secret = ctx.read("read a drain token", secrets.get_opt(&name)).await?;
        if let Some(key) = secret.as_ref().and_then(token::read_identity_key) {
            return Ok(key);
        }
    }
    Ok(token::random_identity_key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn the_operators_own_image() {
        let meshed =
            pod(json!([{"name": "proxy", "image": "mesh:1"}, {"name": "operator", "image": "wsroll:2"}]));
        assert_eq!(operator_container(&meshed).as_deref(), Some("wsroll:2"));
        let renamed = pod(json!([{"name": "wsroll", "image": "wsroll:2"}]));
        assert_eq!(operator_container(&renamed).as_deref(), Some("wsroll:2"));
        let unclear = pod(json!([{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]));
        assert_eq!(
            operator_container(&unclear),
            None,
            "a wrong guess would run as a sidecar"
        );
    }
}
