//! A running server: listeners, tasks, and the two ways to end (politely, or at once).

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, Secret},
    drain::{self, Drain, Events},
    fault::Restores,
    http,
    session::{Goodbye, Registry},
    store::random_id,
};

/// Connections on the drain port at once.
const MAX_DRAIN_CONNECTIONS: usize = 64;
/// Bytes that a connection may buffer before it is upgraded; also the bound on a request's headers.
const MAX_HEADERS: usize = 16 * 1024;
/// Close code when the process ends as an ordinary deploy ends it.
const GOING_AWAY: u16 = 1001;

/// What all parts of a server share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Config,
    /// Random per process: tells a restarted one from the one before.
    pub(crate) instance: String,
    pub(crate) registry: Registry,
    pub(crate) drain: Drain,
    /// Who came and who went.
    pub(crate) events: Events,
    /// The `restore-per-second` fault.
    pub(crate) restores: Restores,
    /// Sockets upgraded and not yet closed.
    tasks: TaskTracker,
    /// No more connections are taken.
    stopping: CancellationToken,
    /// Everything ends now, as in a crash.
    killed: CancellationToken,
    exit: watch::Sender<Option<Exit>>,
    /// Spaces the log lines about a store that fails.
    pub(crate) store_log: Spacing,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every socket was closed in time.
    Clean,
    /// Some sockets were still open at the end of the grace period, and were cut.
    GraceOver,
    /// The `crash` fault struck.
    Crashed,
    /// [`Server::kill`] was called.
    Killed,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct StartError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A running server. Dropping it does not stop it.
#[derive(Clone, Debug)]
pub struct Server {
    app: Arc<App>,
    traffic: SocketAddr,
    drain: Option<SocketAddr>,
}

/// Lets one event a second through.
#[derive(Debug, Default)]
pub(crate) struct Spacing(Mutex<Option<Instant>>);

// === impl Spacing ===

impl Spacing {
    /// Whether a second has passed since it last said so.
    pub(crate) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now >= last + Duration::from_secs(1));
        if due {
            *last = Some(now);
        }
        due
    }
}

// === impl Server ===

impl Server {
    /// Starts a server; it serves when this returns.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (traffic_listener, traffic) = listen(config.listen).await?;
        let drain_port = match config.drain.clone() {
            Some(port) => Some((listen(port.listen).await?, port.token)),
            None => None,
        };
        let events = Events::new(config.identity_key.clone());
        let restores = Restores::new(config.faults.restore_per_second);
        let app = Arc::new(App {
            config,
            instance: random_id(),
            registry: Registry::default(),
            drain: Drain::new(),
            events,
            restores,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            killed: CancellationToken::new(),
            exit: watch::Sender::new(None),
            store_log: Spacing::default(),
        });
        let takeovers = app.config.store.takeovers(&app.instance, app.killed.clone());
        app.background(watch_takeovers(Arc::clone(&app), takeovers));
        let keeper = app.config.store.clone();
        app.background(async move { keeper.keep_house().await });
        let worker = Arc::clone(&app);
        app.background(async move { worker.drain.run(&worker).await });
        app.background(accept_traffic(Arc::clone(&app), traffic_listener));
        let mut drain = None;
        if let Some(((listener, address), token)) = drain_port {
            drain = Some(address);
            app.background(accept_drain(Arc::clone(&app), listener, token));
        }
        let (revision, store) = (&app.config.revision, app.config.store.kind());
        tracing::info!(%traffic, drain = ?drain, revision, store, "serving");
        Ok(Self { app, traffic, drain })
    }

    /// Where clients connect.
    pub fn traffic_addr(&self) -> SocketAddr {
        self.traffic
    }

    /// The drain port's address, if there is one.
    pub fn drain_addr(&self) -> Option<SocketAddr> {
        self.drain
    }

    /// Open sockets, whatever the `lie` fault says.
    pub fn open(&self) -> usize {
        self.app.registry.len()
    }

    /// Ends the server as SIGTERM does. Without an order at work every socket is closed with 1001 at once, which is
    /// what an ordinary deploy does; under an order the drain goes on, and what is left shortly before the end of the
    /// grace period is closed with the order's code.
    pub async fn shutdown(&self) -> Exit {
        let app = &self.app;
        app.stopping.cancel();
        app.tasks.close();
        let limits = &app.config.limits;
        let end = Instant::now() + limits.shutdown_grace;
        if app.drain.active_code().is_some() {
            let polite = limits
                .shutdown_grace
                .saturating_sub(limits.close_timeout + Duration::from_secs(1));
            let _ = time::timeout(polite, app.tasks.wait()).await;
        }
        let code = app.drain.active_code().unwrap_or(GOING_AWAY);
        app.registry.close_all(&Goodbye::Shutdown { code });
        let exit = match time::timeout_at(end, app.tasks.wait()).await {
            Ok(()) => Exit::Clean,
            Err(_) => Exit::GraceOver,
        };
        app.end(exit);
        exit
    }

    /// Ends the server as a crash does: every connection is cut without a word.
    pub fn kill(&self) {
        self.app.end(Exit::Killed);
    }

    /// Waits for the end, however it comes.
    pub async fn ended(&self) -> Exit {
        let mut exit = self.app.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Killed),
            Err(_) => Exit::Killed,
        }
    }
}

// === impl App ===

impl App {
    /// Whether another socket would be taken while `open` are.
    pub(crate) fn is_accepting(&self, open: usize) -> bool {
        !self.stopping.is_cancelled() && open < self.config.limits.max_sockets
    }

    /// Runs the task of a socket; a shutdown waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let killed = self.killed.clone();
        self.tasks.spawn(async move {
            let _ = killed.run_until_cancelled(task).await;
        });
    }

    /// The `crash` fault.
    pub(crate) fn crash(&self) {
        self.end(Exit::Crashed);
    }

    /// Runs a task that lasts as long as the server.
    fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        let killed = self.killed.clone();
        tokio::spawn(async move {
            let _ = killed.run_until_cancelled(task).await;
        });
    }

    fn end(&self, exit: Exit) {
        self.stopping.cancel();
        self.exit.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(exit);
            is_first
        });
        self.killed.cancel();
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn watch_takeovers(app: Arc<App>, mut takeovers: crate::store::Takeovers) {
    while let Some(takeover) = takeovers.recv().await {
        app.registry.taken(&takeover);
    }
}

async fn accept_traffic(app: Arc<App>, listener: TcpListener) {
    // Headers are read by so many connections at once; sockets that are upgraded no longer count.
    let permits = Arc::new(Semaphore::new(app.config.limits.max_sockets));
    accept(&app.stopping, &listener, &permits, |stream, permit| {
        let serving = Arc::clone(&app);
        app.background(async move {
            let timeout = serving.config.limits.header_timeout;
            let service = service_fn(move |request| http::serve(Arc::clone(&serving), request));
            let connection = builder(timeout)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
            }
            drop(permit);
        });
    })
    .await;
}

async fn accept_drain(app: Arc<App>, listener: TcpListener, token: Secret) {
    let permits = Arc::new(Semaphore::new(MAX_DRAIN_CONNECTIONS));
    // Orders and reports are taken until the very end.
    accept(&app.killed, &listener, &permits, |stream, permit| {
        let (serving, token) = (Arc::clone(&app), token.clone());
        app.background(async move {
            let timeout = serving.config.limits.header_timeout;
            let service = service_fn(move |request: Request<Incoming>| {
                let (app, token) = (Arc::clone(&serving), token.clone());
                async move { Ok::<_, Infallible>(drain::serve(&app, &token, request).await) }
            });
            let connection = builder(timeout).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "drain connection ended");
            }
            drop(permit);
        });
    })
    .await;
}

/// Accepts until `stop`, at most as many at once as there are permits.
async fn accept(
    stop: &CancellationToken,
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    serve: impl Fn(TcpStream, tokio::sync::OwnedSemaphorePermit),
) {
    let all = async {
        loop {
            let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    serve(stream, permit);
                }
                Err(error) => {
                    // Out of descriptors, mostly: wait for some to come back instead of spinning.
                    tracing::warn!(error = &error as &dyn std::error::Error, "failed to accept");
                    time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    let _ = stop.run_until_cancelled(all).await;
}

fn builder(header_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEADERS);
    builder
}
