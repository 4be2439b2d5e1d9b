//! What is wrong with `spec.probes` and a schema cannot say: URLs, JSON paths, scripts.

use std::time::Duration;

use super::probes::{ProbeDialect, ProbeProfiles, Probes, TokenFrom, TokenLogin, TokenPlace};
use super::script::Script;

/// The longest delay of a reconnect.
const MAX_DELAY: Duration = Duration::from_secs(300);
/// The shortest time that a token of a login is used.
const MIN_REFRESH: Duration = Duration::from_secs(5);

/// Names every finding by its field.
pub(super) fn check(probes: &Probes, found: &mut impl FnMut(&str, String, &str)) {
    check_url(probes, found);
    check_script(probes, found);
    for (name, token) in [
        ("tokenFrom", &probes.token_from),
        ("otherTokenFrom", &probes.other_token_from),
    ] {
        if let Some(token) = token {
            check_token(&format!("spec.probes.{name}"), token, found);
        }
    }
    if probes.token_from.is_none() && probes.token_in != TokenPlace::Header {
        found(
            "spec.probes.tokenIn",
            format!("{:?} says where a token goes, and there is none", probes.token_in),
            "set spec.probes.tokenFrom, or remove it",
        );
    }
    if probes.token_from.is_none() && probes.other_token_from.is_some() {
        found(
            "spec.probes.otherTokenFrom",
            "it is somebody else's token beside spec.probes.tokenFrom, which is not set".to_owned(),
            "set spec.probes.tokenFrom, or remove it",
        );
    }
    if probes.tls.is_some() && !probes.url.starts_with("wss://") {
        found(
            "spec.probes.tls",
            format!("spec.probes.url is {:?}, which has no TLS", probes.url),
            "write the URL with wss://, or remove it",
        );
    }
    check_profiles(&probes.profiles, found);
}

fn check_url(probes: &Probes, found: &mut impl FnMut(&str, String, &str)) {
    match url::Url::parse(&probes.url) {
        Ok(url) if !matches!(url.scheme(), "ws" | "wss") => found(
            "spec.probes.url",
            format!("{:?} has the scheme {}", probes.url, url.scheme()),
            "use ws:// or wss://",
        ),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            found(
                "spec.probes.url",
                "the URL carries credentials".to_owned(),
                "use spec.probes.tokenFrom",
            );
        }
        Ok(_) => {}
        Err(error) => found(
            "spec.probes.url",
            format!("{:?} is not a URL: {error}", probes.url),
            "write it as users do: ws://chat.example.com/ws",
        ),
    }
}

fn check_script(probes: &Probes, found: &mut impl FnMut(&str, String, &str)) {
    match (&probes.script, probes.dialect) {
        (None, ProbeDialect::Script) => found(
            "spec.probes.script",
            "spec.probes.dialect is Script, and there is none".to_owned(),
            "write one (docs/probes.md), or choose another dialect",
        ),
        (Some(_), dialect) if dialect != ProbeDialect::Script => found(
            "spec.probes.script",
            format!("spec.probes.dialect is {dialect:?}, so that nobody would follow it"),
            "set spec.probes.dialect to Script, or remove it",
        ),
        (Some(script), _) => {
            for error in Script::compile(script).err().into_iter().flatten() {
                found(
                    &format!("spec.probes.script.{}", error.step),
                    error.problem,
                    "docs/probes.md has the words of a script",
                );
            }
        }
        (None, _) => {}
    }
}

fn check_token(field: &str, token: &TokenFrom, found: &mut impl FnMut(&str, String, &str)) {
    match (&token.secret_key_ref, &token.login) {
        (Some(_), None) => {}
        (None, Some(login)) => check_login(&format!("{field}.login"), login, found),
        _ => found(
            field,
            "it has not exactly one of secretKeyRef and login".to_owned(),
            "keep one of them",
        ),
    }
}

fn check_login(field: &str, login: &TokenLogin, found: &mut impl FnMut(&str, String, &str)) {
    let url = url::Url::parse(&login.url);
    let usable = url.as_ref().is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    });
    if !usable {
        found(
            &format!("{field}.url"),
            "it is no URL of HTTP without credentials".to_owned(),
            "write it as https://auth.example.com/token, and credentials into bodyFrom",
        );
    }
    if jsonpath_rust::parser::parse_json_path(&login.token_path).is_err() {
        found(
            &format!("{field}.tokenPath"),
            format!("{:?} is no JSON path", login.token_path),
            "write it as $.access_token",
        );
    }
    if login.body.is_some() && login.body_from.is_some() {
        found(
            &format!("{field}.body"),
            "there is bodyFrom too".to_owned(),
            "keep one of them",
        );
    }
    if login.refresh.0 < MIN_REFRESH {
        found(
            &format!("{field}.refresh"),
            format!("{:?} would log in all the time", login.refresh.0),
            "use 5s or more; a token that is refused is replaced at once anyway",
        );
    }
}

fn check_profiles(profiles: &ProbeProfiles, found: &mut impl FnMut(&str, String, &str)) {
    for (name, delays) in [
        ("graceful", &profiles.graceful),
        ("emergency", &profiles.emergency),
        ("rolling", &profiles.rolling),
    ] {
        let field = format!("spec.probes.profiles.{name}");
        if delays.is_empty() || delays.len() > 4 {
            found(
                &field,
                format!("it has {} delays", delays.len()),
                "write one to four",
            );
        } else if !delays.is_sorted() || delays[0].0.is_zero() || delays.iter().any(|d| d.0 > MAX_DELAY) {
            found(
                &field,
                "its delays do not rise from more than 0s to 5m at most".to_owned(),
                "write them as [500ms, 1s, 2s, 4s]: a service in trouble needs longer waits, not shorter ones",
            );
        }
    }
}
