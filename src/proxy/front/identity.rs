//! What a request says about its session: its identity, and what it declares.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;

use crate::api::spec::SidecarNotice;
use crate::drain::identity::hash;
use crate::proxy::Proxy;
use crate::proxy::settings::{Identity, Settings};

/// Longest identity that is taken for one, bytes.
const MAX_IDENTITY: usize = 1024;

/// The identity of the request's session, where it has one.
fn of<'r>(parts: &'r Parts, settings: &Settings) -> Option<Cow<'r, str>> {
    let found = match settings.session.as_ref()? {
        Identity::Query(name) => parameter(parts.uri.query().unwrap_or(""), name),
        Identity::Header(name) => parts.headers.get(name)?.to_str().ok().map(Cow::Borrowed),
        Identity::Cookie(name) => cookie(&parts.headers, name).map(Cow::Borrowed),
    };
    found.filter(|identity| (1..=MAX_IDENTITY).contains(&identity.len()))
}

/// The identity as pods may tell it, and as it is kept in memory.
pub(super) fn hashed(parts: &Parts, proxy: &Proxy) -> Option<Box<str>> {
    let identity = of(parts, &proxy.settings)?;
    let key = proxy.identity_key.as_ref().unwrap_or(&proxy.own_key);
    Some(hash(key, &identity).into())
}

/// The first value of a query parameter, decoded.
pub(super) fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// The value of a cookie.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
}

/// The subprotocol that the application chose.
pub(super) fn subprotocol(answer: &HeaderMap) -> Option<&str> {
    answer.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()
}

/// Which notice a client has declared: by its subprotocol, its query, or both where the settings ask for both.
pub(super) fn notice(settings: &Settings, subprotocol: Option<&str>, query: &str) -> Option<u8> {
    let fits = |notice: &SidecarNotice| {
        let declared = |text: &String| match text.split_once('=') {
            Some((name, value)) => parameter(query, name).is_some_and(|given| given == value),
            None => parameter(query, text).is_some(),
        };
        notice.subprotocol.as_deref() == subprotocol && notice.declared_by_query.as_ref().is_none_or(declared)
    };
    index(settings.notices.iter().position(fits))
}

/// Which close codes are the subprotocol's.
pub(super) fn codes(settings: &Settings, subprotocol: Option<&str>) -> Option<u8> {
    let subprotocol = subprotocol?;
    index(
        settings
            .close_codes
            .iter()
            .position(|codes| codes.subprotocol == subprotocol),
    )
}

fn index(at: Option<usize>) -> Option<u8> {
    u8::try_from(at?).ok()
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;

    fn settings(extra: serde_json::Value) -> Settings {
        let mut text = json!({"applicationPort": 1});
        text.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        Settings::parse(&text.to_string()).unwrap()
    }

    #[test]
    fn identities_are_found_where_the_settings_say() {
        let (parts, ()) = Request::get("/x?EIO=4&sid=a%2Bb&sid=c")
            .header("x-session", "h1")
            .header("cookie", "a=1; io=\"c1\"")
            .body(())
            .unwrap()
            .into_parts();
        for (session, expected) in [
            (json!({"query": "sid"}), Some("a+b")),
            (json!({"query": "none"}), None),
            (json!({"header": "X-Session"}), Some("h1")),
            (json!({"cookie": "io"}), Some("c1")),
        ] {
            let settings = settings(json!({"session": session}));
            assert_eq!(of(&parts, &settings).as_deref(), expected);
        }
    }

    #[test]
    fn only_who_declared_a_notice_gets_one() {
        let settings = settings(json!({"notices": [
            {"subprotocol": "chat"}, {"subprotocol": "mqtt", "declaredByQuery": "notice=1"}, {"declaredByQuery": "notice"}]}));
        for (subprotocol, query, expected) in [
            (Some("chat"), "", Some(0)),
            (Some("mqtt"), "", None),
            (Some("mqtt"), "notice=1", Some(1)),
            (Some("mqtt"), "notice=2", None),
            (None, "a=b&notice=", Some(2)),
            (None, "", None),
            (Some("other"), "notice", None),
        ] {
            assert_eq!(
                notice(&settings, subprotocol, query),
                expected,
                "{subprotocol:?} {query}"
            );
        }
    }
}
