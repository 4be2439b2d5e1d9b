//! The cluster that tests and demo run on: the one `KUBECONFIG` names, or a real Kubernetes of one node
//! that is built, started and stopped here.

mod addons;
mod components;
mod containers;
mod daemon;
mod embedded;
mod layout;
mod network;
mod pki;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{archive::Image, paths, shell};

/// How `up` may go about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether missing packages may be installed on this host.
    pub install: bool,
}

/// A cluster that runs, and how to reach it.
#[derive(Debug, Clone)]
pub struct ClusterHandle {
    /// The access file.
    pub kubeconfig: PathBuf,
    /// The program `kubectl`.
    pub kubectl: PathBuf,
    /// `host:port` at which this host reaches the gateway.
    pub gateway_host: String,
    /// `host:port` at which pods reach the gateway.
    pub gateway_inside: String,
    /// `namespace/name` of the Gateway that routes attach to.
    pub gateway_ref: String,
    /// Whether it is somebody else's cluster: nothing can be imported there.
    pub external: bool,
}

impl ClusterHandle {
    /// `kubectl` with access to this cluster.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = shell::command(&self.kubectl);
        kubectl.env("KUBECONFIG", &self.kubeconfig);
        kubectl
    }

    /// Applies manifests, server-side.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let mut kubectl = self.kubectl();
        kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        shell::output_with_input(&mut kubectl, manifests).map(drop)
    }

    /// Puts an image on the embedded cluster's node, unless it is there.
    pub fn import(&self, reference: &str, image: impl FnOnce() -> Result<Image>) -> Result<()> {
        if self.external {
            bail!("images cannot be put into a cluster that is not ours: push {reference} to a registry");
        }
        containers::import(&layout::Layout::new(paths::state_dir()), reference, image)
    }
}

/// Starts the cluster, or finds it running. Instant the second time.
pub fn up(options: Options) -> Result<ClusterHandle> {
    match external()? {
        Some(cluster) => Ok(cluster),
        None => embedded::up(options),
    }
}

/// The cluster, if it runs.
pub fn running() -> Result<Option<ClusterHandle>> {
    match external()? {
        Some(cluster) => Ok(Some(cluster)),
        None => Ok(embedded::running()),
    }
}

/// Says what runs.
pub fn status() -> Result<()> {
    match user_kubeconfig() {
        Some(kubeconfig) => {
            println!("cluster of KUBECONFIG={}", kubeconfig.display());
            shell::run(shell::command("kubectl").args(["get", "nodes"]))
        }
        None => embedded::status(),
    }
}

/// Stops the embedded cluster and takes back everything it changed on this host.
pub fn down() -> Result<()> {
    if user_kubeconfig().is_some() {
        bail!("KUBECONFIG names a cluster that is not ours to stop; unset it to stop the embedded one");
    }
    embedded::down()
}

/// Why no cluster can be had here, if so: in words for a person.
pub fn obstacle() -> Option<String> {
    if user_kubeconfig().is_some() {
        return None;
    }
    let needed = "set KUBECONFIG to a cluster with a Gateway API gateway, or run on Linux as root";
    if !cfg!(target_os = "linux") {
        return Some(format!("the embedded cluster needs Linux: {needed}"));
    }
    (!paths::is_root()).then(|| format!("the embedded cluster needs root (containers, network): {needed}"))
}

/// The access file that the user chose; none if it is the embedded cluster's own.
fn user_kubeconfig() -> Option<PathBuf> {
    let chosen = PathBuf::from(std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty())?);
    let own = layout::Layout::new(paths::state_dir()).kubeconfig();
    (chosen != own).then_some(chosen)
}

/// The user's own cluster, where the gateway's whereabouts must be told.
fn external() -> Result<Option<ClusterHandle>> {
    let Some(kubeconfig) = user_kubeconfig() else {
        return Ok(None);
    };
    let Some(kubectl) = shell::which("kubectl") else {
        bail!("KUBECONFIG is set, but there is no kubectl in PATH");
    };
    external_from(&kubeconfig, kubectl, |name| std::env::var(name).ok()).map(Some)
}

fn external_from(
    kubeconfig: &Path,
    kubectl: PathBuf,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<ClusterHandle> {
    let told = |name: &str, meaning: &str| match variable(name) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => bail!("KUBECONFIG is set, so the gateway of that cluster must be told: set {name} to {meaning}"),
    };
    Ok(ClusterHandle {
        kubeconfig: kubeconfig.to_path_buf(),
        kubectl,
        gateway_host: told(
            "WSROLL_E2E_GATEWAY",
            "the host:port at which this host reaches it",
        )?,
        gateway_inside: told(
            "WSROLL_E2E_GATEWAY_INSIDE",
            "the host:port at which pods reach it",
        )?,
        gateway_ref: told("WSROLL_E2E_GATEWAY_REF", "namespace/name of the Gateway object")?,
        external: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_cluster_needs_its_gateway_told() {
        let missing = external_from(Path::new("/k"), "/bin/kubectl".into(), |_| None).unwrap_err();
        assert!(missing.to_string().contains("WSROLL_E2E_GATEWAY"), "{missing}");
        let told = external_from(Path::new("/k"), "/bin/kubectl".into(), |name| {
            Some(name.to_lowercase())
        })
        .unwrap();
        assert!(told.external);
        assert_eq!(told.gateway_ref, "wsroll_e2e_gateway_ref");
        let refused = told.import("x", || Ok(Image::default())).unwrap_err();
        assert!(refused.to_string().contains("push x to a registry"), "{refused}");
    }
}
