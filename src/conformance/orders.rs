//! Rules about orders that need no client. Nobody is moved: the orders are in mode `leave` and have no deadline.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::port::{Answer, Auth};
use super::rule;
use super::run::Run;
use crate::drain::protocol::{DRAIN_PATH, DrainProgress, DrainState};

/// How long a short lease may take to show.
const PATIENCE: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(100);

// === impl Run ===

impl Run {
    pub(super) async fn bad_orders(&mut self) {
        let before = self
            .port
            .sessions()
            .await
            .ok()
            .and_then(|report| Some(report.drain?.id));
        let (mut taken, mut silent) = (Vec::new(), Vec::new());
        for (what, body) in self.bad_bodies() {
            let answer = self
                .port
                .call(Method::PUT, DRAIN_PATH, Auth::Right, Some(body))
                .await;
            if !answer.is(400) {
                taken.push(format!("{what} {answer}"));
            } else if String::from_utf8_lossy(&answer.body).trim().is_empty() {
                silent.push(what);
            }
        }
        let all = BAD.len() + 1;
        let evidence = if taken.is_empty() {
            format!("{all} bad orders, each 400")
        } else {
            taken.join(", ")
        };
        self.report.check(&rule::ORDER_BAD, taken.is_empty(), evidence);
        let evidence = if silent.is_empty() {
            "each with words".to_owned()
        } else {
            silent.join(", ")
        };
        self.report
            .check(&rule::ORDER_BAD_REASON, silent.is_empty(), evidence);
        let after = self
            .port
            .sessions()
            .await
            .ok()
            .and_then(|report| Some(report.drain?.id));
        let evidence = match &after {
            Some(id) if before != after => format!("the report names the order {id}"),
            _ => "the report names no order of them".to_owned(),
        };
        self.report
            .check(&rule::ORDER_BAD_STARTS_NOTHING, before == after, evidence);
    }

    /// Orders with one fault each. They would move everybody at once if they were taken: so it shows.
    pub(super) fn bad_bodies(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut bodies = vec![("no JSON", b"drain, please".to_vec())];
        for (what, field, value) in BAD {
            let mut order = json!({"id": self.id("bad"), "reason": "drill", "ratePerSecond": 1000,
                "leaseSeconds": 5, "reconnect": {"minMs": 0, "maxMs": 0}});
            let value: Value = serde_json::from_str(value).unwrap_or_default();
            match (field, order.as_object_mut()) {
                (&field, Some(order)) if value == "absent" => drop(order.remove(field)),
                (field, Some(order)) => drop(order.insert((*field).to_owned(), value)),
                (_, None) => {}
            }
            bodies.push((what, order.to_string().into_bytes()));
        }
        bodies
    }

    pub(super) async fn orders(&mut self) {
        self.taking_an_order().await;
        self.changing_it().await;
        self.replacing_and_cancelling().await;
        self.short_lease().await;
    }

    async fn taking_an_order(&mut self) {
        let mut order = self.idle_order("taken");
        let answer = self.start(&order).await;
        let tells = self.port.sessions().await.ok().and_then(|report| report.drain);
        let named = tells
            .as_ref()
            .is_none_or(|drain| Some(drain.id.as_str()) == order["id"].as_str());
        let evidence = format!(
            "PUT {answer}, the report {}",
            tells
                .as_ref()
                .map_or("tells of no order".to_owned(), |drain| format!(
                    "names {}",
                    drain.id
                ))
        );
        self.report
            .check(&rule::ORDER_TAKEN, answer.is(200) && named, evidence);
        self.tells_orders = tells.is_some();

        order["id"] = self.id("newer").into();
        order["novelty"] = json!({"of": ["a", "later", "version"]});
        order["reason"] = "fullMoon".into();
        order["reconnect"] = json!({"minMs": 0, "maxMs": 100, "more": 1});
        let answer = self.start(&order).await;
        let evidence = format!("an order with novelties {answer} {}", words(&answer));
        self.report
            .check(&rule::ORDER_UNKNOWN_FIELDS, answer.is(200), evidence);
    }

    async fn changing_it(&mut self) {
        let mut order = self.idle_order("changed");
        let id = self.id("changed");
        order["leaseSeconds"] = 5.into();
        let first = self.start(&order).await;
        let before = self.port.progress(&id).await;
        let second = self.start(&order).await;
        let after = self.port.progress(&id).await;
        let eligible = |drain: &Option<DrainProgress>| drain.as_ref().and_then(|d| d.eligible);
        let same = eligible(&before) == eligible(&after);
        let evidence = format!("twice the same order {first}, {second}, eligible as before: {same}");
        self.report.check(
            &rule::ORDER_IDEMPOTENT,
            first.is(200) && second.is(200) && same,
            evidence,
        );

        order["leaseSeconds"] = 60.into();
        order["ratePerSecond"] = 7.5.into();
        let answer = self.start(&order).await;
        let after = self.port.progress(&id).await;
        match after.as_ref().and_then(|drain| drain.lease_expires_ms) {
            None => self
                .report
                .not_offered(&rule::ORDER_RENEWAL, "the report has no leaseExpiresMs"),
            Some(left) => {
                let holds = (50_000..=60_000).contains(&left);
                let evidence = format!("5 s made 60 s: {answer}, {left} ms are left");
                self.report.check(&rule::ORDER_RENEWAL, holds, evidence);
            }
        }
        match after.as_ref().and_then(|drain| drain.rate_per_second) {
            None => self
                .report
                .not_offered(&rule::ORDER_RATE, "the report has no ratePerSecond"),
            Some(rate) => {
                let evidence = format!("2 per second made 7.5: {answer}, {rate}");
                self.report
                    .check(&rule::ORDER_RATE, (rate - 7.5).abs() < 0.01, evidence);
            }
        }
    }

    async fn replacing_and_cancelling(&mut self) {
        let (old, new) = (self.idle_order("old"), self.idle_order("new"));
        self.start(&old).await;
        let answer = self.start(&new).await;
        let drain = self.port.sessions().await.ok().and_then(|report| report.drain);
        let named = drain.as_ref().is_none_or(|drain| drain.id == self.id("new"));
        let evidence = format!(
            "{answer}, the report names {}",
            drain.map_or("none".to_owned(), |d| d.id)
        );
        self.report
            .check(&rule::ORDER_REPLACES, answer.is(200) && named, evidence);

        let answer = self.port.delete(&self.id("new")).await;
        let state = self.port.progress(&self.id("new")).await.map(|drain| drain.state);
        let ended = !matches!(state, Some(DrainState::Active | DrainState::Paused));
        let evidence = format!(
            "DELETE {answer}, the order is then {}",
            state.map_or("gone".into(), |s| format!("{s:?}"))
        );
        self.report
            .check(&rule::ORDER_CANCEL, answer.is_success() && ended, evidence);
        let again = self.start(&new).await;
        self.expect(
            &rule::ORDER_CANCELLED_STAYS,
            &[("PUT after DELETE", again)],
            &[409],
        );
        self.port.delete(&self.id("new")).await;

        let unknown = self.port.delete(&self.id("never-given")).await;
        self.expect(&rule::ORDER_CANCEL_UNKNOWN, &[("DELETE", unknown)], &[404]);
    }

    /// Shows only where the order has something left to do; with sockets it is looked at again.
    async fn short_lease(&mut self) {
        let mut order = self.idle_order("short");
        order["leaseSeconds"] = 1.into();
        self.start(&order).await;
        let begun = Instant::now();
        loop {
            let state = self
                .port
                .progress(&self.id("short"))
                .await
                .map(|drain| drain.state);
            match state {
                Some(DrainState::Paused) => {
                    let evidence = format!("a lease of 1 s: paused after {} ms", begun.elapsed().as_millis());
                    return self.report.check(&rule::DRAIN_LEASE, true, evidence);
                }
                Some(DrainState::Active) if begun.elapsed() < PATIENCE => sleep(LOOK_EVERY).await,
                Some(DrainState::Active) => {
                    let evidence = "a lease of 1 s: still active after 4 s";
                    return self.report.check(&rule::DRAIN_LEASE, false, evidence);
                }
                _ => {
                    let evidence = "no session is open that an order could wait for: needs --ws";
                    return self.report.not_tested(&rule::DRAIN_LEASE, evidence);
                }
            }
        }
    }
}

/// What is wrong, and the field and value that make it so; `"absent"` takes the field away.
const BAD: &[(&str, &str, &str)] = &[
    ("no id", "id", "\"absent\""),
    ("an empty id", "id", "\"\""),
    ("an id with a slash", "id", "\"a/b\""),
    ("an id with a space", "id", "\"a b\""),
    ("no rate", "ratePerSecond", "\"absent\""),
    ("rate 0", "ratePerSecond", "0"),
    ("a negative rate", "ratePerSecond", "-1"),
    ("a rate above 10000", "ratePerSecond", "10001"),
    ("a rate in words", "ratePerSecond", "\"fast\""),
    ("no lease", "leaseSeconds", "\"absent\""),
    ("lease 0", "leaseSeconds", "0"),
    ("an unknown select", "select", "{\"some\": {}}"),
    ("a negative count", "select", "{\"count\": -1}"),
    ("a fraction above 1", "select", "{\"fraction\": 1.5}"),
    ("an unknown mode", "mode", "\"shout\""),
    ("an unknown onDeadline", "onDeadline", "\"explode\""),
    (
        "minMs above maxMs",
        "reconnect",
        "{\"minMs\": 6000, \"maxMs\": 5000}",
    ),
    ("close code 1000", "closeCode", "1000"),
    ("close code 1006", "closeCode", "1006"),
    ("close code 5000", "closeCode", "5000"),
];

/// The words of an answer that is no success, on one line.
fn words(answer: &Answer) -> String {
    if answer.is_success() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&answer.body);
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}
