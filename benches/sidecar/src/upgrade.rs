//! The opening handshake, both sides.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// More than any head here.
const LONGEST: usize = 8_192;

/// Opens a WebSocket.
pub async fn connect(target: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(target)
        .await
        .with_context(|| format!("failed to connect to {target}"))?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {target}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "refused: {head}");
    Ok(stream)
}

/// Answers a client's handshake.
pub async fn accept(stream: &mut TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let head = read_head(stream).await?;
    let key = header(&head, "sec-websocket-key").context("no Sec-WebSocket-Key")?;
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}

/// Up to the empty line. Nobody here says anything after it before the other side has answered.
async fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > LONGEST {
            bail!("the handshake ended early: {}", String::from_utf8_lossy(&head));
        }
    }
    Ok(String::from_utf8(head)?)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}
