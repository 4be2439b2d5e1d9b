//! Rules about notices: who gets one, when, and what it says.

use std::time::Duration;

use serde_json::Value;

use super::crowd::{Crowd, Member};
use super::moves::{MAX_MS, SLACK};
use super::rule;
use super::run::Run;
use crate::drain::protocol::Notice;

// === impl Run ===

impl Run {
    /// Looks at the notices of an order whose sessions are `crowd.members[first..]`.
    pub(super) fn notices(&mut self, crowd: &Crowd, first: usize, order: &Value) {
        let members = &crowd.members[first..];
        let undeclared = members.iter().filter(|member| !member.declared);
        let told = undeclared
            .clone()
            .filter(|member| !member.notices.is_empty())
            .count();
        let evidence = format!(
            "{told} of {} clients that had declared nothing got one",
            undeclared.count()
        );
        self.report.check(&rule::NOTICE_DECLARED, told == 0, evidence);

        let of_notices = [
            &rule::NOTICE_SENT,
            &rule::NOTICE_SHAPE,
            &rule::NOTICE_TURN,
            &rule::NOTICE_HINT,
            &rule::NOTICE_ACK,
        ];
        let declared: Vec<&Member> = members.iter().filter(|member| member.declared).collect();
        let told: Vec<&Member> = declared
            .iter()
            .copied()
            .filter(|member| !member.notices.is_empty())
            .collect();
        if told.is_empty() {
            let why = if crowd.can_declare() {
                "no client that declared it got a notice"
            } else {
                "needs --declare-notice"
            };
            for rule in of_notices {
                if crowd.can_declare() {
                    self.report.not_offered(rule, why);
                } else {
                    self.report.not_tested(rule, why);
                }
            }
            return;
        }
        let once = told.iter().filter(|member| member.notices.len() == 1).count();
        let evidence = format!(
            "of {} that declared it {} got a notice, {once} exactly one",
            declared.len(),
            told.len()
        );
        self.report
            .check(&rule::NOTICE_SENT, once == declared.len(), evidence);
        self.report.check(
            &rule::ORDER_IDEMPOTENT,
            told.len() == once,
            format!("{} clients were told twice", told.len() - once),
        );
        let wrong = told
            .iter()
            .find_map(|member| misshapen(&member.notices[0].1, order));
        let evidence = wrong.clone().unwrap_or_else(|| format!("{} notices", told.len()));
        self.report.check(&rule::NOTICE_SHAPE, wrong.is_none(), evidence);
        let hint = &order["reconnect"]["hint"]["query"];
        let passed = told
            .iter()
            .filter(|member| member.notices[0].1["reconnect"]["query"] == *hint)
            .count();
        let evidence = format!("{passed} of {} notices have reconnect.query {hint}", told.len());
        self.report
            .check(&rule::NOTICE_HINT, passed == told.len(), evidence);
        let early: Vec<String> = told.iter().filter_map(|member| out_of_turn(member)).collect();
        // A busy machine makes one notice or another late, and then its close seems early.
        let holds = early.len() * 4 <= told.len();
        let evidence = match early.first() {
            Some(first) => format!("{} of {} turns not kept: {first}", early.len(), told.len()),
            None => format!("{} turns from 0 to {MAX_MS} ms", told.len()),
        };
        self.report.check(&rule::NOTICE_TURN, holds, evidence);
    }
}

/// What is wrong with a notice.
fn misshapen(notice: &Value, order: &Value) -> Option<String> {
    let parsed: Notice = match serde_json::from_value(notice.clone()) {
        Ok(parsed) => parsed,
        Err(error) => return Some(format!("{error}: {}", shortened(notice))),
    };
    if parsed.v != 1 {
        return Some(format!("v is {}", parsed.v));
    }
    ["id", "reason", "closeCode"]
        .iter()
        .find(|field| notice.get(**field) != order.get(**field))
        .map(|field| format!("{field} is not the order's: {}", shortened(notice)))
}

/// What is wrong with the turn that a client was given, or with its close.
fn out_of_turn(member: &Member) -> Option<String> {
    let (told_at, notice) = &member.notices[0];
    let after = notice["reconnect"]["afterMs"].as_u64().unwrap_or(0);
    let within = notice["reconnect"]["withinMs"].as_u64().unwrap_or(0);
    if after + within > MAX_MS + 250 {
        return Some(format!(
            "a turn after {after} ms within {within} ms, where maxMs is {MAX_MS}"
        ));
    }
    let (ended_at, _) = member.end.as_ref()?;
    let waited = ended_at.checked_duration_since(*told_at);
    match waited {
        None => Some("a close before the notice".to_owned()),
        Some(waited) if waited + SLACK < Duration::from_millis(after) => Some(format!(
            "told to wait {after} ms, closed after {} ms",
            waited.as_millis()
        )),
        Some(_) => None,
    }
}

/// A notice without its resume token, on one short line.
fn shortened(notice: &Value) -> String {
    let mut shown = notice.clone();
    if let Some(object) = shown.as_object_mut() {
        object.remove("resume");
    }
    shown.to_string().chars().take(160).collect()
}
