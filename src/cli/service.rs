//! Flags that name a service and the user who dials it; `load` and `probe` share them.

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::session::{Dialect, Endpoint, Token};

/// The service to dial.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The service's URL, as users dial it (`ws://HOST/PATH` or `wss://HOST/PATH`)
    #[arg(long)]
    pub url: String,
    /// Dial this address instead; the Host header stays the URL's
    #[arg(long, value_name = "HOST:PORT")]
    pub connect_to: Option<String>,
    /// What is spoken: `session` resumes and compares state, `ping` needs nothing but WebSocket
    #[arg(long, value_enum, default_value_t = DialectArg::Session)]
    pub dialect: DialectArg,
    /// A further request header; may be repeated
    #[arg(long = "header", value_name = "NAME:VALUE")]
    pub headers: Vec<String>,
    /// A subprotocol to offer; may be repeated
    #[arg(long = "subprotocol", value_name = "NAME")]
    pub subprotocols: Vec<String>,
    /// Environment variable that holds the key to sign each session's token with
    #[arg(long, value_name = "VARIABLE")]
    pub token_key_env: Option<String>,
    /// Tier in the signed tokens
    #[arg(long, default_value = "standard")]
    pub tier: String,
}

/// What is spoken on a socket, as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DialectArg {
    /// The session protocol of the example service
    Session,
    /// Pings and pongs
    Ping,
}

impl From<DialectArg> for Dialect {
    fn from(arg: DialectArg) -> Self {
        match arg {
            DialectArg::Session => Self::Session,
            DialectArg::Ping => Self::Ping,
        }
    }
}

/// Signs tokens as `examples/session-server` checks them.
#[derive(Clone)]
pub struct Signer {
    key: Vec<u8>,
    tier: String,
}

// === impl ServiceArgs ===

impl ServiceArgs {
    /// The endpoint that the flags describe.
    pub fn endpoint(&self, user_agent: &str) -> anyhow::Result<Endpoint> {
        let mut endpoint = Endpoint::new(&self.url, user_agent)
            .context("--url")?
            .subprotocols(&self.subprotocols)
            .context("--subprotocol")?;
        if let Some(address) = &self.connect_to {
            endpoint = endpoint.connect_to(address).context("--connect-to")?;
        }
        for (name, value) in self.headers()? {
            endpoint = endpoint.header(&name, &value).context("--header")?;
        }
        Ok(endpoint)
    }

    /// The headers, taken apart.
    pub fn headers(&self) -> anyhow::Result<Vec<(String, String)>> {
        let split = |header: &String| {
            let (name, value) = header.split_once(':').context("--header: expected NAME:VALUE")?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        self.headers.iter().map(split).collect()
    }

    /// What signs the tokens, where a key is named.
    pub fn signer(&self) -> anyhow::Result<Option<Signer>> {
        let Some(variable) = &self.token_key_env else {
            return Ok(None);
        };
        let key = std::env::var(variable)
            .with_context(|| format!("--token-key-env: the variable {variable} is not set"))?;
        Ok(Some(Signer {
            key: key.into_bytes(),
            tier: self.tier.clone(),
        }))
    }
}

// === impl Signer ===

impl Signer {
    /// `<user>.<tier>.<hex of HMAC-SHA256 of "user.tier">`; `None` never, since HMAC takes keys of any length.
    pub fn sign(&self, user: &str) -> Option<Token> {
        let signed = format!("{user}.{}", self.tier);
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(signed.as_bytes());
        let signature = hex::encode(mac.finalize().into_bytes());
        Some(Token::new(format!("{signed}.{signature}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_signed_over_user_and_tier() {
        let signer = Signer {
            key: b"key".to_vec(),
            tier: "gold".to_owned(),
        };
        let token = signer.sign("ann").unwrap();
        // printf ann.gold | openssl dgst -sha256 -hmac key
        assert_eq!(
            token.reveal(),
            "ann.gold.421cf6e396335b013d627694129c3a1886221d274d3c2c4f426d0cfde6fec71e"
        );
    }
}
