//! Which pods are trusted: those that prove one name by a certificate of one authority, whatever address they are dialled at.
//!
//! Pods have no names that DNS could be asked for, and an address says nothing: it belongs to somebody else as soon as its pod is gone.
//! So the address is dialled and a fixed name is checked.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::http;

/// Trust in a revision's pods. Cheap to clone: clones share connections.
#[derive(Clone, Debug)]
pub struct Trust {
    pub(super) http: reqwest::Client,
}

/// Why nobody can be trusted by this.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not one certificate.
    #[error("the authority is no certificate in PEM")]
    Authority,
    /// A certificate that cannot be an authority's.
    #[error("the authority's certificate cannot be used")]
    Root(#[source] rustls::Error),
    /// A verifier cannot be made of it.
    #[error("no certificate can be verified by the authority")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// Not a name that a certificate can have.
    #[error("{0:?} is no name of a server")]
    Name(String),
    /// TLS could not be set up.
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
    /// The HTTP client itself could not be made.
    #[error("failed to make the http client")]
    Build(#[source] http::BuildError),
}

/// Asks for one name, whatever was dialled.
#[derive(Debug)]
struct FixedName {
    by: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

// === impl Trust ===

impl Trust {
    pub(super) fn new(authority: &str, name: &str, timeout: Duration) -> Result<Self, Error> {
        let mut certificates = CertificateDer::pem_slice_iter(authority.as_bytes());
        let (Some(Ok(root)), None) = (certificates.next(), certificates.next()) else {
            return Err(Error::Authority);
        };
        let mut roots = RootCertStore::empty();
        roots.add(root).map_err(Error::Root)?;
        let by = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(Error::Verifier)?;
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::Name(name.to_owned()))?;
        let mut tls = nobody().map_err(Error::Setup)?;
        tls.dangerous()
            .set_certificate_verifier(Arc::new(FixedName { by, name }));
        // The name dialled is an address, which is nobody's to prove.
        tls.enable_sni = false;
        let http = http::build(timeout, tls).map_err(Error::Build)?;
        Ok(Self { http })
    }
}

// === impl FixedName ===

impl ServerCertVerifier for FixedName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.by
            .verify_server_cert(certificate, between, &self.name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by.supported_verify_schemes()
    }
}

/// A set-up that trusts nobody: TLS 1.3 only, since both ends are of this project.
pub(super) fn nobody() -> Result<ClientConfig, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
