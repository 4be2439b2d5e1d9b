//! What the suites share: stores, a client that checks what it gets, and waiting with a deadline.
#![allow(dead_code, unused_imports, unused_macros, reason = "each suite uses a part")]

mod database;

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener},
    process::Child,
    time::Duration,
};

pub use self::database::{Kind, RealPostgres, RealRedis, execute};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use session_server::{
    Config, Server,
    config::Limits,
    store::{MemoryStore, PostgresStore, RedisStore, StateKeys, Store},
    token::{Identity, SessionKey},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, http::StatusCode},
};

/// Signs the tokens of all tests.
pub const KEY: &str = "test-key";
/// The drain token of all tests.
pub const DRAIN_TOKEN: &str = "drain-token";
/// No single wait takes longer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A client's WebSocket.
pub type Ws = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A store under test. What runs for it lives as long as this does.
pub struct Backend {
    pub store: Store,
    pub kind: Kind,
    /// The store as the binary is told it.
    pub url: String,
    redis: Option<RealRedis>,
    postgres: Option<RealPostgres>,
}

/// A client's socket.
pub struct Client {
    ws: Ws,
    pub session: String,
    pub epoch: u64,
    pub resumed: bool,
    pub seq: u64,
    pub revision: String,
}

/// How a client connects.
#[derive(Clone, Default)]
pub struct Dial {
    pub user: String,
    pub query: String,
    /// Instead of a token of the user that is good for everything.
    pub token: Option<String>,
}

/// Runs one scenario on all stores. Says so where one is left out.
#[macro_export]
macro_rules! on_all_stores {
    ($($name:ident),+ $(,)?) => {
        $crate::on_all_stores!(@ memory, Memory: $($name),+);
        $crate::on_all_stores!(@ redis, Redis: $($name),+);
        $crate::on_all_stores!(@ postgres, Postgres: $($name),+);
    };
    (@ $module:ident, $kind:ident: $($name:ident),+) => {
        mod $module {
            $(#[tokio::test]
            async fn $name() {
                if let Some(backend) = $crate::support::Backend::of($crate::support::Kind::$kind).await {
                    super::$name(&backend).await;
                }
            })+
        }
    };
}

/// How long sessions outlive their last use here.
pub const TTL: Duration = Duration::from_mins(1);

impl Backend {
    pub fn memory() -> Self {
        Self {
            store: Store::Memory(MemoryStore::new(TTL)),
            kind: Kind::Memory,
            url: "memory".to_owned(),
            redis: None,
            postgres: None,
        }
    }

    /// An empty store of this kind; none, and a word about it, where its server is not installed.
    pub async fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Memory => Some(Self::memory()),
            Kind::Redis => Self::redis().await,
            Kind::Postgres => Self::postgres().await,
        }
    }

    /// A Redis of its own.
    pub async fn redis() -> Option<Self> {
        let redis = RealRedis::start().await?;
        let url = redis.url();
        Some(Self {
            store: Store::Redis(RedisStore::new(&url, TTL).unwrap()),
            kind: Kind::Redis,
            url,
            redis: Some(redis),
            postgres: None,
        })
    }

    /// A database of its own in the PostgreSQL that this suite shares.
    pub async fn postgres() -> Option<Self> {
        Some(Self::in_database(database::new_database().await?, None))
    }

    /// A server of its own that can be stopped and started again; none for memory.
    pub async fn restartable(kind: Kind) -> Option<Self> {
        if kind == Kind::Postgres {
            let server = RealPostgres::start().await?;
            return Some(Self::in_database(server.url("postgres"), Some(server)));
        }
        Self::of(kind).await
    }

    fn in_database(url: String, postgres: Option<RealPostgres>) -> Self {
        Self {
            store: Store::Postgres(PostgresStore::new(&url, TTL, None).unwrap()),
            kind: Kind::Postgres,
            url,
            redis: None,
            postgres,
        }
    }

    /// Another server's view of the same store, with what it stores sealed by these keys. Memory is never sealed.
    pub fn sealed(&self, keys: &StateKeys) -> Store {
        match self.kind {
            Kind::Memory => self.store.clone(),
            Kind::Redis => Store::Redis(RedisStore::new(&self.url, TTL).unwrap().sealed_by(keys.clone())),
            Kind::Postgres => {
                let store = PostgresStore::new(&self.url, TTL, None).unwrap();
                Store::Postgres(store.sealed_by(keys.clone()))
            }
        }
    }

    /// A configuration on this store.
    pub fn config(&self) -> Config {
        // Many clients here do not read on: do not wait long for their half of the close.
        let limits = Limits {
            close_timeout: Duration::from_millis(500),
            ..Limits::default()
        };
        Config {
            store: self.store.clone(),
            limits,
            ..Config::local(KEY).with_drain(DRAIN_TOKEN)
        }
    }

    /// A server on this store.
    pub async fn server(&self) -> Server {
        Server::start(self.config()).await.unwrap()
    }

    /// A server on this store with faults.
    pub async fn faulty(&self, faults: &str) -> Server {
        Server::start(Config {
            faults: faults.parse().unwrap(),
            ..self.config()
        })
        .await
        .unwrap()
    }

    /// Ends the store's server without a warning.
    pub async fn stop(&mut self) {
        match self.kind {
            Kind::Memory => {}
            Kind::Redis => self.redis.as_mut().unwrap().stop(),
            Kind::Postgres => self.postgres.as_mut().unwrap().stop().await,
        }
    }

    /// Starts it again on the same port, with what it had on disk.
    pub async fn start(&mut self) {
        match self.kind {
            Kind::Memory => {}
            Kind::Redis => self.redis.as_mut().unwrap().start_again().await,
            Kind::Postgres => self.postgres.as_mut().unwrap().start_again().await,
        }
    }

    /// Forgets what a Redis keeps on disk.
    pub fn wipe(&mut self) {
        self.redis.as_mut().unwrap().wipe();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits until `child` listens on `port`; false if it ends instead.
pub async fn answers(port: u16, child: &mut Child) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return child.try_wait().unwrap().is_none();
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

impl Dial {
    /// A new session of `user`.
    pub fn user(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            ..Self::default()
        }
    }

    /// With a token that says this of its bearer.
    pub fn identity(identity: &Identity) -> Self {
        Self {
            token: Some(SessionKey::new(KEY).sign_identity(identity).unwrap()),
            ..Self::user(&identity.user)
        }
    }

    /// Resumes `session` after message number `last`.
    pub fn resume(mut self, session: &str, last: u64) -> Self {
        let _ = write!(self.query, "&session={session}&last={last}");
        self
    }

    /// Declares that notices are understood.
    pub fn notices(mut self) -> Self {
        self.query += "&notice=wsroll.v1";
        self
    }

    /// Declares that the new socket comes first.
    pub fn overlap(mut self) -> Self {
        self.query += "&overlap=1";
        self
    }

    /// Opens the socket and waits for nothing.
    pub async fn open(&self, server: &Server) -> Result<Ws, tungstenite::Error> {
        self.open_at(server.traffic_addr()).await
    }

    /// The same by address.
    pub async fn open_at(&self, server: SocketAddr) -> Result<Ws, tungstenite::Error> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => SessionKey::new(KEY).sign(&self.user, "gold").unwrap(),
        };
        let url = format!("ws://{server}/ws?v=1{}", self.query);
        let mut request = url.into_client_request().unwrap();
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        let connect = tokio_tungstenite::connect_async(request);
        timeout(PATIENCE, connect)
            .await
            .expect("a handshake in time")
            .map(|(ws, _)| ws)
    }

    /// Connects and expects no welcome.
    pub async fn socket(&self, server: &Server) -> Client {
        self.socket_at(server.traffic_addr()).await
    }

    async fn socket_at(&self, server: SocketAddr) -> Client {
        Client {
            ws: self.open_at(server).await.expect("an upgrade"),
            session: String::new(),
            epoch: 0,
            resumed: false,
            seq: 0,
            revision: String::new(),
        }
    }

    /// Connects and reads the welcome.
    pub async fn connect(&self, server: &Server) -> Client {
        self.connect_at(server.traffic_addr()).await
    }

    /// The same by address.
    pub async fn connect_at(&self, server: SocketAddr) -> Client {
        let mut client = self.socket_at(server).await;
        let welcome = client.receive().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client.session = welcome["session"].as_str().unwrap().into();
        client.epoch = welcome["epoch"].as_u64().unwrap();
        client.resumed = welcome["resumed"].as_bool().unwrap();
        client.seq = welcome["seq"].as_u64().unwrap();
        client.revision = welcome["revision"].as_str().unwrap().into();
        client
    }

    /// Connects and reads the welcome; none where it is refused or sent away before.
    pub async fn try_connect(&self, server: &Server) -> Option<Client> {
        let mut client = Client {
            ws: self.open(server).await.ok()?,
            session: String::new(),
            epoch: 0,
            resumed: false,
            seq: 0,
            revision: String::new(),
        };
        let Some(Ok(Message::Text(welcome))) = client.frame().await else {
            return None;
        };
        let welcome: Value = serde_json::from_str(&welcome).unwrap();
        client.session = welcome["session"].as_str().unwrap().into();
        client.resumed = welcome["resumed"].as_bool().unwrap();
        Some(client)
    }

    /// Expects that the upgrade is refused.
    pub async fn refused(&self, server: &Server) -> StatusCode {
        match self.open(server).await {
            Err(tungstenite::Error::Http(response)) => response.status(),
            Err(other) => panic!("expected a refusal, got {other}"),
            Ok(_) => panic!("expected a refusal, got a socket"),
        }
    }
}

impl Client {
    /// Sends a message; that the socket is closed already shows at the next read.
    pub async fn send(&mut self, message: Value) {
        let _ = self.ws.send(Message::text(message.to_string())).await;
    }

    /// The next text message.
    pub async fn receive(&mut self) -> Value {
        loop {
            match self.frame().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected a message, got {other:?}"),
            }
        }
    }

    /// Says something, and takes the reply.
    pub async fn say(&mut self, id: &str, text: &str) -> Value {
        self.send(json!({"type": "say", "id": id, "text": text})).await;
        self.receive().await
    }

    /// The state.
    pub async fn state(&mut self) -> Value {
        self.send(json!({"type": "state", "id": "state"})).await;
        let answer = self.receive().await;
        assert_eq!(
            (answer["type"].as_str(), answer["id"].as_str()),
            (Some("state"), Some("state"))
        );
        answer["state"].clone()
    }

    /// Reads to the end; gives the text messages before it, and the close code and reason (1006 for a cut).
    pub async fn until_closed(&mut self) -> (Vec<Value>, u16, String) {
        let mut messages = Vec::new();
        let mut close = (1006, String::new());
        loop {
            match self.frame().await {
                Some(Ok(Message::Text(text))) => messages.push(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    close = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (messages, close.0, close.1),
            }
        }
    }

    /// Reads up to the reply to `id`; false if the socket closes before.
    pub async fn until_reply_or_closed(&mut self, id: &str) -> bool {
        loop {
            match self.frame().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["type"] == "message" && message["id"] == id {
                        return true;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Reads up to the reply to `id`: its number, or the error's code; none if the socket closes before.
    pub async fn reply_to(&mut self, id: &str) -> Option<Result<u64, String>> {
        loop {
            match self.frame().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["id"] == id {
                        return Some(match message["seq"].as_u64() {
                            Some(seq) => Ok(seq),
                            None => Err(message["code"].as_str().unwrap().to_owned()),
                        });
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Closes with 1000 and waits for the answer.
    pub async fn leave(mut self) {
        self.ws.close(None).await.unwrap();
        self.until_closed().await;
    }

    async fn frame(&mut self) -> Option<tungstenite::Result<Message>> {
        timeout(PATIENCE, self.ws.next())
            .await
            .expect("something from the server in time")
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A request to the drain port; gives the status and the body, `null` where it is not JSON.
pub async fn drain(server: &Server, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    request(
        server.drain_addr().unwrap(),
        method,
        path,
        Some(DRAIN_TOKEN),
        body.map(Value::to_string),
    )
    .await
}

/// `GET /wsroll/v1/sessions`.
pub async fn sessions(server: &Server) -> Value {
    let (status, body) = drain(server, "GET", "/wsroll/v1/sessions", None).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// One counter of `/metrics`; 0 if it is not there.
pub async fn metric(server: &Server, name: &str) -> u64 {
    let (status, body) = raw_request(server.traffic_addr(), "GET", "/metrics", None, None).await;
    assert_eq!(status, 200);
    let line = body
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// A plain HTTP/1.1 request, answered in JSON or not at all.
pub async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<String>,
) -> (u16, Value) {
    let (status, body) = raw_request(to, method, path, token, body).await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

async fn raw_request(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<String>,
) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let body = body.unwrap_or_default();
    let auth = token
        .map(|token| format!("authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{auth}content-length: {}\r\n\r\n",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(PATIENCE, exchange).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
