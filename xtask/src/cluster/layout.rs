//! Where the embedded cluster keeps what, and its addresses.

use std::path::{Path, PathBuf};

/// The bridge that pods hang on.
pub const BRIDGE: &str = "wsroll0";
/// The node's own address, on the bridge.
pub const NODE_ADDRESS: &str = "10.244.0.1";
/// Addresses of pods: 4,094 of them.
pub const POD_NETWORK: &str = "10.244.0.0/20";
/// Addresses of services.
pub const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The API server's service address: the first of the network.
pub const API_SERVICE: &str = "10.96.0.1";
/// The name service's address.
pub const DNS_SERVICE: &str = "10.96.0.10";
/// The gateway's address, fixed so that it can be told before it runs.
pub const GATEWAY_SERVICE: &str = "10.96.0.80";
/// The node's name.
pub const NODE: &str = "wsroll-dev";
/// The API server's port: not 6443, which another Kubernetes on this host might have.
pub const API_PORT: u16 = 16443;
/// etcd's port for clients, on the loopback.
pub const ETCD_PORT: u16 = 12379;
/// etcd's port for peers, on the loopback; a single member listens all the same.
pub const ETCD_PEER_PORT: u16 = 12380;
/// Mark of the firewall rules that are ours.
pub const RULE_COMMENT: &str = "wsroll-dev";
/// Sockets and other run-time state of containerd; short, for socket paths have a limit.
pub const RUN_DIR: &str = "/run/wsroll-dev";

/// The state directory, with a name for each thing in it.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The layout below a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The whole state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Something directly below the state directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A component's program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// What a component prints.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// Which process a component is.
    pub fn pid(&self, name: &str) -> PathBuf {
        self.dir.join("pid").join(name)
    }

    /// A key, certificate or request.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.dir.join("pki").join(file)
    }

    /// The access of one of the cluster's own users.
    pub fn component_kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join("access").join(user)
    }

    /// The administrator's access: what a user sets `KUBECONFIG` to.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// containerd's socket.
    pub fn containerd_socket() -> PathBuf {
        Path::new(RUN_DIR).join("containerd.sock")
    }

    /// Directories that must be there before anything starts.
    pub fn directories(&self) -> Vec<PathBuf> {
        let below = [
            "bin",
            "log",
            "pid",
            "pki",
            "access",
            "etcd",
            "kubelet",
            "cni",
            "containerd",
            "images",
        ];
        below
            .iter()
            .map(|name| self.dir.join(name))
            .chain([PathBuf::from(RUN_DIR)])
            .collect()
    }
}

/// A path as text for a command line or a configuration file.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
