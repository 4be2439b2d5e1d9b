//! The command line's way to rollouts in a cluster; every error names the remedy.

use std::time::Duration;

use clap::Args;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::timeout;

use crate::api::status::Request;
use crate::api::{ANNOTATION_REQUEST, WebSocketRollout};
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

impl Rollout {
    /// Reads the rollout.
    pub async fn get(&self) -> Result<WebSocketRollout, Error> {
        self.call("get", self.api.get(&self.name)).await
    }

    /// Writes the request annotation. Nothing that Git owns is touched.
    pub async fn ask(&self, request: &Request) -> Result<(), Error> {
        let text = json!(request).to_string();
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
