//! How pods are called over HTTP, by whichever protocol.

use std::time::Duration;

/// A client whose calls take at most `timeout` each, connecting included. It follows no redirect and uses no proxy: what is sent goes to
/// the pod's own address, and what is read is the pod's own.
pub(super) fn client(timeout: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(1)
        .user_agent(concat!("wsroll/", env!("CARGO_PKG_VERSION")))
        .build()
}
