//! Where cluster, gateway and images are: told by `cargo xtask test e2e`.

use std::path::PathBuf;

/// What the tests are told through the environment.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of the gateway as this process reaches it.
    pub gateway: String,
    /// `host:port` of the gateway as pods reach it.
    pub gateway_inside: String,
    /// Namespace and name of the Gateway object.
    pub gateway_ref: (String, String),
    /// Image with the operator.
    pub operator_image: String,
    /// Image of `examples/session-server`.
    pub server_image: String,
    /// Image of Redis.
    pub redis_image: String,
    /// The `wsroll` program on this host.
    pub wsroll: PathBuf,
    /// The `kubectl` that reaches the cluster.
    pub kubectl: PathBuf,
    /// The project's own tasks, which builds the applications that tests ask for.
    pub xtask: PathBuf,
    /// Nothing may be installed on this host for that.
    pub no_install: bool,
    /// Leave the namespaces for a look.
    pub keep: bool,
}

impl Settings {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let told = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask test e2e`"))
        };
        let gateway_ref = told("WSROLL_E2E_GATEWAY_REF");
        let (namespace, name) = gateway_ref
            .split_once('/')
            .expect("WSROLL_E2E_GATEWAY_REF is namespace/name");
        Self {
            gateway: told("WSROLL_E2E_GATEWAY"),
            gateway_inside: told("WSROLL_E2E_GATEWAY_INSIDE"),
            gateway_ref: (namespace.to_owned(), name.to_owned()),
            operator_image: told("WSROLL_E2E_OPERATOR_IMAGE"),
            server_image: told("WSROLL_E2E_SERVER_IMAGE"),
            redis_image: told("WSROLL_E2E_REDIS_IMAGE"),
            wsroll: told("WSROLL_E2E_WSROLL_BIN").into(),
            kubectl: std::env::var_os("WSROLL_E2E_KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from),
            xtask: told("WSROLL_E2E_XTASK").into(),
            no_install: std::env::var("WSROLL_E2E_NO_INSTALL").is_ok(),
            keep: std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty() && keep != "0"),
        }
    }
}
