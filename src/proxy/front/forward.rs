//! Requests and answers on their way through: what belongs to one connection stays with it, and the application learns
//! who the client is.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Takes off what is meant for this connection only (RFC 9110, 7.6.1). The message's length is the HTTP library's business.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRANSFER_ENCODING,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ] {
        headers.remove(name);
    }
}

/// Says who the client is. `hops` proxies in front are believed: of the addresses that came along the last so many stay,
/// which is what the application sees without a sidecar. With none, or where nothing came along, it is the connection's.
pub(super) fn name_client(headers: &mut HeaderMap, peer: IpAddr, hops: u8) {
    let believed = last_addresses(headers, hops.into());
    if hops == 0 {
        headers.remove(header::FORWARDED);
        headers.remove(REAL_IP);
        headers.remove(FORWARDED_PROTO);
        headers.remove(FORWARDED_HOST);
    }
    let addresses = believed.unwrap_or_else(|| peer.to_string());
    if let Ok(value) = HeaderValue::from_str(&addresses) {
        headers.insert(FORWARDED_FOR, value);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

fn last_addresses(headers: &HeaderMap, hops: usize) -> Option<String> {
    let came: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .collect();
    let kept = &came[came.len().saturating_sub(hops)..];
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// Whether a request asks for a WebSocket.
pub(super) fn asks_for_websocket(method: &http::Method, headers: &HeaderMap) -> bool {
    method == http::Method::GET
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Bytes of a head's fields as they were on the wire.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[rstest]
    #[case::nobody_is_believed(0, &["1.1.1.1"], "9.9.9.9")]
    #[case::the_gateway_is(1, &["6.6.6.6, 1.1.1.1"], "1.1.1.1")]
    #[case::over_several_lines(1, &["6.6.6.6", "1.1.1.1"], "1.1.1.1")]
    #[case::two_are(2, &["6.6.6.6, 1.1.1.1, 2.2.2.2"], "1.1.1.1, 2.2.2.2")]
    #[case::nothing_came(1, &[], "9.9.9.9")]
    #[case::nothing_but_commas(1, &[" , "], "9.9.9.9")]
    fn addresses(#[case] hops: u8, #[case] came: &[&'static str], #[case] expected: &str) {
        let pairs: Vec<_> = came.iter().map(|value| ("x-forwarded-for", *value)).collect();
        let mut headers = headers(&pairs);
        name_client(&mut headers, [9, 9, 9, 9].into(), hops);
        let all: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        assert_eq!(all, [expected]);
    }

    #[test]
    fn scheme_and_host_are_the_gateways_or_ours() {
        let came = [
            ("host", "a"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "b"),
            ("forwarded", "for=x"),
        ];
        let mut believed = headers(&came);
        name_client(&mut believed, [9, 9, 9, 9].into(), 1);
        assert_eq!(
            (&believed[FORWARDED_PROTO], &believed[FORWARDED_HOST]),
            (&"https".parse().unwrap(), &"b".parse().unwrap())
        );
        let mut own = headers(&came);
        name_client(&mut own, [9, 9, 9, 9].into(), 0);
        assert_eq!(
            (&own[FORWARDED_PROTO], &own[FORWARDED_HOST]),
            (&"http".parse().unwrap(), &"a".parse().unwrap())
        );
        assert!(!own.contains_key(header::FORWARDED));
    }

    #[test]
    fn what_belongs_to_a_connection_stays_with_it() {
        let mut map = headers(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("x-yours", "2"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("x-yours", "2")]));
    }

    #[test]
    fn upgrades_are_known_by_both_headers() {
        let asks =
            |pairs: &[(&'static str, &'static str)]| asks_for_websocket(&http::Method::GET, &headers(pairs));
        assert!(asks(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket")
        ]));
        assert!(!asks(&[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!asks(&[("upgrade", "websocket")]));
    }
}
