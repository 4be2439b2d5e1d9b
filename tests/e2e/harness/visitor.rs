//! A visitor: one fresh socket through the gateway, as any user opens it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::Case;
use super::namespace::token;

/// Longest wait for a visitor's welcome.
const PATIENCE: Duration = Duration::from_secs(5);

impl Case {
    /// The revision that welcomes a visitor.
    pub async fn visit(&self) -> Result<String> {
        tokio::time::timeout(PATIENCE, self.welcome())
            .await
            .context("nobody welcomed the visitor")?
    }

    /// Whether visitors are welcomed, all of so many.
    pub async fn serves(&self, visitors: usize) -> Result<()> {
        for visitor in 0..visitors {
            self.visit()
                .await
                .with_context(|| format!("visitor {visitor} of {visitors}"))?;
        }
        Ok(())
    }

    async fn welcome(&self) -> Result<String> {
        let mut request = format!("ws://{}/ws", self.host).into_client_request()?;
        let bearer = format!("Bearer {}", token("visitor", "free"));
        request.headers_mut().insert("authorization", bearer.parse()?);
        let stream = TcpStream::connect(&self.settings.gateway).await?;
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        while let Some(message) = socket.next().await {
            if let Message::Text(text) = message? {
                let welcome: Value = serde_json::from_str(&text)?;
                let _ = socket.close(None).await;
                return Ok(welcome["revision"].as_str().unwrap_or_default().to_owned());
            }
        }
        bail!("the socket ended without a welcome")
    }
}
