//! Whom a session trusts, and as whom it shows itself.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use thiserror::Error;

/// A TLS set-up, shared by all sessions of a fleet. Never shown by `Debug`: it may hold a private key.
#[derive(Clone)]
pub struct Tls(pub(super) Arc<ClientConfig>);

/// PEM as read from files or Secrets; what is not there is left to the machine.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that are trusted, instead of the machine's roots.
    pub roots: Option<Vec<u8>>,
    /// The client's certificate and those that lead to its root, and its private key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why no TLS set-up came of it.
#[derive(Debug, Error)]
pub enum TlsError {
    /// No certificate in the roots' PEM.
    #[error("there is no certificate (PEM) to trust in it")]
    Roots,
    /// No certificate in the client's PEM.
    #[error("there is no client certificate (PEM) in it")]
    Certificate,
    /// No private key in the client's PEM.
    #[error("there is no private key (PEM) in it")]
    Key,
    /// They do not fit together.
    #[error("the client certificate and its key cannot be used together")]
    Client(#[source] rustls::Error),
    /// None could be made at all.
    #[error("failed to set up TLS")]
    Build(#[source] rustls::Error),
}

// === impl Tls ===

impl Tls {
    /// A set-up by these files.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        match &files.roots {
            // A machine without root certificates fails at the handshake, with the better message.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            Some(pem) => {
                let given = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
                if roots.add_parsable_certificates(given).0 == 0 {
                    return Err(TlsError::Roots);
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Build)?
            .with_root_certificates(roots);
        let mut config = match &files.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
                    .filter_map(Result::ok)
                    .collect();
                if chain.is_empty() {
                    return Err(TlsError::Certificate);
                }
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(TlsError::Client)?
            }
        };
        // Every connect is to cost what a user's first connect costs, and tickets would be kept for each session.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Tells set-ups apart, for as long as they live.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsFiles(…)")
    }
}

/// What a failed handshake means to the one who has to mend it; `None` where TLS is not what failed.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(sentence(error));
        }
        // An I/O error does not show what it wraps as its source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn sentence(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            // A root of the same name with another key: one that was renewed.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the service's certificate comes from an issuer that is not trusted; name its root in tls.caFrom (--ca-file)"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the service's certificate has expired"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the service's certificate is for other names; say which in tls.serverName (--server-name)"
            }
            _ => "the service's certificate is not valid",
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the service asks for a client certificate; name one in tls.clientCertificate (--cert-file, --key-file)"
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => "the service does not accept the client certificate",
            AlertDescription::UnrecognisedName => {
                "the service knows no such name; say which in tls.serverName (--server-name)"
            }
            _ => "the service ended the TLS handshake",
        },
        _ => "the two sides do not agree on TLS",
    }
}
