//! TLS to PostgreSQL, by rustls. The server's certificate is always checked, name included.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use deadpool_postgres::tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsConnector, client};

use super::SetupError;

/// Makes connectors for a server's name.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

/// Shakes hands with one server.
pub(super) struct Connect {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A connection. Its type is another's, and so is the trait that it needs: hence one of our own.
pub(super) struct Stream(client::TlsStream<Socket>);

// === impl Tls ===

impl Tls {
    /// Trusts the authorities in `file`, or without one those of the machine.
    pub(super) fn new(file: Option<&Path>) -> Result<Self, SetupError> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = file {
            let broken = |error| SetupError::Authorities(file.display().to_string(), error);
            for certificate in CertificateDer::pem_file_iter(file).map_err(|e| broken(e.to_string()))? {
                let certificate = certificate.map_err(|e| broken(e.to_string()))?;
                roots.add(certificate).map_err(|e| broken(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(broken("there is no certificate in it".to_owned()));
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(SetupError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = Connect;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, name: &str) -> Result<Connect, InvalidDnsNameError> {
        Ok(Connect {
            config: Arc::clone(&self.0),
            name: ServerName::try_from(name)?.to_owned(),
        })
    }
}

// === impl Connect ===

impl TlsConnect<Socket> for Connect {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let connecting = TlsConnector::from(self.config).connect(self.name, socket);
        Box::pin(async { Ok(Stream(connecting.await?)) })
    }
}

// === impl Stream ===

impl TlsStream for Stream {
    /// None: SCRAM without it is as good where the certificate was checked.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
