//! The processes of the node and their command lines. Pure but for the configuration files, which
//! [`write_configuration`] writes.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::layout::{
    API_PORT, BRIDGE, DNS_SERVICE, ETCD_PEER_PORT, ETCD_PORT, Layout, NODE, NODE_ADDRESS, POD_NETWORK,
    RUN_DIR, SERVICE_NETWORK, text,
};

/// The image that holds a pod's namespaces; ours, for no registry is asked.
pub const PAUSE_IMAGE: &str = "docker.io/wsroll/pause:1";

/// The components in the order in which they start; the reverse stops them, the API server before etcd:
/// otherwise it would linger on its port and the next start would talk to the old one.
pub const ORDER: [&str; 7] = [
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// The arguments of a component.
pub fn arguments(layout: &Layout, component: &str) -> Vec<String> {
    let pki = |file: &str| text(&layout.pki(file));
    let access = |user: &str| text(&layout.component_kubeconfig(user));
    let etcd = format!("http://127.0.0.1:{ETCD_PORT}");
    let pairs: Vec<(&str, String)> = match component {
        "etcd" => vec![
            ("data-dir", text(&layout.path("etcd"))),
            ("listen-client-urls", etcd.clone()),
            ("advertise-client-urls", etcd),
            ("listen-peer-urls", format!("http://127.0.0.1:{ETCD_PEER_PORT}")),
            // Nothing here must outlive a power cut.
            ("unsafe-no-fsync", "true".into()),
            ("log-level", "warn".into()),
        ],
        "containerd" => vec![("config", text(&layout.path("containerd.toml")))],
        "kube-apiserver" => vec![
            ("etcd-servers", etcd),
            ("secure-port", API_PORT.to_string()),
            // Pods reach it at the node's address, this host at the loopback.
            ("bind-address", "0.0.0.0".into()),
            ("advertise-address", NODE_ADDRESS.into()),
            ("tls-cert-file", pki("apiserver.crt")),
            ("tls-private-key-file", pki("apiserver.key")),
            ("client-ca-file", pki("ca.crt")),
            ("service-account-issuer", "https://kubernetes.default.svc".into()),
            ("service-account-key-file", pki("service-accounts.key")),
            ("service-account-signing-key-file", pki("service-accounts.key")),
            ("authorization-mode", "Node,RBAC".into()),
            ("service-cluster-ip-range", SERVICE_NETWORK.into()),
            ("allow-privileged", "true".into()),
            ("kubelet-client-certificate", pki("admin.crt")),
            ("kubelet-client-key", pki("admin.key")),
            // The node's name resolves nowhere: logs and exec go by address.
            ("kubelet-preferred-address-types", "InternalIP".into()),
            ("profiling", "false".into()),
        ],
        "kube-controller-manager" => vec![
            ("kubeconfig", access("controller-manager")),
            ("service-account-private-key-file", pki("service-accounts.key")),
            ("root-ca-file", pki("ca.crt")),
            ("cluster-signing-cert-file", pki("ca.crt")),
            ("cluster-signing-key-file", pki("ca.key")),
            ("use-service-account-credentials", "true".into()),
            ("leader-elect", "false".into()),
            ("flex-volume-plugin-dir", text(&layout.path("volume-plugins"))),
            // A host busy with compilers must not look like a lost node.
            ("node-monitor-grace-period", "2m".into()),
            ("kube-api-qps", "200".into()),
            ("kube-api-burst", "400".into()),
        ],
        "kube-scheduler" => vec![
            ("kubeconfig", access("scheduler")),
            ("leader-elect", "false".into()),
            ("kube-api-qps", "200".into()),
            ("kube-api-burst", "400".into()),
        ],
        "kubelet" => vec![
            ("config", text(&layout.path("kubelet.json"))),
            ("kubeconfig", access("kubelet")),
            ("hostname-override", NODE.into()),
            ("node-ip", NODE_ADDRESS.into()),
            ("root-dir", text(&layout.path("kubelet"))),
        ],
        "kube-proxy" => vec![
            ("kubeconfig", access("proxy")),
            ("hostname-override", NODE.into()),
            ("proxy-mode", "iptables".into()),
            ("cluster-cidr", POD_NETWORK.into()),
            ("iptables-min-sync-period", "200ms".into()),
            // The host's own limit stays as it is.
            ("conntrack-max-per-core", "0".into()),
        ],
        _ => Vec::new(),
    };
    pairs
        .into_iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
}

/// Writes the files that components read at their start.
pub fn write_configuration(layout: &Layout) -> Result<()> {
    let files = [
        (layout.path("containerd.toml"), containerd(layout)),
        (layout.path("cni").join("10-wsroll.conflist"), pod_network()),
        (layout.path("kubelet.json"), kubelet(layout)),
    ];
    for (path, content) in files {
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// containerd's settings. Its score for the out-of-memory killer may not be lowerable here, and network
/// namespaces live below our own directory, so that `/run/netns` of the host stays untouched.
fn containerd(layout: &Layout) -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "{RUN_DIR}/containerd"

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
sandbox_image = "{PAUSE_IMAGE}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
"#,
        root = text(&layout.path("containerd")),
        socket = text(&Layout::containerd_socket()),
        cni = text(&layout.path("cni")),
    )
}

/// How pods get their address. No port mapping and no masquerading: both would leave rules behind.
fn pod_network() -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "wsroll",
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": format!("{RUN_DIR}/addresses"),
                "ranges": [[{ "subnet": POD_NETWORK }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
    .to_string()
}

/// The kubelet's settings: any cgroup version, swap or not, and no eviction on a disk that others fill.
fn kubelet(layout: &Layout) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "failSwapOn": false,
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": text(&layout.pki("ca.crt")) },
        },
        "authorization": { "mode": "Webhook" },
        "containerRuntimeEndpoint": format!("unix://{}", text(&Layout::containerd_socket())),
        "tlsCertFile": text(&layout.pki("kubelet.crt")),
        "tlsPrivateKeyFile": text(&layout.pki("kubelet.key")),
        "podLogsDir": text(&layout.path("pod-logs")),
        "volumePluginDir": text(&layout.path("volume-plugins")),
        "maxPods": 500,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "evictionHard": { "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "0%" },
        "imageMinimumGCAge": "24h",
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_arguments() {
        let layout = Layout::new("/state");
        for component in ORDER {
            assert!(!arguments(&layout, component).is_empty(), "{component}");
        }
    }

    #[test]
    fn state_stays_below_its_directory() {
        let layout = Layout::new("/state");
        let all = ORDER
            .map(|component| arguments(&layout, component).join(" "))
            .join(" ");
        for place in ["/var/lib/", "/etc/kubernetes", "/tmp"] {
            assert!(!all.contains(place), "{all}");
        }
        assert!(containerd(&layout).contains("root = \"/state/containerd\""));
    }

    #[test]
    fn etcd_starts_first() {
        assert_eq!(ORDER[0], "etcd");
    }
}
