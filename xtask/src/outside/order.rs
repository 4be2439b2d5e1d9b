//! The drain protocol as one who gives orders sees it: a few requests over HTTP/1.1.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::proxy::Proxy;

const SESSIONS: &str = "/wsroll/v1/sessions";
const DRAIN: &str = "/wsroll/v1/drain";
const EVENTS: &str = "/wsroll/v1/events?after=0";

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Everything before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

/// What a sidecar says about its sessions.
pub fn sessions(drain: SocketAddr) -> Result<Value> {
    ask(drain, "GET", SESSIONS, "")
}

/// The sessions it released and those that arrived.
pub fn events(drain: SocketAddr) -> Result<Value> {
    ask(drain, "GET", EVENTS, "")
}

/// Orders a drain of all sessions, with no time between notice and close.
pub fn drain(drain: SocketAddr, rate: f64) -> Result<()> {
    let order = json!({
        "id": "stacks-1", "reason": "rollout", "select": { "all": {} }, "ratePerSecond": rate, "leaseSeconds": 120,
        "reconnect": { "minMs": 0, "maxMs": 0 },
    });
    ask(drain, "PUT", DRAIN, &order.to_string()).map(drop)
}

fn ask(drain: SocketAddr, method: &str, path: &str, body: &str) -> Result<Value> {
    let answer = request(
        drain,
        method,
        path,
        &[("Authorization", &Proxy::authorization())],
        body,
    )?;
    ensure!(
        answer.status == 200,
        "{method} {path}: {} {}",
        answer.status,
        answer.body
    );
    serde_json::from_str(&answer.body).with_context(|| format!("{method} {path} answered {}", answer.body))
}

/// One request on a connection of its own.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "Connection") {
        head.push_str("Connection: close\r\n");
    }
    for (name, value) in headers {
        head = format!("{head}{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    // A refused upgrade leaves the connection open for another request: its answer ends with its length.
    while !is_whole(&answer) {
        match stream.read(&mut chunk).context("failed to read the answer")? {
            0 => break,
            count => answer.extend_from_slice(&chunk[..count]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.context("no status")?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// Whether an answer is there to the length that it names; one that names none ends with its connection.
fn is_whole(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        value.trim().parse::<usize>().ok().filter(|_| named)
    });
    length.is_some_and(|length| body.len() >= length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_length_or_with_its_connection() {
        assert!(is_whole(b"HTTP/1.1 503 S\r\nContent-Length: 2\r\n\r\nno"));
        assert!(!is_whole(b"HTTP/1.1 503 S\r\ncontent-length: 3\r\n\r\nno"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nuntil it ends"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"));
    }
}
