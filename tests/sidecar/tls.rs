//! The drain port by TLS: who is trusted, who is not, and that a token is never shown to a stranger.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wsroll::drain::client::{DrainClient, Token};
use wsroll::drain::protocol::DrainOrder;
use wsroll::proxy::DrainTls;
use wsroll::workload::certificate::{Issued, issue, server_name};

use crate::stage::{LIMIT, Stage, TOKEN, order, to_the_end};

fn issued(rollout: &str, at: &str) -> Issued {
    issue(rollout, "7f9c", at.parse::<Timestamp>().unwrap()).unwrap()
}

fn today(rollout: &str) -> Issued {
    issue(rollout, "7f9c", Timestamp::now()).unwrap()
}

fn served_with(issued: &Issued) -> DrainTls {
    DrainTls::new(&issued.certificate, &issued.key).unwrap()
}

fn client() -> DrainClient {
    DrainClient::new(Duration::from_secs(5)).unwrap()
}

/// The token for pods that prove this name by this authority.
fn trusting(client: &DrainClient, issued: &Issued, name: &str) -> Token {
    Token::new(TOKEN).trusting(client.trust(&issued.authority, name).unwrap())
}

#[tokio::test]
async fn the_operator_calls_the_pod_it_trusts() {
    let issued = today("chat");
    let stage = Stage::sealed(served_with(&issued)).await;
    let mut session = stage.connect("/ws").await;
    let client = client();
    let token = trusting(&client, &issued, &server_name("chat"));
    let port = stage.sidecar.drain_addr();
    assert_eq!(client.sessions(port, &token).await.unwrap().open, 1);
    let order: DrainOrder = serde_json::from_value(order("o")).unwrap();
    assert!(client.order(port, &token, &order).await.unwrap().is_some());
    assert_eq!(to_the_end(&mut session).await.1, 1012);
    client.cancel(port, &token, "o").await.unwrap();
    assert!(client.events(port, &token, 0).await.unwrap().is_none());
}

#[tokio::test]
async fn strangers_are_not_trusted_whatever_they_show() {
    let ours = today("chat");
    for (what, theirs, name) in [
        ("another authority", today("chat"), server_name("chat")),
        ("another rollout's name", today("other"), server_name("chat")),
        (
            "a certificate that is over",
            issued("chat", "2010-01-01T00:00:00Z"),
            server_name("chat"),
        ),
        (
            "a certificate to come",
            issued("chat", "2070-01-01T00:00:00Z"),
            server_name("chat"),
        ),
    ] {
        let stage = Stage::sealed(served_with(&theirs)).await;
        let client = client();
        // Where only name or date is wrong, the authority is the right one.
        let authority = if what == "another authority" {
            &ours
        } else {
            &theirs
        };
        let token = trusting(&client, authority, &name);
        let error = client
            .sessions(stage.sidecar.drain_addr(), &token)
            .await
            .unwrap_err();
        assert_eq!(error.category(), "unreachable", "{what}");
        assert!(
            !error.is_refused_connection(),
            "{what}: it is no sign that the protocol is not spoken"
        );
    }
}

/// The address has passed to somebody who takes whatever comes: what it gets is a handshake, and no token.
#[tokio::test]
async fn an_address_that_has_a_new_owner_is_shown_no_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // In plain HTTP it would be a fine answer.
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"open\":0}")
            .await;
        let mut got = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut got)).await.unwrap();
        got
    });
    let client = client();
    let token = trusting(&client, &today("chat"), &server_name("chat"));
    let error = client.sessions(address, &token).await.unwrap_err();
    assert_eq!(error.category(), "unreachable", "a plain answer is none");
    drop(client);
    let got = taking.await.unwrap();
    assert_eq!(got.first(), Some(&0x16), "a TLS handshake is all there was");
    assert!(!got.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()));
}

#[tokio::test]
async fn plain_text_is_not_answered() {
    let issued = today("chat");
    let stage = Stage::sealed(served_with(&issued)).await;
    let port: SocketAddr = stage.sidecar.drain_addr();
    let error = client().sessions(port, &Token::new(TOKEN)).await.unwrap_err();
    assert_eq!(error.category(), "unreachable");
    let mut stream = TcpStream::connect(port).await.unwrap();
    let request =
        format!("GET /wsroll/v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

/// More connections than are served at once, none of which shakes hands: the operator's turn comes.
#[tokio::test]
async fn handshakes_that_never_end_do_not_keep_the_port() {
    let issued = today("chat");
    let stage = Stage::sealed(served_with(&issued)).await;
    let mut silent = Vec::new();
    for _ in 0..70 {
        silent.push(TcpStream::connect(stage.sidecar.drain_addr()).await.unwrap());
    }
    let client = DrainClient::new(LIMIT).unwrap();
    let token = trusting(&client, &issued, &server_name("chat"));
    assert_eq!(
        client
            .sessions(stage.sidecar.drain_addr(), &token)
            .await
            .unwrap()
            .open,
        0
    );
}

#[test]
fn a_certificate_and_a_key_that_do_not_belong_together_are_refused() {
    let (one, other) = (today("chat"), today("chat"));
    assert!(DrainTls::new(&one.certificate, &other.key).is_err());
    assert!(DrainTls::new("", &one.key).is_err());
    assert!(DrainTls::new(&one.certificate, "").is_err());
    let client = client();
    for bad in [
        String::new(),
        "x".to_owned(),
        one.key.clone(),
        one.authority.clone() + &other.authority,
    ] {
        assert!(client.trust(&bad, "a.b").is_err());
    }
    assert!(client.trust(&one.authority, "not a name").is_err());
}
