//! Rules about requests: versions, methods, tokens, the form of the report.

use http::Method;
use serde_json::Value;

use super::port::{Answer, Auth};
use super::rule;
use super::run::Run;
use crate::drain::protocol::{DRAIN_PATH, EVENTS_PATH, SESSIONS_PATH};

/// Fields that are numbers where they are there.
const NUMBERS: [&str; 3] = ["open", "dormant", "oldestMs"];

// === impl Run ===

impl Run {
    /// The report's form. False where there is none, so that nothing else can be looked at.
    pub(super) async fn report_form(&mut self) -> bool {
        let answer = self
            .port
            .call(Method::GET, SESSIONS_PATH, Auth::Right, None)
            .await;
        let value: Value = match answer.json() {
            Ok(value) => value,
            Err(error) => {
                self.report.check(
                    &rule::SESSIONS_REPORT,
                    false,
                    format!("GET {SESSIONS_PATH}: {error}"),
                );
                return false;
            }
        };
        let open = value.get("open").and_then(Value::as_u64);
        let evidence = open.map_or("there is no number open".to_owned(), |open| {
            format!("open is {open}")
        });
        self.report
            .check(&rule::SESSIONS_REPORT, open.is_some(), evidence);
        let wrong = NUMBERS
            .iter()
            .find(|name| value.get(**name).is_some_and(|field| !field.is_u64()));
        match (wrong, self.port.sessions().await) {
            (Some(name), _) => {
                let evidence = format!("{name} is no number");
                self.report.check(&rule::SESSIONS_FIELDS, false, evidence);
            }
            (None, Err(error)) => self.report.check(&rule::SESSIONS_FIELDS, false, error),
            (None, Ok(report)) => {
                let names: Vec<&str> = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name.as_str())
                    .collect();
                self.report.check(
                    &rule::SESSIONS_FIELDS,
                    true,
                    format!("there are {}", names.join(", ")),
                );
                self.instance = report.instance;
                if self.instance.is_none() {
                    self.report
                        .not_offered(&rule::SESSIONS_INSTANCE, "the report has no instance");
                }
                if report.totals.is_none() {
                    self.report
                        .not_offered(&rule::SESSIONS_TOTALS, "the report has no totals");
                }
            }
        }
        open.is_some()
    }

    pub(super) async fn versions_and_methods(&mut self) {
        let order = self.idle_order("version").to_string().into_bytes();
        let answers = [
            (
                "GET /wsroll/v2/sessions",
                self.port
                    .call(Method::GET, "/wsroll/v2/sessions", Auth::Right, None)
                    .await,
            ),
            (
                "PUT /wsroll/v99/drain",
                self.port
                    .call(Method::PUT, "/wsroll/v99/drain", Auth::Right, Some(order))
                    .await,
            ),
        ];
        self.expect(&rule::VERSION_UNKNOWN, &answers, &[404]);
        let answer = self
            .port
            .call(Method::POST, SESSIONS_PATH, Auth::Right, Some(b"{}".to_vec()))
            .await;
        self.expect(&rule::METHOD_UNKNOWN, &[("POST sessions", answer)], &[405]);

        let mut big = self.idle_order("big");
        big["novelty"] = "x".repeat(100 * 1024).into();
        let answer = self.port.put(&big).await;
        // A server that refuses before it has read all may end the connection, which is a refusal as well.
        let refused = answer.is(413) || answer.is(400) || answer.status.is_none();
        let serves = self.port.sessions().await;
        let then = serves.as_ref().map_or_else(Clone::clone, |_| "200".to_owned());
        let evidence = format!("a body of 100 KiB {answer}, GET sessions after it {then}");
        self.report
            .check(&rule::BODY_BOUND, refused && serves.is_ok(), evidence);
    }

    pub(super) async fn authorization(&mut self) {
        let token = self.port.token().to_owned();
        let cut = token.get(..token.len().saturating_sub(1)).unwrap_or_default();
        let wrong = [
            ("an unknown token", "Bearer wrong".to_owned()),
            ("the token with a letter more", format!("Bearer {token}x")),
            ("the token without its last letter", format!("Bearer {cut}")),
            ("an empty token", "Bearer ".to_owned()),
            ("another scheme", format!("Basic {token}")),
        ];
        let before = self.port.sessions().await.ok();
        self.unauthorized(&rule::AUTH_MISSING, "no token", Auth::Missing)
            .await;
        for (what, header) in &wrong {
            self.unauthorized(&rule::AUTH_WRONG, what, Auth::Header(header))
                .await;
        }
        let after = self.port.sessions().await.ok();
        let id = |report: Option<crate::drain::SessionsReport>| report.and_then(|r| Some(r.drain?.id));
        let (before, after) = (id(before), id(after));
        let evidence = match &after {
            Some(id) if before != after => format!("the report names the order {id}"),
            _ => "no order was started".to_owned(),
        };
        self.report
            .check(&rule::AUTH_STARTS_NOTHING, before == after, evidence);
    }

    /// Every path answers 401; one that is optional may be unknown.
    async fn unauthorized(&mut self, of: &rule::Rule, what: &str, auth: Auth<'_>) {
        let order = self.idle_order("unauthorized").to_string().into_bytes();
        let delete = format!("{DRAIN_PATH}/{}", self.id("unauthorized"));
        let requests = [
            (Method::GET, SESSIONS_PATH, None, &[401][..]),
            (Method::PUT, DRAIN_PATH, Some(order), &[401]),
            (Method::DELETE, &delete, None, &[401]),
            (Method::GET, EVENTS_PATH, None, &[401, 404]),
        ];
        for (method, path, body, expected) in requests {
            let answer = self.port.call(method.clone(), path, auth, body).await;
            let holds = answer.status.is_some_and(|status| expected.contains(&status));
            let evidence = if holds {
                format!("{what}: 401 on every path")
            } else {
                format!("{what}: {method} {path} {answer}")
            };
            self.report.check(of, holds, evidence);
        }
    }

    /// Whether every answer has one of these statuses.
    pub(super) fn expect(&mut self, of: &rule::Rule, answers: &[(&str, Answer)], expected: &[u16]) {
        let holds = answers
            .iter()
            .all(|(_, answer)| answer.status.is_some_and(|s| expected.contains(&s)));
        let told: Vec<String> = answers
            .iter()
            .map(|(what, answer)| format!("{what} {answer}"))
            .collect();
        self.report.check(of, holds, told.join(", "));
    }
}
