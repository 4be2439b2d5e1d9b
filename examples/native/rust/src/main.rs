//! A chat room whose members come back where they left: history is numbered, and a client says what it has.
//! `ws://HOST:8080/ws?sid=NAME[&last=N][&wsroll=1]`

#![allow(missing_docs, reason = "a program, to be read from here on")]

mod drain;
mod order;
mod port;

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use drain::{Drain, Guest, Say};

/// What was said, by session. In memory, so it dies with the pod: a real service keeps it in a store that all
/// revisions share.
type History = Arc<Mutex<HashMap<String, VecDeque<Value>>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let env = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let revision = env("WSROLL_REVISION", "dev");
    let token = std::fs::read_to_string(env("WSROLL_TOKEN_FILE", "/var/run/wsroll/token"));
    let key = std::fs::read_to_string(env("WSROLL_IDENTITY_KEY_FILE", "/var/run/wsroll/identity-key"));
    let drain = Drain::new(&key.unwrap_or_default(), &revision);
    if let Ok(token) = token {
        // Without one nobody may give orders: the port is not served.
        let listener = TcpListener::bind(format!("0.0.0.0:{}", env("WSROLL_PORT", "9911"))).await?;
        tokio::spawn(port::serve(listener, drain.clone(), token));
        tokio::spawn(drain.clone().run());
    }
    let listener = TcpListener::bind(format!("0.0.0.0:{}", env("PORT", "8080"))).await?;
    let history = History::default();
    loop {
        let (tcp, _) = listener.accept().await?;
        tokio::spawn(chat(tcp, drain.clone(), history.clone(), revision.clone()));
    }
}

#[allow(clippy::result_large_err)] // the signature is tungstenite's
async fn chat(tcp: TcpStream, drain: Drain, history: History, revision: String) {
    let mut query = String::new();
    let look = |request: &Request, answer: Response| -> Result<Response, ErrorResponse> {
        request.uri().query().unwrap_or_default().clone_into(&mut query);
        Ok(answer)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(tcp, look).await else {
        return;
    };
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let sid = parameter("sid").map_or_else(|| format!("{:016x}", rand::random::<u64>()), str::to_owned);
    let last: u64 = parameter("last").and_then(|last| last.parse().ok()).unwrap_or(0);
    let (known, missed) = catch_up(&history, &sid, last);
    let (say, mut said) = mpsc::channel(64);
    let id = drain.add(Guest {
        identity: sid.clone(),
        declared: parameter("wsroll") == Some("1"),
        resumed: (last > 0).then_some(known),
        say,
    });
    let welcome = json!({"type": "welcome", "session": sid, "resumed": known, "revision": revision});
    let mut ok = socket.send(Message::text(welcome.to_string())).await.is_ok();
    for message in missed {
        ok = ok && socket.send(Message::text(message.to_string())).await.is_ok();
    }
    let mut code = 1006;
    while ok {
        tokio::select! {
            Some(what) = said.recv() => ok = match what {
                Say::Text(text) => socket.send(Message::text(text)).await.is_ok(),
                Say::Close(code, reason) => {
                    let frame = CloseFrame { code: code.into(), reason: reason.into() };
                    socket.close(Some(frame)).await.is_ok()
                }
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some(reply) = heard(&drain, &history, id, &sid, &text) {
                        ok = socket.send(Message::text(reply.to_string())).await.is_ok();
                    }
                }
                Some(Ok(Message::Close(frame))) => code = frame.map_or(1005, |frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => ok = false,
            },
        }
    }
    drain.remove(id, code);
}

/// Whether the session is known, and what was said after `last`.
fn catch_up(history: &History, sid: &str, last: u64) -> (bool, Vec<Value>) {
    let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
    let known = history.contains_key(sid);
    let log = history.entry(sid.to_owned()).or_default();
    let missed = log.iter().filter(|message| message["seq"].as_u64() > Some(last));
    (known, missed.cloned().collect())
}

/// What a client said, and the answer to it. A repeat is said once.
fn heard(drain: &Drain, history: &History, id: u64, sid: &str, text: &str) -> Option<Value> {
    let message: Value = serde_json::from_str(text).ok()?;
    match message["type"].as_str()? {
        "wsroll.ack" => drain.ack(id, message["id"].as_str()?),
        "say" => {
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            let log = history.entry(sid.to_owned()).or_default();
            if log.iter().any(|said| said["id"] == message["id"]) {
                return None;
            }
            let seq = log.back().and_then(|said| said["seq"].as_u64()).unwrap_or(0) + 1;
            let reply = json!({"type": "message", "seq": seq, "id": message["id"], "text": message["text"]});
            log.push_back(reply.clone());
            if log.len() > 100 {
                log.pop_front();
            }
            return Some(reply);
        }
        _ => {}
    }
    None
}
