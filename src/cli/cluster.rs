//! The command line's way to rollouts in a cluster; every error names the remedy.

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::timeout;

use crate::api::status::Request;
use crate::api::{ANNOTATION_REQUEST, WebSocketRollout};
use crate::operator::stories;
use crate::report::audit::{By, Scrub};
use crate::report::story::{Extras, Stories};
use crate::workload::labels;
use crate::workload::labels::MANAGER_REQUEST;

/// How long one call of the API server may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which rollout.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The rollout's name
    pub name: String,
    /// Its namespace [default: the kubeconfig's current one]
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
}

/// Why a rollout could not be read or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No way to a cluster.
    #[error("failed to find a cluster: set KUBECONFIG, or check `kubectl config current-context`")]
    NoCluster(#[source] kube::Error),
    /// The cluster knows no rollouts.
    #[error(
        "the cluster does not know WebSocketRollouts: install the definition with `wsroll crd | kubectl apply -f -`"
    )]
    NoDefinition,
    /// No such rollout.
    #[error(
        "there is no WebSocketRollout {name} in namespace {namespace}: see `kubectl get websocketrollouts -A`"
    )]
    NotFound {
        /// The name asked for.
        name: String,
        /// The namespace looked in.
        namespace: String,
    },
    /// Not allowed.
    #[error(
        "you may not {verb} WebSocketRollouts in namespace {namespace}: ask for the verb `{verb}` on websocketrollouts.wsroll.dev"
    )]
    Forbidden {
        /// The verb of the API.
        verb: &'static str,
        /// The namespace.
        namespace: String,
    },
    /// No answer in time.
    #[error("the API server did not answer within {TIMEOUT:?}: check `kubectl version`")]
    Timeout,
    /// Anything else.
    #[error("failed to {verb} the WebSocketRollout")]
    Api {
        /// The verb of the API.
        verb: &'static str,
        /// What the client says.
        #[source]
        source: kube::Error,
    },
}

/// One rollout in a cluster.
#[derive(Clone, Debug)]
pub struct Rollout {
    api: Api<WebSocketRollout>,
    name: String,
    namespace: String,
}

impl Target {
    /// Connects by the usual ways: `KUBECONFIG`, `~/.kube/config`, a service account.
    pub async fn connect(self) -> Result<Rollout, Error> {
        let client = Client::try_default().await.map_err(Error::NoCluster)?;
        Ok(self.with(client))
    }

    /// The same with a client at hand.
    pub fn with(self, client: Client) -> Rollout {
        let Self { name, namespace } = self;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Rollout {
            api: Api::namespaced(client, &namespace),
            name,
            namespace,
        }
    }
}

/// The user's name in the kubeconfig's current context. It is a label that its owner chose.
fn configured_user() -> Option<String> {
    let config = kube::config::Kubeconfig::read().ok()?;
    let current = config.current_context?;
    let context = config.contexts.into_iter().find(|c| c.name == current)?;
    context.context?.user
}

impl Rollout {
    /// Reads the rollout.
    pub async fn get(&self) -> Result<WebSocketRollout, Error> {
        self.call("get", self.api.get(&self.name)).await
    }

    /// Who the API server says that we are; else the user that the kubeconfig names, if any.
    pub async fn user(&self) -> Option<String> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.api.clone().into_client());
        let (review, params) = (SelfSubjectReview::default(), PostParams::default());
        let answer = timeout(TIMEOUT, reviews.create(&params, &review)).await;
        let known = answer.ok().and_then(Result::ok);
        let user = known.and_then(|review| review.status?.user_info?.username);
        user.or_else(configured_user)
    }

    /// The stories of the last releases that the operator keeps, with what the status says since; none where there are none.
    pub async fn stories(&self, live: &WebSocketRollout) -> Stories {
        let maps: Api<ConfigMap> = Api::namespaced(self.api.clone().into_client(), &self.namespace);
        let name = stories::name(&self.name);
        let found = match timeout(TIMEOUT, maps.get_opt(&name)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                // What the status tells is shown all the same.
                tracing::warn!(
                    config_map = name,
                    error = &error as &dyn std::error::Error,
                    "failed to read the stories of releases"
                );
                None
            }
            Err(_) => None,
        };
        let ours = |map: &ConfigMap| map.annotations().get(labels::ROLLOUT_UID) == live.uid().as_ref();
        let ours = found.filter(ours);
        let mut kept = ours.as_ref().map(stories::stories_of).unwrap_or_default();
        if let Some(status) = &live.status {
            // A stored story is as old as its last change of phase.
            let (by, scrub) = (By::default(), Scrub::default().with_pins(&[status]));
            let extras = Extras {
                evidence: &[],
                rehearsal: None,
                by: &by,
                scrub: &scrub,
            };
            kept.advance(status, extras);
        }
        kept
    }

    /// Writes the request annotation, with who asks where that is known. Nothing that Git owns is touched.
    pub async fn ask(&self, request: &Request, by: Option<&str>) -> Result<(), Error> {
        let mut asked = json!(request);
        if let Some(by) = by {
            asked["by"] = json!(by);
        }
        let text = asked.to_string();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION_REQUEST: text}}}));
        let params = PatchParams {
            field_manager: Some(MANAGER_REQUEST.to_owned()),
            ..PatchParams::default()
        };
        let patched = self
            .call("patch", self.api.patch_metadata(&self.name, &params, &patch))
            .await?;
        tracing::debug!(resource_version = patched.resource_version(), "asked");
        Ok(())
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        run: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(TIMEOUT, run).await {
            Ok(answer) => answer.map_err(|error| self.explain(verb, error)),
            Err(_) => Err(Error::Timeout),
        }
    }

    fn explain(&self, verb: &'static str, error: kube::Error) -> Error {
        let namespace = self.namespace.clone();
        match &error {
            kube::Error::Api(status) if status.code == 404 => {
                // A missing object is named in the details; a missing kind is a bare "404 page not found".
                let named = status
                    .details
                    .as_ref()
                    .is_some_and(|details| !details.name.is_empty());
                if named {
                    Error::NotFound {
                        name: self.name.clone(),
                        namespace,
                    }
                } else {
                    Error::NoDefinition
                }
            }
            kube::Error::Api(status) if status.code == 403 => Error::Forbidden { verb, namespace },
            _ => Error::Api { verb, source: error },
        }
    }
}
