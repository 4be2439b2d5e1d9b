//! What every test needs: a namespace with an operator in it, the status as it changes, a load of held sessions.

mod app;
mod cluster;
mod load;
mod mischief;
mod namespace;
mod objects;
mod partition;
mod settings;
mod status;
mod stores;
mod stranger;
mod visitor;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures_util::FutureExt as _;
use kube::Client;

pub use app::{App, NAME, PORT, route};
pub use load::{Load, Summary};
pub use partition::Partition;
pub use settings::Settings;
pub use status::{reason_of, weight_of};
pub use stores::Keeper;
pub use stranger::Server;

/// Longer than this no test runs.
const TEST_DEADLINE: Duration = Duration::from_secs(300);

/// One test's part of the cluster.
pub struct Case {
    /// The user who applies things.
    pub client: Client,
    /// Where things are.
    pub settings: Settings,
    /// The namespace, of this test alone.
    pub namespace: String,
    /// The host name under which the service is reached.
    pub host: String,
    history: status::History,
}

/// Runs a test in a namespace of its own; tells what was seen when it fails, and takes the namespace away.
pub async fn run(name: &str, test: impl AsyncFn(&Case) -> Result<()>) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let case = Case::open(name).await.expect("failed to set up the test");
    let ran = AssertUnwindSafe(async {
        tokio::time::timeout(TEST_DEADLINE, test(&case))
            .await
            .unwrap_or_else(|_| Err(anyhow!("not done within {TEST_DEADLINE:?}")))
    })
    .catch_unwind()
    .await;
    let failed = !matches!(ran, Ok(Ok(())));
    if failed {
        case.tell().await;
    }
    if case.settings.keep {
        eprintln!("kept: namespace {}", case.namespace);
    } else if let Err(error) = case.close().await {
        eprintln!("namespace {} stays: {error:#}", case.namespace);
    }
    match ran {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Case {
    async fn open(name: &str) -> Result<Self> {
        let settings = Settings::from_env();
        let client = Client::try_default()
            .await
            .context("failed to reach the cluster")?;
        let suffix = format!("{:04x}", rand::random::<u16>());
        let namespace = format!("e2e-{name}-{suffix}");
        let case = Self {
            host: format!("{namespace}.example.com"),
            history: status::History::watch(client.clone(), &namespace),
            client,
            settings,
            namespace,
        };
        if let Err(error) = case.set_up().await {
            case.tell().await;
            // What was begun goes as well: a namespace that stays takes the room of every later test.
            let _ = case.close().await;
            return Err(error);
        }
        Ok(case)
    }
}
