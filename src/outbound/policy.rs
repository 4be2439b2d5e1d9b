//! Which hosts and addresses may be dialled. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use url::{Host, Url};

/// What people may name in URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    allowed: Vec<Allowed>,
}

/// What is allowed although it would be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// These addresses, whatever name leads to them.
    Network(IpNet),
    /// This name, whatever address it has.
    Host(String),
}

/// What was written is neither a network nor a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a network (10.0.0.0/8), an address nor a host name")]
pub struct BadAllowed(String);

/// Why a host is not dialled. Names host and reason, never path, query or credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// User name or password in a URL.
    #[error("the URL for {host} carries credentials; give them in a Secret")]
    Credentials {
        /// The URL's host.
        host: String,
    },
    /// A URL without a host.
    #[error("the URL names no host")]
    NoHost,
    /// A host that no such URL means.
    #[error("{host} is {what}; if that is meant, start the operator with --allow-outbound {host}")]
    Host {
        /// The host as written.
        host: String,
        /// What it is.
        what: &'static str,
    },
    /// A name that leads to such an address.
    #[error(
        "{host} has the address {address}, which is {what}; if that is meant, start the operator with --allow-outbound {address}"
    )]
    Address {
        /// The host as written.
        host: String,
        /// What its look-up gave.
        address: IpAddr,
        /// What that is.
        what: &'static str,
    },
}

/// Names under which clouds hand out credentials, and names of the process' own host.
const NAMES: [(&str, &str); 7] = [
    ("metadata.google.internal", METADATA),
    ("metadata.goog", METADATA),
    ("metadata", METADATA),
    ("instance-data", METADATA),
    ("instance-data.ec2.internal", METADATA),
    ("localhost", OWN),
    ("ip6-localhost", OWN),
];

const METADATA: &str = "a cloud's metadata service";
const OWN: &str = "the operator's own host";

/// Metadata services that are not on link-local addresses: EC2 over IPv6, Alibaba, Oracle, Azure's host agent.
const METADATA_ADDRESSES: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

// === impl Policy ===

impl Policy {
    /// The rules with these exceptions.
    pub fn new(allowed: Vec<Allowed>) -> Self {
        Self { allowed }
    }

    /// Whether a URL may be dialled, as far as the URL tells. Its host's addresses are checked when they are known.
    pub fn check_url(&self, url: &Url) -> Result<(), Refused> {
        let host = match url.host() {
            None => return Err(Refused::NoHost),
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
        };
        if host.is_empty() {
            return Err(Refused::NoHost);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials { host });
        }
        self.check_host(&host)
    }

    /// Whether a host, a name or an address, may be dialled, as far as it tells by itself.
    pub fn check_host(&self, host: &str) -> Result<(), Refused> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.check_address(bare, address);
        }
        if self.names(bare) {
            return Ok(());
        }
        let name = normal(bare);
        let what = NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, what)| *what);
        let what = what.or_else(|| name.ends_with(".localhost").then_some(OWN));
        match what {
            Some(what) => Err(Refused::Host {
                host: bare.to_owned(),
                what,
            }),
            None => Ok(()),
        }
    }

    /// Whether an address, to which a look-up of `host` has led, may be dialled.
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let Some(what) = what_is(address) else {
            return Ok(());
        };
        let inner = embedded(address).map_or(address, IpAddr::V4);
        let networks = self.allowed.iter().any(|allowed| {
            matches!(allowed, Allowed::Network(network) if network.contains(&address) || network.contains(&inner))
        });
        if networks || self.names(host) {
            return Ok(());
        }
        Err(if host.parse() == Ok(address) {
            Refused::Host {
                host: host.to_owned(),
                what,
            }
        } else {
            Refused::Address {
                host: host.to_owned(),
                address,
                what,
            }
        })
    }

    fn names(&self, host: &str) -> bool {
        let host = normal(host);
        self.allowed
            .iter()
            .any(|allowed| matches!(allowed, Allowed::Host(name) if *name == host))
    }
}

// === impl Allowed ===

impl FromStr for Allowed {
    type Err = BadAllowed;

    fn from_str(text: &str) -> Result<Self, BadAllowed> {
        let text = text.trim();
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network));
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Network(IpNet::from(address)));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if !text.is_empty()
            && text.len() <= 253
            && text.chars().all(is_name)
            && !text.chars().all(|c| c.is_ascii_digit() || c == '.')
        {
            return Ok(Self::Host(normal(text)));
        }
        Err(BadAllowed(text.chars().take(80).collect()))
    }
}

fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// What an address is, where no URL means it. `None`: it may be dialled.
fn what_is(address: IpAddr) -> Option<&'static str> {
    if METADATA_ADDRESSES.contains(&address) {
        return Some(METADATA);
    }
    match (address, embedded(address)) {
        (IpAddr::V4(v4), _) | (_, Some(v4)) => what_is_v4(v4),
        (IpAddr::V6(v6), None) => what_is_v6(v6),
    }
}

fn what_is_v4(address: Ipv4Addr) -> Option<&'static str> {
    if METADATA_ADDRESSES.contains(&IpAddr::V4(address)) || address == Ipv4Addr::new(169, 254, 169, 254) {
        Some(METADATA)
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_link_local() {
        Some("a link-local address")
    } else if address.octets()[0] == 0 {
        Some("an unspecified address")
    } else if address.is_multicast() || address.octets()[0] >= 240 {
        Some("a multicast or reserved address")
    } else {
        None
    }
}

fn what_is_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_unspecified() {
        Some("an unspecified address")
    } else if address.is_unicast_link_local() {
        Some("a link-local address")
    } else if address.is_multicast() {
        Some("a multicast or reserved address")
    } else {
        None
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, translated (RFC 6052) or tunnelled (6to4).
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => of(high, low),
        // `::` and `::1` are IPv6's own.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => of(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn refused(text: &str) -> Option<Refused> {
        Policy::default().check_url(&Url::parse(text).unwrap()).err()
    }

    #[rstest]
    #[case("http://169.254.169.254/latest/meta-data/iam", "metadata")]
    #[case("http://2852039166/", "metadata")] // the same, as one number
    #[case("http://0xa9fea9fe/", "metadata")]
    #[case("http://0251.0376.0251.0376/", "metadata")]
    #[case("http://[::ffff:169.254.169.254]/", "metadata")]
    #[case("http://[64:ff9b::a9fe:a9fe]/", "metadata")]
    #[case("http://[2002:a9fe:a9fe::1]/", "metadata")]
    #[case("http://[fd00:ec2::254]/", "metadata")]
    #[case("http://100.100.100.200/", "metadata")]
    #[case("http://metadata.google.internal/computeMetadata/v1/", "metadata")]
    #[case("http://METADATA.google.internal./", "metadata")]
    #[case("http://169.254.170.2/v2/credentials", "link-local")]
    #[case("http://[fe80::1]/", "link-local")]
    #[case("ws://127.0.0.1:10250/", "loopback")]
    #[case("ws://127.1/", "loopback")]
    #[case("ws://[::1]/", "loopback")]
    #[case("ws://[::ffff:7f00:1]/", "loopback")]
    #[case("ws://localhost:8080/", "own host")]
    #[case("ws://a.localhost/", "own host")]
    #[case("http://0.0.0.0/", "unspecified")]
    #[case("http://0/", "unspecified")]
    #[case("http://[::]/", "unspecified")]
    #[case("http://224.0.0.1/", "multicast")]
    #[case("http://255.255.255.255/", "reserved")]
    #[case("http://[ff02::1]/", "multicast")]
    #[case("https://user:secret@chat.example.com/", "credentials")]
    #[case("https://user@chat.example.com/", "credentials")]
    #[case("file:///etc/passwd", "no host")]
    #[case("data:text/plain,x", "no host")]
    fn what_no_url_means_is_refused(#[case] text: &str, #[case] because: &str) {
        let told = refused(text).unwrap().to_string();
        assert!(told.contains(because), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }

    #[rstest]
    #[case("ws://chat.example.com/ws")]
    #[case("https://10.0.0.7/")]
    #[case("http://prometheus.monitoring.svc:9090/api/v1/query?query=up")]
    #[case("http://[fd12::7]/")]
    #[case("http://100.64.0.1/")]
    fn what_urls_mean_is_dialled(#[case] text: &str) {
        assert_eq!(refused(text), None);
    }

    #[test]
    fn a_name_is_checked_by_its_address_too() {
        let policy = Policy::default();
        let rebound = policy.check_address("evil.example.com", "169.254.169.254".parse().unwrap());
        let told = rebound.unwrap_err().to_string();
        assert!(
            told.contains("evil.example.com") && told.contains("169.254.169.254"),
            "{told}"
        );
        assert_eq!(policy.check_address("x", "10.1.2.3".parse().unwrap()), Ok(()));
    }

    #[test]
    fn what_is_allowed_is_allowed_and_nothing_else() {
        let allow = |text: &str| Policy::new(vec![text.parse().unwrap()]);
        let dial = |policy: &Policy, text: &str| policy.check_url(&Url::parse(text).unwrap()).is_ok();
        let loopback = allow("127.0.0.0/8");
        assert!(dial(&loopback, "http://127.9.9.9/") && dial(&loopback, "http://[::ffff:127.0.0.1]/"));
        assert!(!dial(&loopback, "http://169.254.169.254/") && !dial(&loopback, "http://[::1]/"));
        assert!(loopback.check_address("x", "127.0.0.1".parse().unwrap()).is_ok());
        let one = allow("169.254.20.10");
        assert!(dial(&one, "http://169.254.20.10/") && !dial(&one, "http://169.254.20.11/"));
        let host = allow("LocalHost.");
        assert!(dial(&host, "http://localhost/") && !dial(&host, "http://a.localhost/"));
        assert!(
            host.check_address("localhost", "127.0.0.1".parse().unwrap())
                .is_ok()
        );
        assert!(host.check_address("other", "127.0.0.1".parse().unwrap()).is_err());
        assert!(
            !dial(&host, "http://u:p@localhost/"),
            "credentials are never allowed"
        );
    }

    #[rstest]
    #[case("")]
    #[case("10.0.0.0/33")]
    #[case("1.2.3")]
    #[case("http://x")]
    #[case("a b")]
    #[case("a,b")]
    fn what_is_neither_is_refused(#[case] text: &str) {
        text.parse::<Allowed>().unwrap_err();
    }

    proptest! {
        #[test]
        fn any_host_is_answered(host in ".{0,60}", address in any::<[u8; 16]>(), v4 in any::<[u8; 4]>()) {
            let policy = Policy::default();
            let _ = policy.check_host(&host);
            let _ = host.parse::<Allowed>();
            let _ = policy.check_address(&host, Ipv6Addr::from(address).into());
            // However an IPv4 address is dressed, it is judged as what it is.
            let plain = policy.check_address("x", Ipv4Addr::from(v4).into()).is_ok();
            prop_assert_eq!(policy.check_address("x", Ipv4Addr::from(v4).to_ipv6_mapped().into()).is_ok(), plain);
        }
    }
}
