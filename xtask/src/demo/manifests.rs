//! What the demo puts into the cluster beside wsroll itself.

use serde_json::{Value, json};

use super::setup::Stage;

/// The rollout, and the HTTPRoute whose weights it moves.
pub const ROLLOUT: &str = "chat";

/// The plain Deployment that is compared, with a Service and an HTTPRoute of its own.
pub const PLAIN: &str = "plain";

/// The port of the example service.
const PORT: u16 = 8080;

/// Pauses between steps, in seconds.
pub const PAUSE_S: u64 = 5;

/// The last step's monitoring window, in seconds; weeks in real life.
const ROLLBACK_WINDOW_S: u64 = 10;

/// The default of `drain.notice.reconnectWindow`, in seconds.
pub const RECONNECT_WINDOW_S: u64 = 5;

/// Weights of the release's steps.
pub const STEPS: [u8; 3] = [10, 50, 100];

/// A version of the example service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The name people know it by.
    pub name: &'static str,
    /// Its faults, as `FAULT` takes them.
    pub fault: Option<String>,
}

impl Version {
    /// One that works.
    pub fn good(name: &'static str) -> Self {
        Self { name, fault: None }
    }

    /// One with faults.
    pub fn broken(name: &'static str, fault: impl Into<String>) -> Self {
        Self {
            name,
            fault: Some(fault.into()),
        }
    }
}

impl Stage {
    /// Redis, the keys, and the route with the three slots.
    pub fn surroundings(&self) -> Value {
        let slots: Vec<Value> = [("a", 100), ("b", 0), ("c", 0)]
            .into_iter()
            .map(
                |(slot, weight)| json!({"name": format!("{ROLLOUT}-{slot}"), "port": PORT, "weight": weight}),
            )
            .collect();
        list(&[
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": self.named("session-key"),
                "stringData": {"key": self.key},
            }),
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": self.named("probe"),
                "stringData": {"token": self.token("probe")},
            }),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": self.named("redis"),
                "spec": {
                    "selector": {"matchLabels": {"app": "redis"}},
                    "template": {
                        "metadata": {"labels": {"app": "redis"}},
                        "spec": pod(&json!({
                            "name": "redis",
                            "image": self.images.redis,
                            "ports": [{"containerPort": 6379}],
                            "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
                            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
                        })),
                    },
                },
            }),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": self.named("redis"),
                "spec": {"selector": {"app": "redis"}, "ports": [{"port": 6379}]},
            }),
            self.route(ROLLOUT, &json!(slots)),
        ])
    }

    /// The rollout of a version.
    pub fn rollout(&self, version: &Version) -> Value {
        let pause = |seconds: u64| json!({"duration": format!("{seconds}s")});
        let steps: Vec<Value> = STEPS
            .into_iter()
            .map(|weight| json!({"weight": weight, "pause": pause(PAUSE_S)}))
            .collect();
        json!({
            "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
            "metadata": self.named(ROLLOUT),
            "spec": {
                "replicas": self.size.pods,
                "traffic": {"port": PORT, "routes": [{"name": ROLLOUT}]},
                "steps": steps,
                "drain": {
                    "budget": {"connectsPerSecond": self.size.budget},
                    "notice": {"hint": "Query", "reconnectWindow": format!("{RECONNECT_WINDOW_S}s")},
                },
                "probes": {
                    "url": self.url(ROLLOUT),
                    "connectTo": self.cluster.gateway_inside,
                    "sessions": self.size.probes,
                    "recycle": "1s",
                    "tokenFrom": {"secretKeyRef": {"name": "probe", "key": "token"}},
                },
                // The defaults (90 %, 80 %, 99 % sure) take about a hundred reconnects of a version that restores everybody. A demo has
                // seconds: ten reconnects a second and these bounds take 30 to 45, and a version that restores nobody goes back after 7.
                "thresholds": {"reconnectSuccess": {
                    "window": "10s",
                    "minSamples": 30,
                    "confidencePercent": 90,
                    "advanceAbovePercent": 80,
                    "rollbackBelowPercent": 70,
                }},
                "progressDeadline": "180s",
                "rollbackWindow": format!("{ROLLBACK_WINDOW_S}s"),
                "template": {
                    "metadata": {"labels": {"app": ROLLOUT}},
                    "spec": self.service(version),
                },
            },
        })
    }

    /// The same service as a plain Deployment, with the update strategy that Kubernetes gives by default.
    pub fn deployment(&self, version: &Version) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": self.named(PLAIN),
            "spec": {
                "replicas": self.size.pods,
                "selector": {"matchLabels": {"app": PLAIN}},
                "template": {
                    "metadata": {"labels": {"app": PLAIN}},
                    "spec": self.service(version),
                },
            },
        })
    }

    /// Service and route of the plain Deployment.
    pub fn deployment_surroundings(&self) -> Value {
        list(&[
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": self.named(PLAIN),
                "spec": {
                    "selector": {"app": PLAIN},
                    "ports": [{"port": PORT, "appProtocol": "kubernetes.io/ws"}],
                },
            }),
            self.route(PLAIN, &json!([{"name": PLAIN, "port": PORT}])),
        ])
    }

    /// Where users dial a service of the demo.
    pub fn url(&self, service: &str) -> String {
        format!("ws://{}/ws", self.host(service))
    }

    /// The pods' spec of the example service; both ways of shipping it get the same.
    fn service(&self, version: &Version) -> Value {
        let mut env = vec![
            json!({"name": "STORE", "value": "redis://redis:6379"}),
            json!({"name": "SESSION_KEY", "valueFrom": {"secretKeyRef": {"name": "session-key", "key": "key"}}}),
            json!({"name": "VERSION", "value": version.name}),
        ];
        env.extend(
            version
                .fault
                .as_ref()
                .map(|fault| json!({"name": "FAULT", "value": fault})),
        );
        pod(&json!({
            "name": "app",
            "image": self.images.server,
            "env": env,
            "ports": [{"containerPort": PORT}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
            // Little, so that two dozen of them fit on the embedded cluster's node.
            "resources": {"requests": {"cpu": "20m", "memory": "16Mi"}},
        }))
    }

    fn route(&self, name: &str, backends: &Value) -> Value {
        let (namespace, gateway) = self
            .cluster
            .gateway_ref
            .split_once('/')
            .unwrap_or(("default", &self.cluster.gateway_ref));
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": self.named(name),
            "spec": {
                "parentRefs": [{"name": gateway, "namespace": namespace}],
                "hostnames": [self.host(name)],
                "rules": [{"backendRefs": backends}],
            },
        })
    }

    fn host(&self, service: &str) -> String {
        format!("{service}.{}.example.com", self.namespace)
    }

    fn named(&self, name: &str) -> Value {
        json!({"name": name, "namespace": self.namespace})
    }
}

/// A pod's spec around its container, as the `restricted` pod security standard wants it.
fn pod(container: &Value) -> Value {
    let mut container = container.clone();
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
    });
    json!({
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
    })
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_ship_the_same_pods() {
        let stage = Stage::for_tests();
        let version = Version::broken("v3", "mute");
        let rollout = stage.rollout(&version);
        let plain = stage.deployment(&version);
        assert_eq!(
            rollout["spec"]["template"]["spec"],
            plain["spec"]["template"]["spec"]
        );
        let env = &rollout["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(env[3], json!({"name": "FAULT", "value": "mute"}));
        assert!(
            stage.rollout(&Version::good("v2"))["spec"]["template"]["spec"]["containers"][0]["env"]
                .get(3)
                .is_none()
        );
    }

    #[test]
    fn the_route_has_the_three_slots_of_the_rollout() {
        let surroundings = Stage::for_tests().surroundings();
        let route = &surroundings["items"][4]["spec"];
        assert_eq!(
            route["parentRefs"][0],
            json!({"name": "gateway", "namespace": "edge"})
        );
        let backends = route["rules"][0]["backendRefs"].as_array().unwrap();
        let names: Vec<&str> = backends
            .iter()
            .filter_map(|backend| backend["name"].as_str())
            .collect();
        assert_eq!(names, ["chat-a", "chat-b", "chat-c"]);
    }
}
