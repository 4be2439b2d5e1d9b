//! What a client is told before its session is closed, in the framing that it declared.

use crate::api::spec::{NoticeFormat, SidecarNotice};
use crate::drain::protocol::{DrainOrder, Hint, Notice, NoticeKind, NoticeReconnect, Reason};
use crate::proxy::clock::millis;

/// The notice of an order; `code` is the one with which this session will be closed.
pub(super) fn text(notice: &SidecarNotice, order: &DrainOrder, code: u16) -> Option<String> {
    let after_ms = millis(super::order::lead(order));
    match (notice.format, &notice.template) {
        (NoticeFormat::Json, _) => serde_json::to_string(&json(order, code, after_ms)).ok(),
        (NoticeFormat::Text, Some(template)) => Some(fill(template, order, code, after_ms)),
        (NoticeFormat::Text, None) => None,
    }
}

fn json(order: &DrainOrder, close_code: u16, after_ms: u64) -> Notice {
    let mut reconnect = NoticeReconnect {
        after_ms,
        // Places are spaced exactly: chance would only make two of them meet.
        within_ms: 0,
        ..NoticeReconnect::default()
    };
    match order.reconnect.hint.clone() {
        Some(Hint::Query(query)) => reconnect.query = Some(query),
        Some(Hint::Path(path)) => reconnect.path = Some(path),
        Some(Hint::Header(header)) => reconnect.header = Some(header),
        None => {}
    }
    Notice {
        kind: NoticeKind::Notice,
        v: 1,
        id: order.id.clone(),
        reason: order.reason,
        deadline_ms: Some(after_ms),
        reconnect,
        resume: None,
        close_code,
        // Only the application knows whether a user may be there twice.
        make_before_break: false,
    }
}

fn fill(template: &str, order: &DrainOrder, code: u16, after_ms: u64) -> String {
    let (query, path) = match &order.reconnect.hint {
        Some(Hint::Query(query)) => (query.as_str(), ""),
        Some(Hint::Path(path)) => ("", path.as_str()),
        Some(Hint::Header(_)) | None => ("", ""),
    };
    let values = [
        ("{afterMs}", after_ms.to_string()),
        ("{query}", query.to_owned()),
        ("{path}", path.to_owned()),
        ("{reason}", reason(order.reason).to_owned()),
        ("{closeCode}", code.to_string()),
        ("{id}", order.id.clone()),
    ];
    let mut filled = String::with_capacity(template.len() + 64);
    let mut rest = template;
    // One pass: what stands in a value is not filled again.
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let value = values.iter().find(|(name, _)| rest.starts_with(name));
        let (text, taken) = value.map_or(("{", 1), |(name, text)| (text, name.len()));
        filled.push_str(text);
        rest = &rest[taken..];
    }
    filled.push_str(rest);
    filled
}

/// The reason as it stands on the wire.
fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Rollout => "rollout",
        Reason::Rollback => "rollback",
        Reason::ScaleDown => "scaleDown",
        Reason::NodeDrain => "nodeDrain",
        Reason::Rebalance => "rebalance",
        Reason::Drill => "drill",
        Reason::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(hint: Option<&str>) -> DrainOrder {
        let mut order =
            super::super::order::parse(br#"{"id":"o-1","ratePerSecond":1,"leaseSeconds":5}"#).unwrap();
        order.reconnect.hint = hint.map(|hint| Hint::Query(hint.to_owned()));
        order
    }

    fn notice(format: NoticeFormat, template: Option<&str>) -> SidecarNotice {
        SidecarNotice {
            subprotocol: None,
            declared_by_query: None,
            format,
            template: template.map(str::to_owned),
        }
    }

    #[test]
    fn json_is_the_protocols_message() {
        let text = text(&notice(NoticeFormat::Json, None), &order(Some("wsroll=a")), 4000).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["type"], "wsroll.notice");
        assert_eq!(
            (
                value["closeCode"].as_u64(),
                value["reconnect"]["afterMs"].as_u64()
            ),
            (Some(4000), Some(2000))
        );
        assert_eq!(value["reconnect"]["query"], "wsroll=a");
    }

    #[test]
    fn templates_are_filled_once() {
        let template = r#"42["move",{"in":{afterMs},"q":"{query}","p":"{path}","why":"{reason}","c":{closeCode},"id":"{id}"}]"#;
        let filled = text(
            &notice(NoticeFormat::Text, Some(template)),
            &order(Some("{id}=1")),
            1012,
        );
        let expected = r#"42["move",{"in":2000,"q":"{id}=1","p":"","why":"rollout","c":1012,"id":"o-1"}]"#;
        assert_eq!(filled.as_deref(), Some(expected));
    }
}
