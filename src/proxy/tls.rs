//! TLS on the drain port: the certificate that the revision was given.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// A certificate and its key, checked to belong together. Never shown by `Debug`.
#[derive(Clone)]
pub struct DrainTls(pub(super) TlsAcceptor);

/// Why the drain port cannot be served by TLS. There is no other way to serve it then.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate in the file.
    #[error("the certificate file holds no certificate in PEM")]
    Certificate,
    /// No key in the file.
    #[error("the key file holds no private key in PEM")]
    Key,
    /// They do not belong together, or cannot be used.
    #[error("the certificate and its key cannot be used")]
    Pair(#[source] rustls::Error),
}

// === impl DrainTls ===

impl DrainTls {
    /// Reads both from PEM.
    pub fn new(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::Certificate)?;
        if chain.is_empty() {
            return Err(TlsError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        // Kubelets of any age knock here as well, for health and for the preStop hook.
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Pair)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

impl std::fmt::Debug for DrainTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DrainTls(…)")
    }
}
