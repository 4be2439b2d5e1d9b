//! A running sidecar: its two ports, and its end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::api::{self, Keys};
use super::front::{self, Client, FULL, FULL_TIMEOUT, Place, Pool};
use super::peer::{Goodbye, Mail, Why};
use super::relay::Relay;
use super::tls::DrainTls;
use super::{Proxy, Settings};
use crate::drain::client::Token;
use crate::drain::identity::IdentityKey;

/// Connections on the drain port at once.
const MAX_DRAIN_CONNECTIONS: usize = 64;
/// Connections over the limit that are told so at once; the rest is cut.
const MAX_TOLD_FULL: usize = 64;
/// How long a request on the drain port may take to come in.
const DRAIN_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept, mostly for want of descriptors: wait for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a sidecar is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where the operator connects.
    pub drain_listen: SocketAddr,
    /// Where the application is.
    pub application: SocketAddr,
    /// The revision's drain token.
    pub token: Token,
    /// The certificate of the drain port; without one it is served in plain text, as revisions of older operators are.
    pub tls: Option<DrainTls>,
    /// The rollout's key for identities; without it there are no events and no affinity.
    pub identity_key: Option<IdentityKey>,
    /// The revision that the pod was started as.
    pub revision: Option<String>,
    /// What it is told about the application.
    pub settings: Settings,
    /// How long sessions may last after the process was asked to end.
    pub grace: Duration,
}

/// How a sidecar ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// No session was left.
    Clean,
    /// Some sessions were left at the end of the grace period, and were cut.
    GraceOver,
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct StartError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A running sidecar. Its tasks end with the token's cancellation in [`Sidecar::stop`], or with the runtime.
#[derive(Debug)]
pub struct Sidecar {
    proxy: Arc<Proxy>,
    traffic: SocketAddr,
    drain: SocketAddr,
    grace: Duration,
    ended: CancellationToken,
}

// === impl Sidecar ===

impl Sidecar {
    /// Starts a sidecar; it serves when this returns.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let Config {
            listen: traffic,
            drain_listen,
            application,
            token,
            tls,
            identity_key,
            revision,
            settings,
            grace,
        } = config;
        let (traffic_listener, traffic) = listen(traffic).await?;
        let (drain_listener, drain) = listen(drain_listen).await?;
        let proxy = Arc::new(Proxy {
            revision,
            identity_key,
            ..Proxy::new(settings, application)
        });
        let ended = CancellationToken::new();
        let background = |task| spawn_until(ended.clone(), task);
        let worker = Arc::clone(&proxy);
        background(Box::pin(async move { worker.drain.run(&worker).await }));
        let worker = Arc::clone(&proxy);
        background(Box::pin(async move { worker.sweep().await }));
        background(Box::pin(accept_clients(Arc::clone(&proxy), traffic_listener)));
        let keys = Arc::new(Keys::new(token));
        background(Box::pin(accept_operator(
            Arc::clone(&proxy),
            keys,
            tls.clone(),
            drain_listener,
        )));
        tracing::info!(%traffic, %drain, tls = tls.is_some(), %application, "serving");
        Ok(Self {
            proxy,
            traffic,
            drain,
            grace,
            ended,
        })
    }

    /// Where clients connect.
    pub fn traffic_addr(&self) -> SocketAddr {
        self.traffic
    }

    /// Where the operator connects.
    pub fn drain_addr(&self) -> SocketAddr {
        self.drain
    }

    /// Sessions that are open.
    pub fn open(&self) -> usize {
        self.proxy.registry.len()
    }

    /// Ends as SIGTERM asks for. As a native sidecar it comes last, when the application is gone already; where it is
    /// not, its sessions are let go at the settings' pace. What is left at the end of the grace period is closed at once.
    pub async fn shutdown(&self) -> Exit {
        if !self.proxy.drain.is_ending() {
            self.proxy.drain.hasten(&self.proxy);
        }
        if timeout(self.grace, self.emptied()).await.is_ok() {
            self.ended.cancel();
            return Exit::Clean;
        }
        let code = self.proxy.settings.shutdown.close_code;
        self.proxy.registry.each(|peer| {
            let why = Why::Shutdown;
            peer.post(Mail::Close(Goodbye { code, why }));
        });
        // Whoever is told now has the time of a closing handshake.
        let left = timeout(Relay::CLOSE_TIMEOUT, self.emptied()).await.is_err();
        self.ended.cancel();
        if left { Exit::GraceOver } else { Exit::Clean }
    }

    async fn emptied(&self) {
        let mut look = interval(Duration::from_millis(50));
        // Sockets of sessions that are over may still have bytes to send.
        while self.open() > 0 || !self.proxy.leaving().is_empty() {
            look.tick().await;
        }
    }

    /// Takes no more connections and no more orders, at once. Sessions go on until the runtime ends.
    pub fn stop(&self) {
        self.ended.cancel();
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn spawn_until(ended: CancellationToken, task: Task) {
    tokio::spawn(async move {
        let _ = ended.run_until_cancelled(task).await;
    });
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn accept_clients(proxy: Arc<Proxy>, listener: TcpListener) {
    let pool: Pool = front::pool(proxy.settings.limits.handshake_timeout);
    let told_full = Arc::new(Semaphore::new(MAX_TOLD_FULL));
    loop {
        let Some((stream, address)) = accept(&listener).await else {
            continue;
        };
        let Ok(here) = stream.local_addr() else {
            continue; // it has ended already
        };
        let Some(place) = Place::take(&proxy) else {
            proxy.refuse("connections");
            if let Ok(permit) = Arc::clone(&told_full).try_acquire_owned() {
                tokio::spawn(async move {
                    let _ = timeout(FULL_TIMEOUT, tell_full(stream)).await;
                    drop(permit);
                });
            }
            continue;
        };
        let client = Client {
            proxy: Arc::clone(&proxy),
            pool: pool.clone(),
            address,
            here,
            place,
        };
        tokio::spawn(front::serve(client, stream));
    }
}

/// Answers without having read: then waits for the client's end, since closing with bytes unread would be a reset that
/// takes the answer with it.
async fn tell_full(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(FULL.as_bytes()).await?;
    stream.shutdown().await?;
    let mut dropped = [0; 1024];
    while stream.read(&mut dropped).await? > 0 {}
    Ok(())
}

async fn accept_operator(proxy: Arc<Proxy>, keys: Arc<Keys>, tls: Option<DrainTls>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(MAX_DRAIN_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let Some((stream, _)) = accept(&listener).await else {
            continue;
        };
        let (proxy, keys, tls) = (Arc::clone(&proxy), Arc::clone(&keys), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve_operator(proxy, keys, stream).await,
                // Whoever does not speak TLS is not answered in plain text.
                Some(DrainTls(acceptor)) => {
                    match timeout(DRAIN_HEAD_TIMEOUT, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => serve_operator(proxy, keys, stream).await,
                        Ok(Err(error)) => {
                            tracing::debug!(
                                error = &error as &dyn std::error::Error,
                                "no TLS on the drain port"
                            );
                        }
                        Err(_) => tracing::debug!("a TLS handshake on the drain port took too long"),
                    }
                }
            }
            drop(permit);
        });
    }
}

async fn serve_operator(
    proxy: Arc<Proxy>,
    keys: Arc<Keys>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(move |request| {
        let served = api::serve(Arc::clone(&proxy), Arc::clone(&keys), request);
        async move { Ok::<_, Infallible>(served.await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(DRAIN_HEAD_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "drain connection ended");
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, address)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, address))
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "failed to accept");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
