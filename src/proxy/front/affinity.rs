//! Leads a session's requests to the pod that has it, whatever the gateway does: a signed cookie names the pod.
//!
//! The cookie is given where a session begins: with the answer to a handshake, or to the first request that carries none.
//! A request with an identity and another pod's cookie is relayed to that pod's sidecar, once: a header marks it. No
//! address is ever believed that is not signed with the rollout's key.

use std::net::SocketAddr;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, SET_COOKIE};
use subtle::ConstantTimeEq as _;

use super::identity;
use crate::drain::identity::{IdentityKey, mac};
use crate::proxy::Proxy;

/// The cookie's name.
const COOKIE: &str = "wsroll-affinity";
/// Marks a request that was led here by another pod. A client that sends it itself only loses the way.
const LED: HeaderName = HeaderName::from_static("x-wsroll-led");
/// How long a cookie holds, seconds: longer than any polling session, and renewed with every session.
const LIFETIME_SECONDS: i64 = 24 * 3600;
/// Bytes of the MAC that stand in the cookie.
const MAC_BYTES: usize = 16;

/// The pod to which a request is bound, if it is and was not led here for that reason. Takes the mark off, so that the
/// application does not see it.
pub(super) fn bound(headers: &mut HeaderMap, proxy: &Proxy) -> Option<SocketAddr> {
    let led = headers.remove(LED).is_some();
    if led || !proxy.settings.affinity {
        return None;
    }
    let now = jiff::Timestamp::now().as_second();
    read(
        identity::cookie(headers, COOKIE)?,
        proxy.identity_key.as_ref()?,
        now,
    )
}

/// Marks a request on its way to another pod.
pub(super) fn mark(headers: &mut HeaderMap) {
    headers.insert(LED, HeaderValue::from_static("1"));
}

/// Binds the session that begins with this answer to this pod; not to one that is being emptied.
pub(super) fn bind(headers: &mut HeaderMap, proxy: &Proxy, here: SocketAddr) {
    let Some(key) = proxy.identity_key.as_ref().filter(|_| proxy.settings.affinity) else {
        return;
    };
    let name = COOKIE.as_bytes();
    let is_given = headers
        .get_all(SET_COOKIE)
        .iter()
        .any(|cookie| cookie.as_bytes().starts_with(name));
    if is_given || proxy.drain.is_emptying() {
        return;
    }
    let until = jiff::Timestamp::now().as_second() + LIFETIME_SECONDS;
    let cookie = format!(
        "{COOKIE}={}; Path=/; HttpOnly; Max-Age={LIFETIME_SECONDS}",
        write(here, key, until)
    );
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        headers.append(SET_COOKIE, value);
    }
}

/// Takes the cookie back.
pub(super) fn expire(headers: &mut HeaderMap, proxy: &Proxy) {
    if proxy.settings.affinity {
        let gone = HeaderValue::from_static("wsroll-affinity=; Path=/; HttpOnly; Max-Age=0");
        headers.append(SET_COOKIE, gone);
    }
}

fn write(pod: SocketAddr, key: &IdentityKey, until: i64) -> String {
    let text = format!("{pod}~{until}");
    let mac = mac(key, "affinity:", &text);
    format!("{text}~{}", hex::encode(&mac[..MAC_BYTES]))
}

fn read(cookie: &str, key: &IdentityKey, now: i64) -> Option<SocketAddr> {
    let (text, given) = cookie.rsplit_once('~')?;
    let expected = hex::encode(&mac(key, "affinity:", text)[..MAC_BYTES]);
    if !bool::from(given.as_bytes().ct_eq(expected.as_bytes())) {
        return None;
    }
    let (pod, until) = text.split_once('~')?;
    let until: i64 = until.parse().ok()?;
    if until < now { None } else { pod.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_and_holds_is_believed() {
        let key = IdentityKey::new("k");
        let pod: SocketAddr = "10.1.2.3:9910".parse().unwrap();
        let cookie = write(pod, &key, 100);
        assert_eq!(read(&cookie, &key, 100), Some(pod));
        assert_eq!(read(&cookie, &key, 101), None);
        assert_eq!(read(&cookie, &IdentityKey::new("other"), 1), None);
        assert_eq!(read(&cookie.replace("10.1.2.3", "10.1.2.4"), &key, 1), None);
        assert_eq!(read(&cookie.replace("~100~", "~999~"), &key, 1), None);
        assert_eq!(read("10.1.2.3:9910", &key, 1), None);
    }
}
