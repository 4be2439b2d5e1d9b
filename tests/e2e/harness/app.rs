//! The application of a test: `examples/session-server` as a rollout, with fast settings and switchable faults.

use serde_json::{Value, json};
use wsroll::api::spec::Scenario;

use super::Case;

/// Name of the rollout and of its route.
pub const NAME: &str = "chat";
/// The port of the application.
pub const PORT: u16 = 8080;
/// Signs session tokens; as secret as a test can be.
pub const SESSION_KEY: &str = "an-end-to-end-test-needs-no-secret";

/// What the sessions' database asks for; likewise.
pub const POSTGRES_PASSWORD: &str = "an-end-to-end-test-has-no-data";
/// Seals what stands in a store: 32 bytes in base64.
pub const STATE_KEY: &str = "YW4tZW5kLXRvLWVuZC10ZXN0LW5lZWRzLW5vLWtleXM=";

/// A rollout to be applied.
#[derive(Debug, Clone)]
pub struct App {
    version: String,
    fault: String,
    store: String,
    patches: Vec<Value>,
    ready_by_port: bool,
    sealed: bool,
}

impl App {
    /// A version without faults, with its sessions in Redis, on three pods.
    pub fn version(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            fault: String::new(),
            store: "redis://redis:6379".to_owned(),
            patches: Vec::new(),
            ready_by_port: false,
            sealed: false,
        }
    }

    /// The same with a fault switched on.
    #[must_use]
    pub fn fault(mut self, fault: &str) -> Self {
        fault.clone_into(&mut self.fault);
        self
    }

    /// The same with its sessions in the memory of each pod.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        "memory".clone_into(&mut self.store);
        self
    }

    /// The same with its sessions in PostgreSQL: see [`Case::postgres`].
    #[must_use]
    pub fn postgres(mut self) -> Self {
        self.store = format!("postgres://chat:{POSTGRES_PASSWORD}@postgres:5432/postgres");
        self
    }

    /// The same with what it stores sealed by a key from a Secret.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.sealed = true;
        self
    }

    /// The same with a merge patch of the whole object.
    #[must_use]
    pub fn patch(mut self, patch: Value) -> Self {
        self.patches.push(patch);
        self
    }

    /// The same with these steps.
    #[must_use]
    pub fn steps(self, steps: &Value) -> Self {
        self.patch(json!({"spec": {"steps": steps}}))
    }

    /// The same with these scenarios in its rehearsal, and the time that they take.
    #[must_use]
    pub fn rehearsed_by(self, scenarios: &[Scenario]) -> Self {
        self.patch(json!({"spec": {"rehearsal": {"scenarios": scenarios}, "progressDeadline": "3m"}}))
    }

    /// The same with a pace that leaves time to do something in the middle of a wave.
    #[must_use]
    pub fn slowly(self) -> Self {
        self.patch(json!({"spec": {"drain": {"budget": {"connectsPerSecond": 10}}}}))
    }

    /// The same, told ready by its open port: it has no page for that.
    #[must_use]
    pub fn without_health(self) -> Self {
        let mut same = self;
        same.ready_by_port = true;
        same
    }

    /// The resource, as it is sent to the API server.
    pub fn manifest(&self, case: &Case) -> Value {
        let mut rollout = json!({
            "apiVersion": "wsroll.dev/v1alpha1",
            "kind": "WebSocketRollout",
            "metadata": {"name": NAME, "namespace": case.namespace},
            "spec": {
                "replicas": 3,
                "template": self.template(case),
                "traffic": {"port": PORT, "routes": [{"name": NAME}]},
                "steps": [
                    {"weight": 10, "pause": {"duration": "2s"}},
                    {"weight": 50, "pause": {"duration": "2s"}},
                    {"weight": 100, "pause": {"duration": "2s"}},
                ],
                "drain": {
                    "budget": {"connectsPerSecond": 50},
                    "deadline": "2m",
                    "notice": {"hint": "Query", "reconnectWindow": "2s"},
                },
                "probes": {
                    "url": format!("ws://{}/ws", case.host),
                    "connectTo": case.settings.gateway_inside,
                    "sessions": 10,
                    "recycle": "1s",
                    "tokenFrom": {"secretKeyRef": {"name": "probe-token", "key": "token"}},
                },
                "thresholds": {
                    // A test has seconds, not minutes: at ten reconnects a second, all of them good, these bounds pass a part of a
                    // release after 15 to 30 samples (its epochs 1 to 9), and find a version that restores nobody after 6 to 12.
                    "reconnectSuccess": {
                        "window": "10s",
                        "minSamples": 10,
                        "confidencePercent": 80,
                        "advanceAbovePercent": 75,
                        "rollbackBelowPercent": 60,
                    },
                    // Two shared cores: what is slow here is the machine.
                    "reconnectTime": {"noise": "2s"},
                },
                // All five are played by the tests of rehearsals; these three are enough to find what is broken, and take seconds.
                "rehearsal": {"scenarios": ["HandOff", "StatePreservation", "GracefulShutdown"]},
                "progressDeadline": "60s",
                "rollbackWindow": "5s",
                "rollback": {"deadline": "60s"},
            },
        });
        for patch in &self.patches {
            json_patch::merge(&mut rollout, patch);
        }
        if self.sealed {
            let pod = &mut rollout["spec"]["template"]["spec"];
            pod["volumes"] = json!([{"name": "state-key", "secret": {"secretName": "state-key"}}]);
            pod["containers"][0]["volumeMounts"] =
                json!([{"name": "state-key", "mountPath": "/var/run/chat", "readOnly": true}]);
            if let Some(env) = pod["containers"][0]["env"].as_array_mut() {
                env.push(json!({"name": "STATE_KEY_FILE", "value": "/var/run/chat/keys"}));
            }
        }
        if self.ready_by_port {
            rollout["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
                json!({"tcpSocket": {"port": PORT}, "periodSeconds": 1});
        }
        rollout
    }

    fn template(&self, case: &Case) -> Value {
        json!({
            "metadata": {"labels": {"app": NAME}},
            "spec": {
                "terminationGracePeriodSeconds": 15,
                "containers": [{
                    "name": "app",
                    "image": case.settings.server_image,
                    "ports": [{"containerPort": PORT}],
                    "env": [
                        {"name": "SESSION_KEY", "valueFrom": {"secretKeyRef": {"name": "session-key", "key": "key"}}},
                        {"name": "STORE", "value": self.store},
                        {"name": "VERSION", "value": self.version},
                        {"name": "FAULT", "value": self.fault},
                    ],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 5},
                    "resources": {"requests": {"cpu": "15m", "memory": "16Mi"}},
                }],
            },
        })
    }
}

/// The route of the rollout: three slots, the first of which gets everything.
pub fn route(case: &Case) -> Value {
    let (namespace, name) = &case.settings.gateway_ref;
    let backend =
        |slot: &str, weight: i32| json!({"name": format!("{NAME}-{slot}"), "port": PORT, "weight": weight});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": NAME, "namespace": case.namespace},
        "spec": {
            "parentRefs": [{"name": name, "namespace": namespace}],
            "hostnames": [case.host],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/ws"}}],
                "backendRefs": [backend("a", 100), backend("b", 0), backend("c", 0)],
            }],
        },
    })
}
