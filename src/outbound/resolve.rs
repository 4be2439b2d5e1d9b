//! Names become addresses that may be dialled, and exactly those are dialled.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::policy::{Policy, Refused};

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The policy refuses the host, or every address it has.
    #[error(transparent)]
    Refused(Refused),
    /// The name leads nowhere.
    #[error(transparent)]
    Io(io::Error),
}

/// The addresses of `host:port` that may be dialled. The name is looked up once; what the policy refuses of its addresses is left out.
/// The caller bounds the time, and dials exactly these.
pub async fn lookup(policy: &Policy, address: &str) -> Result<Vec<SocketAddr>, DialError> {
    let (host, port) = split(address).ok_or_else(|| {
        let problem = format!("{address:?} is not of the form host:port");
        DialError::Io(io::Error::new(io::ErrorKind::InvalidInput, problem))
    })?;
    policy.check_host(host).map_err(DialError::Refused)?;
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(DialError::Io)?;
    allowed(policy, host, found.collect())
}

fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// The addresses that may be dialled; an error where there are some, and all are refused.
fn allowed(policy: &Policy, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
    let mut refused = None;
    let mut kept = Vec::new();
    for address in found {
        match policy.check_address(host, address.ip()) {
            Ok(()) => kept.push(address),
            Err(why) => refused = Some(why),
        }
    }
    match refused {
        Some(why) if kept.is_empty() => Err(DialError::Refused(why)),
        _ => Ok(kept),
    }
}

/// The same for an HTTP client: what it gives is what is dialled.
#[derive(Clone, Debug)]
pub(super) struct Resolver(pub(super) Arc<Policy>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str();
            policy.check_host(host)?;
            let found = tokio::net::lookup_host((host, 0)).await?.collect();
            let kept = allowed(&policy, host, found).map_err(|error| match error {
                DialError::Refused(refused) => Box::new(refused) as Box<dyn std::error::Error + Send + Sync>,
                DialError::Io(error) => Box::new(error),
            })?;
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_lead_to_what_is_allowed_only() {
        let port = 8080;
        for host in ["127.0.0.1", "localhost", "2130706433"] {
            let refused = lookup(&Policy::default(), &format!("{host}:{port}"))
                .await
                .unwrap_err();
            // A resolver may not know numbers for names; then nothing is dialled either.
            assert!(
                matches!(refused, DialError::Refused(_)) || host.starts_with('2'),
                "{host}: {refused}"
            );
        }
        let local = Policy::new(vec!["127.0.0.0/8".parse().unwrap(), "localhost".parse().unwrap()]);
        for host in ["127.0.0.1", "localhost"] {
            let found = lookup(&local, &format!("{host}:{port}")).await.unwrap();
            assert!(found.iter().any(|address| address.port() == port), "{host}");
        }
        for bad in ["", ":80", "host", "host:99999"] {
            assert!(
                matches!(lookup(&local, bad).await, Err(DialError::Io(_))),
                "{bad}"
            );
        }
    }

    /// A name that has a public address and a private one is dialled at the public one: the other is never tried.
    #[test]
    fn of_a_names_addresses_those_that_are_refused_are_left_out() {
        let public: SocketAddr = "203.0.113.7:80".parse().unwrap();
        let private: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let policy = Policy::default();
        assert_eq!(allowed(&policy, "x", vec![private, public]).unwrap(), [public]);
        assert!(matches!(
            allowed(&policy, "x", vec![private]),
            Err(DialError::Refused(_))
        ));
        assert_eq!(allowed(&policy, "x", Vec::new()).unwrap(), []);
    }
}
