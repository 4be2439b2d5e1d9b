//! How pods are called over HTTP, by whichever protocol.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// TLS could not be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// The client itself could not be made.
    #[error("failed to build the http client")]
    Http(#[source] reqwest::Error),
}

/// A client whose calls take at most `timeout` each, connecting included. It follows no redirect and uses no proxy: what is sent goes to
/// the pod's own address, and what is read is the pod's own.
pub(super) fn client(timeout: Duration) -> Result<reqwest::Client, BuildError> {
    // Plain text is all it speaks.
    build(timeout, super::tls::nobody().map_err(BuildError::Tls)?)
}

/// The same with a TLS set-up that says which pods are trusted.
pub(super) fn build(timeout: Duration, tls: rustls::ClientConfig) -> Result<reqwest::Client, BuildError> {
    reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .pool_idle_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(1)
        .user_agent(concat!("wsroll/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(BuildError::Http)
}

/// The same client, which trusts exactly these roots. Pods are called in the clear and need none; left to itself the client would
/// look for the system's, and fail where an image has none, or where nobody has chosen a cryptography provider yet.
pub(crate) fn with_roots(builder: reqwest::ClientBuilder, roots: RootCertStore) -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    match config {
        Ok(config) => {
            builder.tls_backend_preconfigured(config.with_root_certificates(roots).with_no_client_auth())
        }
        // The provider knows the default versions.
        Err(_) => builder,
    }
}
