//! Flags that name a service and the user who dials it; `load` and `probe` share them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::api::script::{self, ProbeScript, Ready, Script};
use crate::probe::Manner;
use crate::session::{Dialect, Endpoint, Tls, TlsFiles, Token, TokenIn};

/// The service to dial.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The service's URL, as users dial it (`ws://HOST/PATH` or `wss://HOST/PATH`)
    #[arg(long)]
    pub url: String,
    /// Dial this address instead; the Host header stays the URL's
    #[arg(long, value_name = "HOST:PORT")]
    pub connect_to: Option<String>,
    /// What is spoken: `session` resumes and compares state, `ping` needs nothing but WebSocket; `--script` is a dialect of its own
    #[arg(long, value_enum)]
    pub dialect: Option<DialectArg>,
    /// Speak the script in this file (YAML or JSON, as in `spec.probes.script`)
    #[arg(long, value_name = "FILE", conflicts_with = "dialect")]
    pub script: Option<PathBuf>,
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
    /// Environment variable that holds the token itself
    #[arg(long, value_name = "VARIABLE", conflicts_with = "token_key_env")]
    pub token_env: Option<String>,
    /// Send the token in this parameter of the URL, instead of a header
    #[arg(long, value_name = "PARAMETER", conflicts_with = "token_in_script")]
    pub token_query: Option<String>,
    /// Send the token only where the script says `${token}`
    #[arg(long)]
    pub token_in_script: bool,
    /// Certificates to trust (PEM), instead of the machine's roots
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate to show (PEM)
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// Private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// The name that the service's certificate must be for; without it the URL's host
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
}

/// What is spoken on a socket, as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DialectArg {
    /// The session protocol of the example service
    Session,
    /// Pings and pongs
    Ping,
    /// A service that sends back what it is sent
    Echo,
    /// Socket.IO, over Engine.IO 4
    SocketIo,
    /// `graphql-transport-ws`
    GraphqlTransportWs,
    /// STOMP 1.2
    Stomp,
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
        if let Some(ready) = self.ready() {
            endpoint = endpoint.ready(ready).context("--dialect")?;
        }
        if let Some((tls, name)) = self.tls()? {
            endpoint = endpoint.secured(&tls, name);
        }
        Ok(endpoint.token_in(self.token_in()))
    }

    /// How the flags say that sessions speak.
    pub fn manner(&self) -> anyhow::Result<Manner> {
        Ok(Manner {
            ready: self.ready(),
            script: self.compiled()?,
            token_in: self.token_in(),
            tls: self.tls()?,
            ..Manner::default()
        })
    }

    /// What is spoken.
    pub fn dialect(&self) -> anyhow::Result<Dialect> {
        Ok(match self.dialect {
            _ if self.compiled()?.is_some() => Dialect::Script,
            Some(DialectArg::Ping) => Dialect::Ping,
            _ => Dialect::Session,
        })
    }

    /// The script, where one is spoken.
    pub fn compiled(&self) -> anyhow::Result<Option<Arc<Script>>> {
        if let Some(ready) = self.ready() {
            return Ok(script::ready(ready));
        }
        let Some(path) = &self.script else {
            return Ok(None);
        };
        let at = || format!("--script {}", path.display());
        let text = std::fs::read_to_string(path).with_context(at)?;
        let read: ProbeScript = serde_saphyr::from_str(&text).with_context(at)?;
        match Script::compile(&read) {
            Ok(script) => Ok(Some(Arc::new(script))),
            Err(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(anyhow::anyhow!(lines.join("; "))).with_context(at)
            }
        }
    }

    fn ready(&self) -> Option<Ready> {
        match self.dialect? {
            DialectArg::Session | DialectArg::Ping => None,
            DialectArg::Echo => Some(Ready::Echo),
            DialectArg::SocketIo => Some(Ready::SocketIo),
            DialectArg::GraphqlTransportWs => Some(Ready::GraphqlTransportWs),
            DialectArg::Stomp => Some(Ready::Stomp),
        }
    }

    fn token_in(&self) -> TokenIn {
        match &self.token_query {
            Some(name) => TokenIn::Query(name.clone()),
            None if self.token_in_script => TokenIn::Script,
            None => TokenIn::Header,
        }
    }

    fn tls(&self) -> anyhow::Result<Option<(Tls, Option<String>)>> {
        let read = |path: &PathBuf, flag: &str| {
            std::fs::read(path).with_context(|| format!("{flag} {}", path.display()))
        };
        let mut files = TlsFiles::default();
        if let Some(path) = &self.ca_file {
            files.roots = Some(read(path, "--ca-file")?);
        }
        if let (Some(certificate), Some(key)) = (&self.cert_file, &self.key_file) {
            files.client = Some((read(certificate, "--cert-file")?, read(key, "--key-file")?));
        }
        if files == TlsFiles::default() && self.server_name.is_none() {
            return Ok(None);
        }
        let tls = Tls::new(&files).context("--ca-file, --cert-file, --key-file")?;
        Ok(Some((tls, self.server_name.clone())))
    }

    /// The token of this user: signed, or the one that the environment holds, which is the same for everybody but the intruder.
    pub fn token(&self, user: &str) -> anyhow::Result<Option<Token>> {
        if let Some(variable) = &self.token_env {
            let token = std::env::var(variable)
                .with_context(|| format!("--token-env: the variable {variable} is not set"))?;
            let token = Token::new(token.trim());
            return Ok(Some(if user == "intruder" {
                token.tampered()
            } else {
                token
            }));
        }
        Ok(self.signer()?.and_then(|signer| signer.sign(user)))
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
            &*token.reveal(),
            "ann.gold.421cf6e396335b013d627694129c3a1886221d274d3c2c4f426d0cfde6fec71e"
        );
    }
}
