//! Slot Services: each sends new connections to one revision at a time.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::api::ObjectMeta;
use serde_json::json;

use crate::workload::labels::{self, Parent};

/// Tells gateways that the port speaks WebSockets (KEP-3726).
pub const APP_PROTOCOL: &str = "kubernetes.io/ws";

/// The name of a slot's Service.
pub fn service_name(rollout: &str, slot: &str) -> String {
    format!("{rollout}-{slot}")
}

/// The names of these slots' Services, in their order.
pub fn service_names(rollout: &str, slots: &[&str]) -> Vec<String> {
    slots.iter().map(|slot| service_name(rollout, slot)).collect()
}

/// The slot that a Service stands for.
pub fn slot_of(service: &Service) -> Option<&str> {
    service.labels().get(labels::SLOT).map(String::as_str)
}

/// The Service of a slot that leads to a revision's pods in rotation: `port` is what routes name, `target` where those pods take
/// connections (their application's port, or their sidecar's).
pub fn build(parent: &Parent<'_>, slot: &str, revision: &str, port: u16, target: u16) -> Service {
    let mut own_labels = parent.labels();
    own_labels.insert(labels::SLOT.to_owned(), slot.to_owned());
    let mut selector = labels::revision_labels(parent.name, revision);
    selector.insert(labels::SERVING.to_owned(), "true".to_owned());
    Service {
        metadata: ObjectMeta {
            name: Some(service_name(parent.name, slot)),
            namespace: Some(parent.namespace.to_owned()),
            labels: Some(own_labels),
            annotations: Some(parent.annotations()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(selector),
            ports: Some(vec![ServicePort {
                name: Some("ws".to_owned()),
                protocol: Some("TCP".to_owned()),
                app_protocol: Some(APP_PROTOCOL.to_owned()),
                port: i32::from(port),
                target_port: Some(IntOrString::Int(i32::from(target))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// What a Service selects that leads to nobody, in the place of a revision; no hash reads like this.
const NO_REVISION: &str = "nobody";

/// A Service that no pod belongs to: what is routed there is refused by the gateway.
pub fn nobody(parent: &Parent<'_>, port: u16) -> Service {
    let mut service = build(parent, NO_REVISION, NO_REVISION, port, port);
    // It is no slot: nothing is ever led there but a probe.
    service.labels_mut().remove(labels::SLOT);
    service
}

/// Whether a Service is [`nobody`] of a rollout of this name.
pub fn leads_to_nobody(service: &Service, rollout: &str) -> bool {
    let ours = service
        .labels()
        .get(labels::ROLLOUT)
        .is_some_and(|name| name == rollout);
    ours && slot_of(service).is_none() && selected_revision(service) == Some(NO_REVISION)
}

/// The revision a slot leads to.
pub fn selected_revision(service: &Service) -> Option<&str> {
    service
        .spec
        .as_ref()?
        .selector
        .as_ref()?
        .get(labels::REVISION)
        .map(String::as_str)
}

/// Whether a Service of that name is ours: it carries our labels, and the UID of this rollout.
pub fn belongs_to(service: &Service, parent: &Parent<'_>) -> bool {
    service
        .labels()
        .get(labels::ROLLOUT)
        .is_some_and(|name| name == parent.name)
        && service
            .annotations()
            .get(labels::ROLLOUT_UID)
            .is_some_and(|uid| uid == parent.uid)
}

/// Whether the observed Service has the desired selector and ports. What the API server filled in, and whatever
/// others added to the metadata, does not count.
pub fn is_current(observed: &Service, desired: &Service) -> bool {
    let essence = |service: &Service| {
        let spec = service.spec.as_ref()?;
        let ports = spec.ports.iter().flatten();
        let ports: Vec<_> = ports
            .map(|p| {
                (
                    p.port,
                    p.target_port.clone(),
                    p.app_protocol.clone(),
                    p.protocol.clone(),
                )
            })
            .collect();
        Some((spec.selector.clone(), ports))
    };
    let labelled = desired
        .labels()
        .iter()
        .all(|(name, value)| observed.labels().get(name) == Some(value));
    labelled && essence(observed) == essence(desired)
}

/// Points a slot at another revision, and at the port where its pods take connections, in one write: nobody is led to a port that
/// the pods do not have. `None` where it leads there already, or is none of ours. Only to be done while the slot's weight is 0 and
/// programmed.
pub fn repoint_patch(service: &Service, revision: &str, port: u16, target: u16) -> Option<json_patch::Patch> {
    let present = selected_revision(service)?;
    let ports = service.spec.as_ref()?.ports.as_deref().unwrap_or_default();
    let ours = ports.iter().position(|p| p.port == i32::from(port));
    // A port that people gave a name to, or changed, is ours to set only where it is the one that routes name.
    let retarget =
        ours.filter(|index| ports[*index].target_port != Some(IntOrString::Int(i32::from(target))));
    if present == revision && retarget.is_none() {
        return None;
    }
    let path = crate::workload::pods::pointer("/spec/selector", labels::REVISION);
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": service.uid()}),
        json!({"op": "test", "path": path, "value": present}),
        json!({"op": "replace", "path": path, "value": revision}),
    ];
    if let Some(index) = retarget {
        let at = format!("/spec/ports/{index}");
        operations.push(json!({"op": "test", "path": format!("{at}/port"), "value": port}));
        operations.push(json!({"op": "add", "path": format!("{at}/targetPort"), "value": target}));
    }
    crate::workload::pods::patch(json!(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: Parent<'_> = Parent {
        name: "chat",
        namespace: "prod",
        uid: "u-1",
    };

    fn stored() -> Service {
        let mut service = build(&PARENT, "a", "x", 8080, 8080);
        service.metadata.uid = Some("s-1".into());
        let spec = service.spec.as_mut().unwrap();
        spec.cluster_ip = Some("10.96.0.7".into());
        spec.session_affinity = Some("None".into());
        service
    }

    #[test]
    fn a_slot_leads_to_the_pods_in_rotation_of_one_revision() {
        let service = serde_json::to_value(build(&PARENT, "b", "x", 8080, 8080)).unwrap();
        assert_eq!(service["metadata"]["name"], "chat-b");
        assert_eq!(service["metadata"].get("ownerReferences"), None);
        assert_eq!(
            service["spec"]["selector"],
            json!({"wsroll.dev/rollout": "chat", "wsroll.dev/revision": "x", "wsroll.dev/serving": "true"})
        );
        assert_eq!(
            service["spec"]["ports"],
            json!([{"name": "ws", "protocol": "TCP", "port": 8080, "targetPort": 8080, "appProtocol": "kubernetes.io/ws"}])
        );
    }

    #[test]
    fn what_the_api_server_fills_in_is_no_difference() {
        assert!(is_current(&stored(), &build(&PARENT, "a", "x", 8080, 8080)));
        assert!(!is_current(&stored(), &build(&PARENT, "a", "x", 9090, 9090)));
        assert!(!is_current(&stored(), &build(&PARENT, "a", "x", 8080, 9910)));
        assert!(!is_current(&stored(), &build(&PARENT, "a", "y", 8080, 8080)));
    }

    #[test]
    fn a_slot_is_pointed_elsewhere_only_from_where_it_was() {
        let service = stored();
        let patch = repoint_patch(&service, "y", 8080, 8080).unwrap();
        let mut value = serde_json::to_value(&service).unwrap();
        json_patch::patch(&mut value, &patch).unwrap();
        let moved: Service = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(selected_revision(&moved), Some("y"));
        json_patch::patch(&mut value, &patch).unwrap_err();
        assert_eq!(repoint_patch(&moved, "y", 8080, 8080), None);
    }

    #[test]
    fn the_port_of_the_pods_changes_with_the_revision_in_one_write() {
        let target = |service: &Service| {
            let ports = service.spec.as_ref().unwrap().ports.as_ref().unwrap();
            (ports[0].port, ports[0].target_port.clone())
        };
        let point = |service: &Service, revision: &str, to: u16| {
            let patch = repoint_patch(service, revision, 8080, to).unwrap();
            let mut value = serde_json::to_value(service).unwrap();
            json_patch::patch(&mut value, &patch).unwrap();
            serde_json::from_value::<Service>(value).unwrap()
        };
        let to_sidecar = point(&stored(), "y", 9910);
        assert_eq!(selected_revision(&to_sidecar), Some("y"));
        assert_eq!(
            target(&to_sidecar),
            (8080, Some(IntOrString::Int(9910))),
            "routes name the same port"
        );
        let back = point(&to_sidecar, "x", 8080);
        assert_eq!(target(&back), (8080, Some(IntOrString::Int(8080))));
        // A half that was written by hand, or by an operator of another mind, is put right.
        assert_eq!(target(&point(&to_sidecar, "y", 8080)), target(&back));
    }

    #[test]
    fn nobody_is_no_slot_and_selects_no_revision() {
        let service = nobody(&PARENT, 8080);
        assert_eq!(service.name_any(), "chat-nobody");
        assert!(leads_to_nobody(&service, "chat") && !leads_to_nobody(&service, "game"));
        assert_eq!(slot_of(&service), None);
        assert!(!leads_to_nobody(&stored(), "chat"));
    }

    #[test]
    fn a_namesakes_services_are_not_ours() {
        assert!(belongs_to(&stored(), &PARENT));
        assert!(!belongs_to(&stored(), &Parent { uid: "u-2", ..PARENT }));
        assert!(!belongs_to(&Service::default(), &PARENT));
        assert_eq!(slot_of(&stored()), Some("a"));
        assert_eq!(service_names("chat", &["a", "b"]), ["chat-a", "chat-b"]);
    }
}
