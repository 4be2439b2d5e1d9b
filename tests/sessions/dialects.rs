//! Probes that speak other protocols than the example service's, encrypted ones, and tokens that somebody has to log in for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rstest::rstest;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use wsroll::api::script::{ProbeScript, Ready, Script, ready};
use wsroll::engine::evidence::{ProbeFigures, RehearsalFailure};
use wsroll::probe::{Manner, ProbeDial, RehearsalTimeouts, hold_and_reconnect};
use wsroll::session::{
    Dialect, Endpoint, Event, Failure, Login, LoginError, Met, Session, SessionConfig, Times, Tls, TlsFiles,
    Token, TokenIn,
};

/// What a server says to a message of the session with this state; an empty list says nothing.
type Answer = fn(&mut Service, &str) -> Vec<String>;

/// A service's end of one socket, and what the service keeps for all of them.
struct Service {
    kept: Arc<Mutex<HashMap<String, Vec<String>>>>,
    session: Option<String>,
    target: String,
    forgets: bool,
}

/// A server that answers each message with what `answer` says, and its address.
async fn serve(answer: Answer, forgets: bool, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let kept: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (kept, tls) = (kept.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => talk(tcp, answer, kept, forgets).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(tcp).await {
                            talk(stream, answer, kept, forgets).await;
                        }
                    }
                }
            });
        }
    });
    address
}

#[allow(clippy::result_large_err)] // the signature is tungstenite's
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    answer: Answer,
    kept: Arc<Mutex<HashMap<String, Vec<String>>>>,
    forgets: bool,
) {
    let mut target = String::new();
    let accept = |request: &Request, mut response: Response| {
        target = request.uri().to_string();
        if let Some(offered) = request.headers().get("sec-websocket-protocol") {
            response
                .headers_mut()
                .insert("sec-websocket-protocol", offered.clone());
        }
        Ok(response)
    };
    let Ok(mut ws) = tokio_tungstenite::accept_hdr_async(stream, accept).await else {
        return;
    };
    let mut service = Service {
        kept,
        session: None,
        target,
        forgets,
    };
    while let Some(Ok(message)) = ws.next().await {
        let Message::Text(text) = message else { continue };
        for said in answer(&mut service, &text) {
            if ws.send(Message::text(said)).await.is_err() {
                return;
            }
        }
    }
}

fn echo(_: &mut Service, text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

/// STOMP 1.2 to the letter of its frames: a command, headers, an empty line, a body up to NUL.
fn stomp(_: &mut Service, text: &str) -> Vec<String> {
    let frame = text.strip_suffix('\0').unwrap();
    let (head, body) = frame.split_once("\n\n").unwrap();
    assert_eq!(body, "");
    let mut lines = head.lines();
    let command = lines.next().unwrap();
    let headers: HashMap<&str, &str> = lines.map(|line| line.split_once(':').unwrap()).collect();
    match command {
        "CONNECT" => {
            assert_eq!(headers["accept-version"], "1.2");
            assert!(headers.contains_key("host"));
            vec!["CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0".to_owned()]
        }
        "BEGIN" => {
            assert!(headers.contains_key("transaction"));
            vec![format!("RECEIPT\nreceipt-id:{}\n\n\0", headers["receipt"])]
        }
        "ABORT" => vec![],
        other => panic!("an unknown command: {other}"),
    }
}

/// A notebook: it gives out an id, takes it back, and tells what was written in the session.
fn notebook(service: &mut Service, text: &str) -> Vec<String> {
    let said: Value = serde_json::from_str(text).unwrap();
    let mut kept = service.kept.lock().unwrap();
    match said["do"].as_str().unwrap() {
        "new" => {
            let id = format!("s{}", kept.len());
            kept.insert(id.clone(), vec![format!("written by {}", said["place"])]);
            service.session = Some(id.clone());
            vec![json!({"noise": 1}).to_string(), json!({"id": id}).to_string()]
        }
        "back" => {
            let id = said["id"].as_str().unwrap().to_owned();
            assert!(kept.contains_key(&id));
            if service.forgets {
                kept.insert(id.clone(), Vec::new());
            }
            service.session = Some(id);
            vec![json!({"back": true}).to_string()]
        }
        "read" => {
            let id = service.session.as_ref().unwrap();
            vec![json!({"pages": kept[id]}).to_string()]
        }
        "say" => vec![json!({"heard": said["what"]}).to_string()],
        other => panic!("an unknown word: {other}"),
    }
}

fn notebook_script() -> Arc<Script> {
    let script: ProbeScript = serde_json::from_value(json!({
        "open": [
            {"send": {"json": {"do": "new", "place": "${place}"}}},
            {"expect": {"that": "has(json.id)", "save": {"session": "json.id"}}},
        ],
        "resume": [
            {"send": {"json": {"do": "back", "id": "${session}"}}},
            {"expect": {"that": "json.back"}},
        ],
        "exchange": [
            {"send": {"json": {"do": "say", "what": "${nonce}"}}},
            {"expect": {"that": "json.heard == nonce"}},
        ],
        "state": [
            {"send": {"json": {"do": "read"}}},
            {"expect": {"that": "has(json.pages)", "save": {"state": "json.pages"}}},
        ],
    }))
    .unwrap();
    Arc::new(Script::compile(&script).unwrap())
}

fn dial(url: &str, manner: Manner) -> ProbeDial {
    ProbeDial {
        dialect: if manner.script.is_some() {
            Dialect::Script
        } else {
            Dialect::Ping
        },
        url: url.to_owned(),
        connect_to: None,
        headers: Vec::new(),
        subprotocols: Vec::new(),
        token: None,
        other_token: None,
        met: Met::default(),
        manner,
        outbound: None,
    }
}

async fn probe(dial: &ProbeDial, sessions: u32) -> (ProbeFigures, Option<RehearsalFailure>) {
    let timeouts = RehearsalTimeouts {
        restored: Duration::from_secs(5),
        exchange: Duration::from_secs(3),
        ..RehearsalTimeouts::default()
    };
    hold_and_reconnect(dial, None, sessions, Duration::ZERO, timeouts)
        .await
        .unwrap()
}

fn ready_manner(which: Ready) -> Manner {
    Manner {
        ready: Some(which),
        script: ready(which),
        ..Manner::default()
    }
}

#[rstest]
#[case(Ready::Echo, echo)]
#[case(Ready::Stomp, stomp)]
#[tokio::test]
async fn a_ready_made_dialect_holds_with_a_server_of_its_kind(#[case] which: Ready, #[case] answer: Answer) {
    let address = serve(answer, false, None).await;
    let (figures, failure) = probe(&dial(&format!("ws://{address}/ws"), ready_manner(which)), 5).await;
    assert_eq!(failure, None);
    assert_eq!((figures.attempts, figures.restored), (10, 10));
}

#[rstest]
#[case(Ready::Echo, mute)]
#[case(Ready::Stomp, echo)]
#[case(Ready::GraphqlTransportWs, echo)]
#[tokio::test]
async fn a_server_of_another_kind_fails(#[case] which: Ready, #[case] answer: Answer) {
    let address = serve(answer, false, None).await;
    let (figures, failure) = probe(&dial(&format!("ws://{address}/ws"), ready_manner(which)), 1).await;
    assert!(failure.is_some(), "{figures:?}");
    assert_eq!(figures.restored, 0);
}

fn mute(_: &mut Service, _: &str) -> Vec<String> {
    Vec::new()
}

#[tokio::test]
async fn a_script_resumes_and_finds_its_state() {
    let address = serve(notebook, false, None).await;
    let times = Times::default();
    let manner = Manner {
        script: Some(notebook_script()),
        times: Some(times.clone()),
        ..Manner::default()
    };
    let (figures, failure) = probe(&dial(&format!("ws://{address}/ws"), manner), 5).await;
    assert_eq!(failure, None);
    assert_eq!(
        (figures.attempts, figures.restored, figures.state_lost),
        (10, 10, 0)
    );
    assert_eq!(times.count(), 10);
    assert!(
        times
            .take()
            .iter()
            .all(|timed| timed.phases.upgrade > Duration::ZERO && timed.phases.tls.is_zero())
    );
}

#[tokio::test]
async fn a_service_that_forgets_is_found_out_by_the_state() {
    let address = serve(notebook, true, None).await;
    let manner = Manner {
        script: Some(notebook_script()),
        ..Manner::default()
    };
    let (figures, failure) = probe(&dial(&format!("ws://{address}/ws"), manner), 3).await;
    assert_eq!(failure.map(|f| f.check).as_deref(), Some("stateEqual"));
    assert_eq!(figures.state_lost, 3);
}

#[tokio::test]
async fn a_token_goes_where_it_is_told_to() {
    fn target(service: &mut Service, text: &str) -> Vec<String> {
        vec![format!("{text} {}", service.target)]
    }
    let address = serve(target, false, None).await;
    let script: ProbeScript = serde_json::from_value(json!({
        "exchange": [
            {"send": {"text": "${nonce}"}},
            {"expect": {"that": "text == nonce + ' /ws?a=1&access_token=s3cret'"}},
        ],
    }))
    .unwrap();
    let manner = Manner {
        script: Some(Arc::new(Script::compile(&script).unwrap())),
        token_in: TokenIn::Query("access_token".to_owned()),
        ..Manner::default()
    };
    let mut dial = dial(&format!("ws://{address}/ws?a=1"), manner);
    dial.token = Some(Token::new("s3cret"));
    let (_, failure) = probe(&dial, 1).await;
    assert_eq!(failure, None);
    assert!(!format!("{:?}", dial.token).contains("s3cret"));
}

// === TLS ===

/// An authority, and what it signed.
struct Pki {
    root: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    server: (rcgen::Certificate, rcgen::KeyPair),
}

impl Pki {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let server = Self::sign(&issuer, "chat.example.com");
        Self { root, issuer, server }
    }

    fn sign(
        issuer: &rcgen::Issuer<'static, rcgen::KeyPair>,
        name: &str,
    ) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, issuer).unwrap(), key)
    }

    fn client(&self) -> (Vec<u8>, Vec<u8>) {
        let (certificate, key) = Self::sign(&self.issuer, "probe");
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn acceptor(&self, wants_clients: bool) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if wants_clients {
            use rustls::pki_types::pem::PemObject as _;
            let mut roots = rustls::RootCertStore::empty();
            let root = rustls::pki_types::CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap();
            roots.add(root).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.server.1.serialize_der()));
        let config = builder
            .with_single_cert(vec![self.server.0.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

async fn secure(pki: &Pki, wants_clients: bool, files: TlsFiles, name: Option<&str>) -> Option<String> {
    let address = serve(echo, false, Some(pki.acceptor(wants_clients))).await;
    let tls = Tls::new(&files).unwrap();
    let mut manner = ready_manner(Ready::Echo);
    manner.tls = Some((tls, name.map(str::to_owned)));
    let mut dial = dial("wss://chat.example.com/ws", manner);
    dial.connect_to = Some(address.to_string());
    let (_, failure) = probe(&dial, 2).await;
    failure.map(|failure| failure.message)
}

fn trusting(pki: &Pki) -> TlsFiles {
    TlsFiles {
        roots: Some(pki.root.clone().into_bytes()),
        client: None,
    }
}

#[tokio::test]
async fn a_root_of_ones_own_is_trusted() {
    let pki = Pki::new();
    assert_eq!(secure(&pki, false, trusting(&pki), None).await, None);
}

#[tokio::test]
async fn an_unknown_root_fails_with_the_remedy() {
    let (pki, other) = (Pki::new(), Pki::new());
    let message = secure(&pki, false, trusting(&other), None).await.unwrap();
    assert!(
        message.contains("an issuer that is not trusted; name its root in tls.caFrom"),
        "{message}"
    );
}

#[tokio::test]
async fn another_name_fails_with_the_remedy() {
    let pki = Pki::new();
    let message = secure(&pki, false, trusting(&pki), Some("other.example.com"))
        .await
        .unwrap();
    assert!(message.contains("tls.serverName"), "{message}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_wanted() {
    let pki = Pki::new();
    let files = TlsFiles {
        client: Some(pki.client()),
        ..trusting(&pki)
    };
    assert_eq!(secure(&pki, true, files, None).await, None);
    let message = secure(&pki, true, trusting(&pki), None).await.unwrap();
    assert!(message.contains("tls.clientCertificate"), "{message}");
}

#[test]
fn pem_that_is_none_is_refused() {
    let pki = Pki::new();
    let files = |roots: Option<&str>, client: Option<(&str, &str)>| TlsFiles {
        roots: roots.map(|r| r.as_bytes().to_vec()),
        client: client.map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec())),
    };
    for bad in [
        files(Some("no PEM"), None),
        files(Some(&pki.root), Some(("no PEM", "no PEM"))),
        files(Some(&pki.root), Some((&pki.root, "no PEM"))),
        files(
            Some(&pki.root),
            Some((&pki.root, &rcgen::KeyPair::generate().unwrap().serialize_pem())),
        ),
    ] {
        assert!(Tls::new(&bad).is_err());
    }
}

// === logins ===

/// An HTTP server with one answer; how often it was asked.
async fn http(status: u16, body: &'static str) -> (SocketAddr, Arc<AtomicU32>, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let head = Arc::new(Mutex::new(String::new()));
    let (count, seen) = (asked.clone(), head.clone());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let mut request = vec![0; 4_096];
            let mut filled = 0;
            while !String::from_utf8_lossy(&request[..filled]).contains("user=probe") {
                match tcp.read(&mut request[filled..]).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => filled += read,
                }
            }
            *seen.lock().unwrap() = String::from_utf8_lossy(&request[..filled]).into_owned();
            let answer = format!(
                "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\nlocation: http://127.0.0.1:1/\r\n\r\n{body}",
                body.len()
            );
            let _ = tcp.write_all(answer.as_bytes()).await;
        }
    });
    (address, asked, head)
}

async fn log_in(status: u16, body: &'static str, path: &str) -> Result<String, LoginError> {
    let (address, asked, head) = http(status, body).await;
    let login = Login::new(&format!("http://{address}/token?tenant=a"), path)
        .unwrap()
        .header("x-client", "wsroll")
        .unwrap()
        .body(b"user=probe".to_vec());
    assert!(!format!("{login:?}").contains("probe"));
    let token = login.token().await;
    assert_eq!(
        asked.load(Ordering::Relaxed),
        1,
        "a redirect is not followed, and nothing is asked twice"
    );
    let head = head.lock().unwrap().clone();
    assert!(head.starts_with("POST /token?tenant=a HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-client: wsroll\r\n"), "{head}");
    token
}

#[tokio::test]
async fn a_login_finds_its_token() {
    let token = log_in(
        200,
        r#"{"data": [{"access_token": " t0ken\n"}]}"#,
        "$.data[0].access_token",
    )
    .await;
    assert_eq!(token.unwrap(), "t0ken");
}

#[rstest]
#[case(401, "{}", "$.t", "it was answered with 401")]
#[case(302, "{}", "$.t", "it was answered with 302")]
#[case(200, "hello", "$.t", "the answer is no JSON")]
#[case(
    200,
    r#"{"token": "s3cret"}"#,
    "$.t",
    "tokenPath \"$.t\" leads to no text in the answer"
)]
#[case(200, r#"{"t": 7}"#, "$.t", "tokenPath \"$.t\" leads to no text in the answer")]
#[case(
    200,
    r#"{"t": ["a", "b"]}"#,
    "$.t[*]",
    "tokenPath \"$.t[*]\" leads to no text in the answer"
)]
#[case(
    200,
    r#"{"t": ""}"#,
    "$.t",
    "what tokenPath leads to is no token: it is empty, or longer than 8192 bytes"
)]
#[tokio::test]
async fn a_login_that_brings_none_says_why(
    #[case] status: u16,
    #[case] body: &'static str,
    #[case] path: &str,
    #[case] sentence: &str,
) {
    let error = log_in(status, body, path).await.unwrap_err();
    assert_eq!(error.to_string(), sentence);
}

#[tokio::test]
async fn a_token_that_is_refused_says_so_to_all_who_hold_it_until_it_is_renewed() {
    let (address, ..) = http(401, "user=probe").await;
    let endpoint = Endpoint::new(&format!("ws://{address}/user=probe"), "t").unwrap();
    let held = Token::new("old");
    let mut session = Session::new(
        Arc::new(SessionConfig::new(endpoint)),
        Some(held.clone()),
        None,
        1,
    );
    let failure = loop {
        if let Event::AttemptFailed(failure) = session.next().await {
            break failure;
        }
    };
    assert_eq!(failure, Failure::Refused { status: 401 });
    assert!(held.was_refused());
    held.renew("new");
    assert!(!held.was_refused());
}
