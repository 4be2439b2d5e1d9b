//! What never gets into a line: tokens, pins, hints, query strings. Sentences are made of what pods, gateways and clients say, and
//! none of them is trusted to keep a secret.

use serde_json::Value;

use super::record::AuditRecord;
use crate::api::RolloutStatus;

/// What stands for a secret.
const REDACTED: &str = "[redacted]";
/// Shorter values would blot out ordinary text; nobody's token is that short.
const SHORTEST: usize = 6;
/// Longest sentence, bytes.
pub const MAX_SENTENCE: usize = 600;

/// The secrets of one round. Never shown by `Debug`.
#[derive(Clone, Default)]
pub struct Scrub {
    secrets: Vec<String>,
}

// === impl Scrub ===

impl Scrub {
    /// Knows these secrets.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> = secrets.into_iter().filter(|s| s.len() >= SHORTEST).collect();
        // Longer first: one may be a part of another.
        secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// Knows the pins and the hint of a status as well.
    #[must_use]
    pub fn with_pins(self, statuses: &[&RolloutStatus]) -> Self {
        let pins = statuses
            .iter()
            .filter_map(|s| s.release.as_ref())
            .flat_map(|release| {
                let pins = &release.pins;
                [&pins.probe_stable, &pins.probe_canary, &pins.hint]
            });
        let pins: Vec<String> = pins.cloned().collect();
        Self::new(self.secrets.into_iter().chain(pins))
    }

    /// A sentence without secrets, without the queries and credentials of URLs, without line breaks, of bounded length.
    pub fn sentence(&self, text: &str) -> String {
        let text = self.redact(text);
        let mut words: Vec<String> = Vec::new();
        let mut credential = false;
        for word in text.split_whitespace() {
            if std::mem::replace(&mut credential, false) {
                words.push(REDACTED.to_owned());
                continue;
            }
            credential = word
                .trim_start_matches(['"', '\'', '('])
                .eq_ignore_ascii_case("bearer");
            words.push(without_query(word));
        }
        cut(words.join(" "), MAX_SENTENCE)
    }

    /// The record as a line, with every secret struck out wherever it stands.
    pub fn line(&self, record: &AuditRecord) -> String {
        // A record is strings and numbers: it has a JSON form.
        let line = serde_json::to_string(record).unwrap_or_default();
        if !self
            .secrets
            .iter()
            .any(|secret| line.contains(escaped(secret).as_str()))
        {
            return line;
        }
        let mut value = serde_json::to_value(record).unwrap_or_default();
        self.strike(&mut value);
        value.to_string()
    }

    fn strike(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.redact(text),
            Value::Array(list) => list.iter_mut().for_each(|v| self.strike(v)),
            Value::Object(map) => map.values_mut().for_each(|v| self.strike(v)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn redact(&self, text: &str) -> String {
        self.secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret, REDACTED))
    }
}

impl std::fmt::Debug for Scrub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scrub({} secrets)", self.secrets.len())
    }
}

/// At most so many bytes, cut between characters.
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let room = most.saturating_sub('…'.len_utf8());
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// The value as it stands inside a JSON string.
fn escaped(secret: &str) -> String {
    let quoted = serde_json::to_string(secret).unwrap_or_default();
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(secret).to_owned()
}

/// A word without what follows a question mark in a URL or a path, and without a URL's user name and password.
fn without_query(word: &str) -> String {
    let (head, query) = word.split_once('?').unwrap_or((word, ""));
    let is_path = head.contains('/') || query.contains('=');
    let mut kept = if is_path && !query.is_empty() {
        // The punctuation of the sentence stays.
        let end = query.trim_end_matches(|c: char| !matches!(c, '"' | '\'' | ')' | ',' | ';' | ':'));
        let end: String = end.chars().rev().take(1).collect();
        format!("{head}{end}")
    } else {
        word.to_owned()
    };
    if let Some((scheme, rest)) = kept.clone().split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        if let Some(at) = authority.rfind('@') {
            kept = format!("{scheme}://{}", &rest[at + 1..]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_lose_secrets_queries_and_credentials() {
        let scrub = Scrub::new(["s3cret-token".to_owned(), "tiny".to_owned()]);
        for (text, kept) in [
            ("all is well", "all is well"),
            ("sent s3cret-token, twice", "sent [redacted], twice"),
            ("a tiny thing", "a tiny thing"),
            ("GET /ws?token=abc failed", "GET /ws failed"),
            (
                "wss://chat.example.com/ws?a=b&c=d: refused",
                "wss://chat.example.com/ws: refused",
            ),
            ("(https://jane:pw@example.com/x?y)", "(https://example.com/x)"),
            ("why? because", "why? because"),
            (
                "header Bearer abc.def was refused",
                "header Bearer [redacted] was refused",
            ),
            ("two\nlines", "two lines"),
        ] {
            assert_eq!(scrub.sentence(text), kept);
        }
    }

    #[test]
    fn sentences_are_bounded() {
        let long = Scrub::default().sentence(&"ä".repeat(1_000));
        assert!(long.len() <= MAX_SENTENCE && long.ends_with("ä…"));
    }

    #[test]
    fn nobody_sees_the_secrets() {
        let scrub = Scrub::new(["s3cret-token".to_owned()]);
        assert_eq!(format!("{scrub:?}"), "Scrub(1 secrets)");
    }
}
