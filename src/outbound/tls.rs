//! TLS toward others. Toward pods it is another: see `drain::tls`.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Trusts the machine's root certificates: for URLs that people write.
pub fn public() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    // A machine without root certificates fails at the handshake, with the better message.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
