//! An application that knows nothing of wsroll, a sidecar in front of it, and clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, http::HeaderValue};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;
use wsroll::drain::client::Token;
use wsroll::drain::identity::IdentityKey;
use wsroll::proxy::{Config, DrainTls, Settings, Sidecar};

pub const TOKEN: &str = "drain-token";
/// Whatever is waited for comes within this time.
pub const LIMIT: Duration = Duration::from_secs(20);

pub type Client = WebSocketStream<TcpStream>;
type Body = Either<Incoming, Full<Bytes>>;

/// What the application saw.
#[derive(Default)]
pub struct Seen {
    /// Heads of requests, `name: value` by line.
    pub heads: Mutex<Vec<String>>,
    /// Codes with which sockets were closed toward it.
    pub closes: Mutex<Vec<u16>>,
    /// Text messages.
    pub texts: Mutex<Vec<String>>,
    /// Polling sessions that the application knows.
    pub polling: Mutex<Vec<String>>,
    /// A polling session was closed.
    pub closed: tokio::sync::Notify,
}

/// The application.
pub struct Application {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    /// Sockets of `/raw`, as they are after the handshake.
    pub raw: tokio::sync::Mutex<mpsc::Receiver<TcpStream>>,
    alive: CancellationToken,
}

/// An application and its sidecar.
pub struct Stage {
    pub application: Application,
    pub sidecar: Sidecar,
}

#[derive(Clone)]
struct Server {
    seen: Arc<Seen>,
    raw: mpsc::Sender<TcpStream>,
    alive: CancellationToken,
}

// === impl Application ===

impl Application {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts on a port that another has left.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (raw, taken) = mpsc::channel(64);
        let server = Server {
            seen: Arc::default(),
            raw,
            alive: CancellationToken::new(),
        };
        let application = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::clone(&server.seen),
            raw: tokio::sync::Mutex::new(taken),
            alive: server.alive.clone(),
        };
        let alive = server.alive.clone();
        tokio::spawn(async move { alive.run_until_cancelled(server.accept(listener)).await });
        application
    }

    /// Ends as a crash does: every connection is cut.
    pub fn kill(&self) {
        self.alive.cancel();
    }

    /// The next socket of `/raw`.
    pub async fn raw(&self) -> TcpStream {
        timeout(LIMIT, self.raw.lock().await.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

impl Server {
    async fn accept(&self, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = self.clone();
            tokio::spawn(async move {
                let alive = server.alive.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                alive.run_until_cancelled(connection.with_upgrades()).await
            });
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let mut head = format!("{} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            head.extend([name.as_str(), ": ", value.to_str().unwrap(), "\n"]);
        }
        self.seen.heads.lock().unwrap().push(head.clone());
        let upgrades = request.headers().contains_key("sec-websocket-key");
        match request.uri().path() {
            "/ws" | "/raw" => {}
            "/eio" if upgrades => {}
            "/eio" => return self.poll(request).await,
            "/refuse" => return text(StatusCode::FORBIDDEN, "not you"),
            "/body" => return Response::new(Either::Left(request.into_body())),
            _ => return text(StatusCode::OK, &head),
        }
        let key = request.headers()["sec-websocket-key"].as_bytes();
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", derive_accept_key(key));
        if let Some(wanted) = request.headers().get("sec-websocket-protocol") {
            let first = wanted
                .to_str()
                .unwrap()
                .split(',')
                .next()
                .unwrap()
                .trim()
                .to_owned();
            response = response.header("sec-websocket-protocol", first);
        }
        let server = self.clone();
        let raw = request.uri().path() == "/raw";
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let parts = upgrade.await.unwrap().downcast::<TokioIo<TcpStream>>().unwrap();
            let stream = parts.io.into_inner();
            stream.set_nodelay(true).unwrap();
            if raw {
                assert!(parts.read_buf.is_empty());
                server.raw.send(stream).await.unwrap();
            } else {
                let alive = server.alive.clone();
                let early = parts.read_buf.to_vec();
                let ws = WebSocketStream::from_partially_read(stream, early, Role::Server, None).await;
                alive.run_until_cancelled(server.echo(ws)).await;
            }
        });
        response.body(Either::Right(Full::default())).unwrap()
    }

    /// Engine.IO over polling, as far as a proxy sees it: sessions are called as this application's port.
    async fn poll(&self, request: Request<Incoming>) -> Response<Body> {
        let query = request.uri().query().unwrap_or("").to_owned();
        let Some(sid) = query.split('&').find_map(|pair| pair.strip_prefix("sid=")) else {
            let mut known = self.seen.polling.lock().unwrap();
            let sid = format!("{:p}-{}", Arc::as_ptr(&self.seen), known.len());
            known.push(sid.clone());
            return text(StatusCode::OK, &format!("0{{\"sid\":\"{sid}\"}}"));
        };
        if !self.seen.polling.lock().unwrap().iter().any(|known| known == sid) {
            return text(
                StatusCode::BAD_REQUEST,
                "{\"code\":1,\"message\":\"Session ID unknown\"}",
            );
        }
        if request.method() == hyper::Method::GET {
            self.seen.closed.notified().await;
            return text(StatusCode::OK, "6");
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        if body == "1" {
            self.seen.polling.lock().unwrap().retain(|known| known != sid);
            self.seen.closed.notify_waiters();
        }
        self.seen.texts.lock().unwrap().push(body);
        text(StatusCode::OK, "ok")
    }

    /// Sends everything back. `die` cuts the connection, `close` closes it with 4001.
    async fn echo(&self, mut ws: WebSocketStream<TcpStream>) {
        while let Some(Ok(message)) = ws.next().await {
            match message {
                Message::Text(text) => {
                    self.seen.texts.lock().unwrap().push(text.to_string());
                    match text.as_str() {
                        "die" => return,
                        "close" => ws.close(Some(close_frame(4001, "own"))).await.unwrap(),
                        _ => ws.send(Message::Text(text)).await.unwrap(),
                    }
                }
                Message::Binary(_) => ws.send(message).await.unwrap(),
                Message::Close(frame) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    self.seen.closes.lock().unwrap().push(code);
                }
                _ => {}
            }
        }
    }
}

// === impl Stage ===

impl Stage {
    pub async fn start(settings: Value) -> Self {
        Self::before(Application::start().await, settings).await
    }

    /// A sidecar whose drain port is served by TLS.
    pub async fn sealed(tls: DrainTls) -> Self {
        Self::with(Application::start().await, json!({}), Some(tls)).await
    }

    /// A sidecar in front of a given application.
    pub async fn before(application: Application, settings: Value) -> Self {
        Self::with(application, settings, None).await
    }

    async fn with(application: Application, mut settings: Value, tls: Option<DrainTls>) -> Self {
        settings["applicationPort"] = json!(application.address.port());
        let sidecar = Sidecar::start(Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            drain_listen: "127.0.0.1:0".parse().unwrap(),
            application: application.address,
            token: Token::new(TOKEN),
            tls,
            identity_key: Some(IdentityKey::new("identity-key")),
            revision: Some("7f9c".to_owned()),
            settings: Settings::parse(&settings.to_string()).unwrap(),
            grace: Duration::from_secs(5),
        });
        Self {
            application,
            sidecar: sidecar.await.unwrap(),
        }
    }

    pub async fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.sidecar.traffic_addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub async fn connect(&self, path: &str) -> Client {
        self.connect_as(path, &[]).await
    }

    /// A client with these headers.
    pub async fn connect_as(&self, path: &str, headers: &[(&'static str, &str)]) -> Client {
        let mut request = format!("ws://{}{path}", self.sidecar.traffic_addr())
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(*name, HeaderValue::from_str(value).unwrap());
        }
        client_async(request, self.tcp().await).await.unwrap().0
    }

    /// Clients that have had an answer.
    pub async fn connect_many(&self, count: usize, path: &str) -> Vec<Client> {
        let mut clients = Vec::new();
        for n in 0..count {
            let mut client = self.connect(path).await;
            say(&mut client, &format!("hello {n}")).await;
            clients.push(client);
        }
        clients
    }

    /// A call on the drain port with the token.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, text) = request(self.sidecar.drain_addr(), method, path, TOKEN, &body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn sessions(&self) -> Value {
        let (status, report) = self.call("GET", "/wsroll/v1/sessions", &Value::Null).await;
        assert_eq!(status, 200, "{report}");
        report
    }

    pub async fn order(&self, order: &Value) -> Value {
        let (status, progress) = self.call("PUT", "/wsroll/v1/drain", order).await;
        assert_eq!(status, 200, "{progress}");
        progress
    }

    /// Waits until a report looks like this.
    pub async fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waiting = async {
            loop {
                last = self.sessions().await;
                if fits(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = timeout(LIMIT, waiting).await;
        assert!(outcome.is_ok(), "never {what}: {last}");
        last
    }

    /// A count, as whole as counts are.
    pub async fn metric(&self, name: &str) -> u64 {
        let (_, text) = request(self.sidecar.drain_addr(), "GET", "/metrics", "", "").await;
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// An order for everybody, fast enough for a test.
pub fn order(id: &str) -> Value {
    json!({"id": id, "reason": "rollout", "ratePerSecond": 200, "leaseSeconds": 60,
        "reconnect": {"minMs": 0, "maxMs": 50}, "closeCode": 1012})
}

pub fn close_frame(code: u16, reason: &str) -> CloseFrame {
    CloseFrame {
        code: code.into(),
        reason: reason.to_owned().into(),
    }
}

/// Says something and gets it back.
pub async fn say(client: &mut Client, text: &str) {
    client.send(Message::text(text)).await.unwrap();
    assert_eq!(next(client).await, Message::text(text));
}

/// The next message.
pub async fn next(client: &mut Client) -> Message {
    timeout(LIMIT, client.next()).await.unwrap().unwrap().unwrap()
}

/// What a client sees until its end: texts, and the close's code and reason, 1006 without one.
pub async fn to_the_end(client: &mut Client) -> (Vec<String>, u16, String) {
    let mut texts = Vec::new();
    let mut close = (1006, String::new());
    let reading = async {
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Text(text) => texts.push(text.to_string()),
                Message::Close(Some(frame)) => close = (frame.code.into(), frame.reason.to_string()),
                Message::Close(None) => close.0 = 1005,
                _ => {}
            }
        }
    };
    timeout(LIMIT, reading).await.unwrap();
    (texts, close.0, close.1)
}

/// One HTTP request on a connection of its own.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
    body: &str,
) -> (u16, String) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = exchange(
        TcpStream::connect(address).await.unwrap(),
        &format!("{head}{body}"),
    )
    .await;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Sends bytes and reads to the end.
pub async fn exchange(mut stream: TcpStream, bytes: &str) -> String {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Whoever answers early may end with a reset.
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn text(status: StatusCode, words: &str) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::from(words.to_owned())));
    *response.status_mut() = status;
    response
}
