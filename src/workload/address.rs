//! Which address is a pod's own to be called at. Only such addresses are ever called, and tokens are shown to nobody else.
//!
//! Addresses come from status, which a kubelet writes, and may be stale, shared, or made up by whoever may write status.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::labels;
use crate::drain::protocol::DEFAULT_PORT;

/// The pod's address, where it is certain to be the pod's own. `None` for
/// - a pod that has ended: its address is given to the next,
/// - an address that no pod has: loopback, link-local, multicast, unspecified,
/// - an address of the node's, unless the pod is on the node's network and declares the drain port: then the scheduler keeps that port
///   for it, and otherwise it is anybody's.
pub fn of(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_deref()?.parse().ok()?;
    if !can_be_a_pods(address) {
        return None;
    }
    let nodes = status
        .host_ips
        .iter()
        .flatten()
        .map(|host| host.ip.as_str())
        .chain(status.host_ip.as_deref());
    let is_nodes = nodes
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .any(|ip| ip == address);
    let on_node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.host_network)
        .unwrap_or_default();
    match (on_node, is_nodes) {
        (false, false) => Some(address),
        (true, _) => declares_drain_port(pod).then_some(address),
        (false, true) => None,
    }
}

/// The same pods, those that are not certainly this rollout's own without an address: they are *unknown*, and never called. Own is
/// what one of the rollout's ReplicaSets made, of the revision that it says, at an address that no other of the pods claims. Labels
/// alone prove nothing: whoever may create a pod can write them.
pub fn vouched(sets: &BTreeMap<String, ReplicaSet>, pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    let shared = shared(&pods);
    let is_own =
        |pod: &Pod| is_made_by(sets, pod) && of(pod).is_none_or(|address| !shared.contains(&address));
    pods.into_iter()
        .map(|pod| {
            if is_own(&pod) {
                return pod;
            }
            tracing::debug!(
                pod = pod.name_any(),
                "not certainly this rollout's own: not called"
            );
            let mut unknown = (*pod).clone();
            if let Some(status) = &mut unknown.status {
                status.pod_ip = None;
            }
            Arc::new(unknown)
        })
        .collect()
}

fn is_made_by(sets: &BTreeMap<String, ReplicaSet>, pod: &Pod) -> bool {
    let revision = pod.labels().get(labels::REVISION);
    let Some(uid) = revision
        .and_then(|revision| sets.get(revision))
        .and_then(|set| set.metadata.uid.as_ref())
    else {
        return false;
    };
    pod.owner_references()
        .iter()
        .any(|owner| owner.controller == Some(true) && owner.kind == "ReplicaSet" && owner.uid == *uid)
}

/// Addresses that more than one pod claims at present: a status is behind, or lies.
fn shared(pods: &[Arc<Pod>]) -> BTreeSet<IpAddr> {
    let mut seen = BTreeSet::new();
    pods.iter()
        .filter_map(|pod| of(pod))
        .filter(|address| !seen.insert(*address))
        .collect()
}

fn can_be_a_pods(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            // Kubernetes writes IPv4 addresses as such.
            Some(_) => false,
            None => {
                !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified())
            }
        },
    }
}

fn declares_drain_port(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .any(|port| port.container_port == i32::from(DEFAULT_PORT))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::workload::labels::REVISION;

    fn pod(change: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "uid": "u", "labels": {REVISION: "r"}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat-r", "uid": "set", "controller": true}]},
            "spec": {"containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.7", "hostIP": "192.168.0.2", "hostIPs": [{"ip": "192.168.0.2"}]},
        });
        json_patch::merge(&mut pod, change);
        serde_json::from_value(pod).unwrap()
    }

    #[rstest]
    #[case::its_own(json!({}), Some("10.0.0.7"))]
    #[case::of_version_6(json!({"status": {"podIP": "fd12::7"}}), Some("fd12::7"))]
    #[case::none_yet(json!({"status": {"podIP": null}}), None)]
    #[case::no_address(json!({"status": {"podIP": "chat.example.com"}}), None)]
    #[case::ended(json!({"status": {"phase": "Failed"}}), None)]
    #[case::done(json!({"status": {"phase": "Succeeded"}}), None)]
    #[case::the_operators_own(json!({"status": {"podIP": "127.0.0.1"}}), None)]
    #[case::in_another_dress(json!({"status": {"podIP": "::ffff:127.0.0.1"}}), None)]
    #[case::metadata(json!({"status": {"podIP": "169.254.169.254"}}), None)]
    #[case::everybody(json!({"status": {"podIP": "224.0.0.1"}}), None)]
    #[case::nobody(json!({"status": {"podIP": "0.0.0.0"}}), None)]
    #[case::a_nodes_that_it_may_not_have(json!({"status": {"podIP": "192.168.0.2"}}), None)]
    #[case::on_the_node_without_the_port(json!({"spec": {"hostNetwork": true}, "status": {"podIP": "192.168.0.2"}}), None)]
    #[case::on_the_node_with_the_port(json!({"spec": {"hostNetwork": true, "containers": [{"name": "app", "ports":
        [{"containerPort": 9911, "hostPort": 9911}]}]}, "status": {"podIP": "192.168.0.2"}}), Some("192.168.0.2"))]
    fn an_address_is_the_pods_own_or_is_not_called(#[case] change: Value, #[case] expected: Option<&str>) {
        assert_eq!(of(&pod(&change)), expected.map(|ip| ip.parse().unwrap()));
    }

    fn owned(pods: &[Value]) -> usize {
        let set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"name": "chat-r", "uid": "set"}})).unwrap();
        let sets = BTreeMap::from([("r".to_owned(), set)]);
        let pods: Vec<Arc<Pod>> = pods.iter().map(|change| Arc::new(pod(change))).collect();
        vouched(&sets, pods)
            .iter()
            .filter(|pod| of(pod).is_some())
            .count()
    }

    #[rstest]
    #[case::made_by_the_set(json!({}), 1)]
    #[case::made_by_hand(json!({"metadata": {"ownerReferences": null}}), 0)]
    #[case::of_a_set_that_is_gone(json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": "chat-r", "uid": "older", "controller": true}]}}), 0)]
    #[case::owned_but_not_controlled(json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": "chat-r", "uid": "set"}]}}), 0)]
    #[case::of_another_revision(json!({"metadata": {"labels": {REVISION: "other"}}}), 0)]
    fn labels_alone_prove_nothing(#[case] change: Value, #[case] expected: usize) {
        assert_eq!(owned(&[change]), expected);
    }

    /// A pod that is gone and one that has its address already: the cache cannot say whose it is, so neither is called.
    #[test]
    fn an_address_that_changes_its_owner_is_nobodys() {
        let other = json!({"metadata": {"uid": "v", "name": "q"}});
        assert_eq!(owned(&[json!({}), other.clone()]), 0);
        assert_eq!(
            owned(&[json!({"status": {"phase": "Failed"}}), other]),
            1,
            "who has ended claims none"
        );
    }
}
