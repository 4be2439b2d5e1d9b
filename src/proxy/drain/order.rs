//! Orders as they come in: read field by field, checked, never started in part.

use std::time::Duration;

use crate::drain::protocol::{DrainOrder, Hint, Reconnect, Select};
use crate::proxy::fields::{FieldError, Fields};

/// Longest wait that may be asked of a client before it reconnects, milliseconds.
const MAX_RECONNECT_MS: u64 = 600_000;
/// Longest lease: a day.
const MAX_LEASE_SECONDS: u32 = 86_400;
/// Longest deadline: a week.
const MAX_DEADLINE_MS: u64 = 7 * 24 * 3600 * 1000;
/// Longest hint, bytes.
const MAX_HINT: usize = 1024;
/// The most of a reconnect window that is spent between a notice and the close.
const LEAD: Duration = Duration::from_secs(2);

/// Reads and checks an order. The error names the field.
pub(in crate::proxy) fn parse(body: &[u8]) -> Result<DrainOrder, FieldError> {
    let mut fields = Fields::parse(body, "the order")?;
    let mut window = fields.object("reconnect")?;
    let reconnect = Reconnect {
        min_ms: window.number("minMs", 0, 0..=MAX_RECONNECT_MS)?,
        max_ms: window.number("maxMs", 5_000, 0..=MAX_RECONNECT_MS)?,
        hint: window.get("hint")?,
    };
    if reconnect.hint.as_ref().is_some_and(|hint| !is_hint(hint)) {
        return Err(window.error(
            "hint",
            "must be short, printable and without spaces (headers: name: value)",
        ));
    }
    let order = DrainOrder {
        id: fields.need("id")?,
        reason: fields
            .get("reason")?
            .unwrap_or(crate::drain::protocol::Reason::Rollout),
        select: fields.get("select")?.unwrap_or_default(),
        mode: fields.get("mode")?.unwrap_or_default(),
        rate_per_second: fields.need("ratePerSecond")?,
        lease_seconds: fields.need("leaseSeconds")?,
        deadline_ms: fields.get("deadlineMs")?,
        on_deadline: fields.get("onDeadline")?.unwrap_or_default(),
        reconnect,
        close_code: fields
            .get("closeCode")?
            .unwrap_or(crate::drain::protocol::SERVICE_RESTART),
    };
    if order.lease_seconds > MAX_LEASE_SECONDS {
        return Err(fields.error("leaseSeconds", "must be at most 86400"));
    }
    if order.deadline_ms.is_some_and(|ms| ms > MAX_DEADLINE_MS) {
        return Err(fields.error("deadlineMs", "must be at most a week"));
    }
    order.check().map_err(|error| {
        // The protocol's own words begin with the field.
        let text = error.to_string();
        let (field, problem) = text.split_once(' ').unwrap_or((&text, ""));
        FieldError::new(field, problem)
    })?;
    Ok(order)
}

/// From a session's notice to its close.
pub(super) fn lead(order: &DrainOrder) -> Duration {
    let Reconnect { min_ms, max_ms, .. } = order.reconnect;
    Duration::from_millis(max_ms)
        .min(LEAD)
        .max(Duration::from_millis(min_ms))
}

/// How many of `open` sessions an order means.
pub(super) fn count_of(select: Select, open: usize) -> usize {
    match select {
        Select::All {} => open,
        Select::Count(count) => usize::try_from(count).unwrap_or(usize::MAX).min(open),
        Select::Fraction(share) => ((open as f64 * share).ceil() as usize).min(open),
    }
}

fn is_hint(hint: &Hint) -> bool {
    let plain =
        |text: &str| (1..=MAX_HINT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    match hint {
        Hint::Query(text) | Hint::Path(text) => plain(text),
        Hint::Header(text) => text
            .split_once(": ")
            .is_some_and(|(name, value)| plain(name) && plain(value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::drain::protocol::{Mode, OnDeadline};

    fn example() -> Value {
        json!({"id": "r1-1-1-uid", "reason": "rollout", "select": {"all": {}}, "mode": "ask", "ratePerSecond": 50,
            "leaseSeconds": 30, "deadlineMs": 1_800_000, "onDeadline": "wait",
            "reconnect": {"minMs": 0, "maxMs": 5000, "hint": {"query": "wsroll=x7Qp"}}, "closeCode": 1012,
            "fromTheFuture": true})
    }

    fn read(order: &Value) -> Result<DrainOrder, String> {
        parse(order.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_order_is_read_and_unknown_fields_are_ignored() {
        let order = read(&example()).unwrap();
        assert_eq!(order.reconnect.hint, Some(Hint::Query("wsroll=x7Qp".to_owned())));
        let small = read(&json!({"id": "a", "ratePerSecond": 0.5, "leaseSeconds": 5})).unwrap();
        assert_eq!(
            (small.close_code, small.mode, small.on_deadline),
            (1012, Mode::Ask, OnDeadline::Wait)
        );
        assert_eq!(lead(&small), Duration::from_secs(2));
    }

    #[test]
    fn the_lead_keeps_within_the_reconnect_window() {
        for (min, max, expected) in [(0, 500, 500), (0, 60_000, 2000), (3000, 60_000, 3000), (0, 0, 0)] {
            let mut order = example();
            order["reconnect"] = json!({"minMs": min, "maxMs": max});
            assert_eq!(lead(&read(&order).unwrap()), Duration::from_millis(expected));
        }
    }

    #[test]
    fn bad_fields_are_named() {
        for (field, value, words) in [
            ("id", json!("a/b"), "id "),
            ("id", json!(""), "id "),
            ("id", json!(null), "id is missing"),
            ("ratePerSecond", json!(0), "ratePerSecond "),
            ("ratePerSecond", json!("fast"), "ratePerSecond cannot be read"),
            ("leaseSeconds", json!(0), "leaseSeconds "),
            ("leaseSeconds", json!(100_000), "leaseSeconds "),
            ("deadlineMs", json!(999_999_999_999u64), "deadlineMs "),
            ("select", json!({"some": 3}), "select cannot be read"),
            ("select", json!({"fraction": 1.5}), "select.fraction "),
            ("mode", json!("force"), "mode cannot be read"),
            ("onDeadline", json!("kill"), "onDeadline cannot be read"),
            ("reconnect", json!({"minMs": 9, "maxMs": 8}), "reconnect.minMs "),
            ("reconnect", json!({"maxMs": 9_999_999}), "reconnect.maxMs "),
            ("reconnect", json!({"hint": {"query": "a b"}}), "reconnect.hint "),
            (
                "reconnect",
                json!({"hint": {"header": "nocolon"}}),
                "reconnect.hint ",
            ),
            ("closeCode", json!(1000), "closeCode "),
            ("closeCode", json!(1006), "closeCode "),
        ] {
            let mut order = example();
            order[field] = value;
            let reason = read(&order).unwrap_err();
            assert!(reason.starts_with(words), "{field}: {reason}");
        }
        assert!(read(&json!([])).is_err());
        assert!(parse(b"{").is_err());
    }

    #[test]
    fn selections_never_exceed_what_is_open() {
        assert_eq!(count_of(Select::All {}, 7), 7);
        assert_eq!(count_of(Select::Count(3), 7), 3);
        assert_eq!(count_of(Select::Count(9), 7), 7);
        assert_eq!(count_of(Select::Fraction(0.5), 7), 4);
    }
}
