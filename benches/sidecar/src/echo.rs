//! The server behind the proxies.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    frame::{self, Head},
    upgrade,
};

/// Serves until killed.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("failed to listen on {listen}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that breaks off is no business of the server's.
        tokio::spawn(async move { drop(echo(stream).await) });
    }
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    upgrade::accept(&mut stream).await?;
    let mut buffer = vec![0; 1_024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut done = 0;
        while let Some(head) = Head::read(&buffer[done..filled]) {
            if done + head.total() > filled {
                // Room for the whole of it, so that the next read does not come in pieces.
                if buffer.len() < head.total() {
                    buffer.resize(head.total(), 0);
                }
                break;
            }
            let payload_at = done + head.size;
            let end = payload_at + head.payload;
            if let Some(key) = head.mask {
                frame::unmask(&mut buffer[payload_at..end], key);
            }
            let start = frame::head_before(&mut buffer, head.first, payload_at, head.payload);
            stream.write_all(&buffer[start..end]).await?;
            if head.first == frame::CLOSE {
                return Ok(());
            }
            done = end;
        }
        buffer.copy_within(done..filled, 0);
        filled -= done;
    }
}
