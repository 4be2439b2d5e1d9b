//! Two revisions of the example service behind a router that sends connections by pin and hint, as a gateway would.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_server::config::Config;
use session_server::store::{MemoryStore, Store};
use session_server::{Server, token::SessionKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use wsroll::drain::client::{DrainClient, Token as DrainToken};
use wsroll::drain::protocol::{DrainOrder, Hint, Mode, OnDeadline, Reason, Reconnect, Select};
use wsroll::probe::ProbeDial;
use wsroll::session::{Endpoint, Met, Pin, SessionConfig, Token};

const KEY: &str = "test-key";
pub const DRAIN_TOKEN: &str = "drain-token";

/// Sends each connection where its pin, or its hint, or nothing, says.
#[derive(Clone)]
pub struct Router {
    pub address: SocketAddr,
    routes: Arc<Mutex<HashMap<String, SocketAddr>>>,
}

/// Servers on one store behind one router.
pub struct Stage {
    pub router: Router,
    store: MemoryStore,
}

impl Router {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let router = Self {
            address: listener.local_addr().unwrap(),
            routes: Arc::default(),
        };
        let routes = router.routes.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, routes.clone()));
            }
        });
        router
    }

    /// From now on connections with this pin or hint go there; `""` is for those without.
    pub fn route(&self, name: &str, to: &Server) {
        self.route_to(name, to.traffic_addr());
    }

    /// The same for something that is no server of ours.
    pub fn route_to(&self, name: &str, to: SocketAddr) {
        let mut routes = self.routes.lock().unwrap();
        routes.insert(name.to_owned(), to);
    }
}

async fn relay(mut client: TcpStream, routes: Arc<Mutex<HashMap<String, SocketAddr>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("wsroll-pin: "))
        .or_else(|| {
            let (_, after) = text.lines().next()?.split_once("wsroll=")?;
            after.split(['&', ' ']).next()
        })
        .unwrap_or_default()
        .to_owned();
    let to = routes.lock().unwrap().get(&name).copied();
    let server = match to {
        Some(to) => TcpStream::connect(to).await.ok(),
        None => None,
    };
    let Some(mut server) = server else {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let _ = client.write_all(answer).await;
        return;
    };
    if server.write_all(&head).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

impl Stage {
    pub async fn new() -> Self {
        Self {
            router: Router::start().await,
            store: MemoryStore::new(Duration::from_hours(1)),
        }
    }

    /// A server of this revision, with faults as the environment would name them.
    pub async fn server(&self, revision: &str, faults: &str) -> Server {
        let mut config = Config::local(KEY)
            .with_drain(DRAIN_TOKEN)
            .with_identity_key("identity-key");
        config.store = Store::Memory(self.store.clone());
        config.revision = revision.to_owned();
        config.faults = faults.parse().unwrap();
        Server::start(config).await.unwrap()
    }

    /// Stable under pin `s`, canary under pin `c`, users on stable.
    pub async fn pair(&self, canary_faults: &str) -> (Server, Server) {
        let stable = self.server("v1", "").await;
        let canary = self.server("v2", canary_faults).await;
        self.router.route("s", &stable);
        self.router.route("", &stable);
        self.router.route("c", &canary);
        (stable, canary)
    }

    pub fn dial(&self) -> ProbeDial {
        ProbeDial {
            dialect: wsroll::session::Dialect::Session,
            url: "ws://chat.example.com/ws".to_owned(),
            connect_to: Some(self.router.address.to_string()),
            headers: Vec::new(),
            subprotocols: Vec::new(),
            token: Some(token("probe")),
            other_token: Some(token("intruder")),
            met: Met::default(),
            outbound: None,
        }
    }

    pub fn config(&self) -> SessionConfig {
        let endpoint = Endpoint::new("ws://chat.example.com/ws", "wsroll-test/0")
            .unwrap()
            .connect_to(&self.router.address.to_string())
            .unwrap();
        SessionConfig::new(endpoint)
    }
}

pub fn token(user: &str) -> Token {
    Token::new(SessionKey::new(KEY).sign(user, "gold").unwrap())
}

pub fn pin(value: &str) -> Pin {
    Pin::new(value).unwrap()
}

/// Accepts upgrades and reads nothing after them.
pub struct Silent {
    pub address: SocketAddr,
}

impl Silent {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(socket) = tokio_tungstenite::accept_async(tcp).await {
                    held.push(socket);
                }
            }
        });
        Self { address }
    }
}

/// Orders the server to let go of all its sessions.
pub async fn drain(server: &Server, rate: f64, hint: Option<&str>) {
    drain_as("release-1-1-pod", server, rate, hint).await;
}

/// The same by an order of this id.
pub async fn drain_as(id: &str, server: &Server, rate: f64, hint: Option<&str>) {
    let order = DrainOrder {
        id: id.to_owned(),
        reason: Reason::Rollout,
        select: Select::All {},
        mode: Mode::Ask,
        rate_per_second: rate,
        lease_seconds: 60,
        deadline_ms: None,
        on_deadline: OnDeadline::Wait,
        reconnect: Reconnect {
            min_ms: 0,
            max_ms: 500,
            hint: hint.map(|value| Hint::Query(format!("wsroll={value}"))),
        },
        close_code: 1012,
    };
    let client = DrainClient::new(Duration::from_secs(5)).unwrap();
    let token = DrainToken::new(DRAIN_TOKEN);
    client
        .order(server.drain_addr().unwrap(), &token, &order)
        .await
        .unwrap();
}

/// Looks every 20 ms until something is seen; at most 30 s.
pub async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1_500 {
        if let Some(seen) = look() {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not seen within 30 s");
}
