//! Drain orders as the operator sends them, and the reasons to refuse one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The fastest drain that makes sense for one process, sessions per second.
const MAX_RATE: f64 = 10_000.0;
/// Longest id, in bytes.
const MAX_ID: usize = 200;
/// Longest hint query, in bytes.
const MAX_HINT: usize = 256;
/// Longest wait that may be asked of a client before it reconnects.
const MAX_RECONNECT_MS: u64 = 600_000;
/// Longest lease: a day.
const MAX_LEASE_SECONDS: u64 = 86_400;
/// Longest deadline: a week.
const MAX_DEADLINE_MS: u64 = 7 * 24 * 3600 * 1000;

/// A checked order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) reason: Reason,
    pub(crate) select: Select,
    pub(crate) mode: Mode,
    /// Sessions that may go per second, above 0.
    pub(crate) rate: f64,
    /// How long the order holds without being renewed.
    pub(crate) lease: Duration,
    /// Of active time; none: never.
    pub(crate) deadline: Option<Duration>,
    pub(crate) on_deadline: OnDeadline,
    /// From a notice to its socket's close.
    pub(crate) lead: Duration,
    /// How a client names, at its reconnect, where it should land.
    pub(crate) hint: Option<Hint>,
    pub(crate) close_code: u16,
}

/// Why sessions are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reason {
    Rollout,
    Rollback,
    ScaleDown,
    NodeDrain,
    Rebalance,
    Drill,
    /// One this version does not know; it is only passed on.
    #[serde(other)]
    Other,
}

/// Which sessions.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Select {
    /// All, and those that still come while the order runs.
    All {},
    /// So many.
    Count(u64),
    /// This share, 0.0 to 1.0.
    Fraction(f64),
}

/// How they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Mode {
    /// A notice, then the close in turn.
    Ask,
    /// The same, but a client that says it is busy is skipped until then.
    WhenIdle,
    /// Nothing is sent or closed before the deadline.
    Leave,
}

/// What happens to sessions that are still here at the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum OnDeadline {
    /// They stay.
    Wait,
    /// They are closed at the same rate.
    Close,
}

/// Why an order is bad. For the one who wrote it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadOrder {
    #[error("not a drain order: {0}")]
    Unreadable(#[source] serde_json::Error),
    #[error("{field} {problem}")]
    Field { field: &'static str, problem: String },
}

/// The order on the wire. Unknown fields are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: String,
    #[serde(default = "Wire::reason")]
    reason: Reason,
    #[serde(default = "Wire::select")]
    select: Select,
    #[serde(default = "Wire::mode")]
    mode: Mode,
    rate_per_second: f64,
    lease_seconds: u64,
    #[serde(default)]
    deadline_ms: Option<u64>,
    #[serde(default = "Wire::on_deadline")]
    on_deadline: OnDeadline,
    #[serde(default)]
    reconnect: Reconnect,
    #[serde(default = "Wire::close_code")]
    close_code: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Reconnect {
    min_ms: u64,
    max_ms: u64,
    hint: Option<Hint>,
}

/// How a client names, at its reconnect, where it should land.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Hint {
    /// Appended to the URL's query.
    Query(String),
    /// Takes the place of the URL's path.
    Path(String),
    /// A request header, `name: value`.
    Header(String),
}

// === impl Order ===

impl Order {
    /// Reads and checks an order.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, BadOrder> {
        let wire: Wire = serde_json::from_slice(body).map_err(BadOrder::Unreadable)?;
        let Wire {
            id,
            reason,
            select,
            mode,
            rate_per_second,
            lease_seconds,
            deadline_ms,
            on_deadline,
            reconnect,
            close_code,
        } = wire;
        ensure(is_id(&id), "id", "must have 1 to 200 URL-safe characters")?;
        let rate_fits = rate_per_second > 0.0 && rate_per_second <= MAX_RATE;
        ensure(rate_fits, "ratePerSecond", "must be above 0 and at most 10000")?;
        ensure(
            (1..=MAX_LEASE_SECONDS).contains(&lease_seconds),
            "leaseSeconds",
            "must be 1 to 86400",
        )?;
        ensure(
            deadline_ms.is_none_or(|ms| ms <= MAX_DEADLINE_MS),
            "deadlineMs",
            "must be at most a week",
        )?;
        if let Select::Fraction(share) = select {
            ensure(
                (0.0..=1.0).contains(&share),
                "select.fraction",
                "must be between 0 and 1",
            )?;
        }
        let Reconnect { min_ms, max_ms, hint } = reconnect;
        ensure(
            max_ms <= MAX_RECONNECT_MS,
            "reconnect.maxMs",
            "must be at most 600000",
        )?;
        ensure(
            min_ms <= max_ms,
            "reconnect.minMs",
            "must not be above reconnect.maxMs",
        )?;
        match &hint {
            None => {}
            Some(Hint::Query(query)) => {
                ensure(
                    is_query(query),
                    "reconnect.hint.query",
                    "must be a short URL query",
                )?;
            }
            Some(Hint::Path(path)) => {
                ensure(is_path(path), "reconnect.hint.path", "must be a short URL path")?;
            }
            Some(Hint::Header(header)) => {
                ensure(
                    is_header(header),
                    "reconnect.hint.header",
                    "must be a short `name: value`",
                )?;
            }
        }
        let code_fits = matches!(close_code, 1001 | 1008 | 1011..=1013 | 3000..=4999);
        ensure(
            code_fits,
            "closeCode",
            "must be 1001, 1008, 1011, 1012, 1013 or 3000 to 4999",
        )?;
        Ok(Self {
            id,
            reason,
            select,
            mode,
            rate: rate_per_second,
            lease: Duration::from_secs(lease_seconds),
            deadline: deadline_ms.map(Duration::from_millis),
            on_deadline,
            lead: Duration::from_millis(max_ms.min(2000).max(min_ms)),
            hint,
            close_code,
        })
    }
}

impl Wire {
    fn reason() -> Reason {
        Reason::Rollout
    }

    fn select() -> Select {
        Select::All {}
    }

    fn mode() -> Mode {
        Mode::Ask
    }

    fn on_deadline() -> OnDeadline {
        OnDeadline::Wait
    }

    fn close_code() -> u16 {
        1012
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            min_ms: 0,
            max_ms: 5000,
            hint: None,
        }
    }
}

impl Hint {
    pub(crate) fn query(&self) -> Option<String> {
        match self {
            Self::Query(query) => Some(query.clone()),
            Self::Path(_) | Self::Header(_) => None,
        }
    }

    pub(crate) fn path(&self) -> Option<String> {
        match self {
            Self::Path(path) => Some(path.clone()),
            Self::Query(_) | Self::Header(_) => None,
        }
    }

    pub(crate) fn header(&self) -> Option<String> {
        match self {
            Self::Header(header) => Some(header.clone()),
            Self::Query(_) | Self::Path(_) => None,
        }
    }
}

impl Select {
    /// How many of `open` sessions are meant.
    pub(crate) fn count_of(self, open: usize) -> usize {
        match self {
            Self::All {} => open,
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX).min(open),
            Self::Fraction(share) => ((open as f64 * share).ceil() as usize).min(open),
        }
    }
}

fn ensure(holds: bool, field: &'static str, problem: &str) -> Result<(), BadOrder> {
    if holds {
        Ok(())
    } else {
        Err(BadOrder::Field {
            field,
            problem: problem.to_owned(),
        })
    }
}

/// Whether `id` can stand in a URL's path as it is.
pub(crate) fn is_id(id: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(safe)
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains('?') && is_query(path)
}

fn is_header(header: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let text = |b: u8| b == b' ' || b.is_ascii_graphic();
    header.split_once(": ").is_some_and(|(name, value)| {
        header.len() <= MAX_HINT
            && !name.is_empty()
            && name.bytes().all(token)
            && !value.trim().is_empty()
            && value.bytes().all(text)
    })
}

fn is_query(query: &str) -> bool {
    let safe = |b: u8| b.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&b);
    (1..=MAX_HINT).contains(&query.len()) && query.bytes().all(safe)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn example() -> Value {
        json!({"id": "r1-1-1-uid", "reason": "rollout", "select": {"all": {}}, "mode": "ask", "ratePerSecond": 50,
            "leaseSeconds": 30, "deadlineMs": 1_800_000, "onDeadline": "wait",
            "reconnect": {"minMs": 0, "maxMs": 5000, "hint": {"query": "wsroll=x7Qp"}}, "closeCode": 1012,
            "fromTheFuture": true})
    }

    fn parse(order: &Value) -> Result<Order, String> {
        Order::parse(order.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_order_is_read_and_unknown_fields_are_ignored() {
        let order = parse(&example()).unwrap();
        assert_eq!(order.lead, Duration::from_secs(2));
        assert_eq!(order.hint, Some(Hint::Query("wsroll=x7Qp".into())));
        let small = parse(&json!({"id": "a", "ratePerSecond": 0.5, "leaseSeconds": 5})).unwrap();
        assert_eq!(
            (small.close_code, small.mode, small.select),
            (1012, Mode::Ask, Select::All {})
        );
    }

    #[test]
    fn every_hint_is_read_and_goes_into_its_own_field() {
        for (hint, fields) in [
            (json!({"query": "wsroll=a"}), [Some("wsroll=a"), None, None]),
            (json!({"path": "/v2/ws"}), [None, Some("/v2/ws"), None]),
            (
                json!({"header": "wsroll-hint: a"}),
                [None, None, Some("wsroll-hint: a")],
            ),
        ] {
            let mut order = example();
            order["reconnect"] = json!({"hint": hint});
            let hint = parse(&order).unwrap().hint.unwrap();
            let told = [hint.query(), hint.path(), hint.header()];
            assert_eq!(told.each_ref().map(Option::as_deref), fields);
        }
    }

    #[test]
    fn the_lead_keeps_within_the_reconnect_window() {
        for (min, max, lead) in [(0, 500, 500), (0, 60_000, 2000), (3000, 60_000, 3000), (0, 0, 0)] {
            let mut order = example();
            order["reconnect"] = json!({"minMs": min, "maxMs": max});
            assert_eq!(parse(&order).unwrap().lead, Duration::from_millis(lead));
        }
    }

    #[test]
    fn bad_fields_are_named() {
        for (field, value, word) in [
            ("id", json!("a/b"), "id"),
            ("id", json!(""), "id"),
            ("ratePerSecond", json!(0), "ratePerSecond"),
            ("ratePerSecond", json!(-3), "ratePerSecond"),
            ("ratePerSecond", json!("fast"), "drain order"),
            ("leaseSeconds", json!(0), "leaseSeconds"),
            ("select", json!({"some": 3}), "drain order"),
            ("select", json!({"fraction": 1.5}), "select.fraction"),
            ("mode", json!("force"), "drain order"),
            ("onDeadline", json!("kill"), "drain order"),
            ("reconnect", json!({"minMs": 9, "maxMs": 8}), "reconnect.minMs"),
            (
                "reconnect",
                json!({"hint": {"query": "a b"}}),
                "reconnect.hint.query",
            ),
            (
                "reconnect",
                json!({"hint": {"path": "ws?x"}}),
                "reconnect.hint.path",
            ),
            (
                "reconnect",
                json!({"hint": {"header": "no colon"}}),
                "reconnect.hint.header",
            ),
            ("closeCode", json!(1000), "closeCode"),
            ("closeCode", json!(1006), "closeCode"),
        ] {
            let mut order = example();
            order[field] = value;
            let reason = parse(&order).unwrap_err();
            assert!(reason.contains(word), "{field}: {reason}");
        }
        assert!(Order::parse(b"{").is_err());
    }

    #[test]
    fn selections_never_exceed_what_is_open() {
        assert_eq!(Select::All {}.count_of(7), 7);
        assert_eq!(Select::Count(3).count_of(7), 3);
        assert_eq!(Select::Count(9).count_of(7), 7);
        assert_eq!(Select::Fraction(0.5).count_of(7), 4);
    }
}
