//! Rules about the sessions themselves: clients are opened, ordered away, and asked what they saw.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::crowd::{Crowd, End, Member, OpenError};
use super::measure::{looks_sorted, most_within};
use super::port::Auth;
use super::report::Outcome;
use super::rule;
use super::run::Run;
use crate::drain::protocol::DRAIN_PATH;

/// Sessions per second in the scenes.
pub(super) const RATE: f64 = 8.0;
/// The most between notice and turn in the scenes, milliseconds.
pub(super) const MAX_MS: u64 = 400;
/// What may come on top of the time that rate and window give, until something counts as not happening.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a pod that goes on at [`RATE`] to show it.
pub(super) const WATCH: Duration = Duration::from_millis(1_500);
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How far the times of two ends may lie apart, since both of them are busy at times.
pub(super) const SLACK: Duration = Duration::from_millis(150);
/// The code of the scenes that do not use the default.
pub(super) const OTHER_CODE: u16 = 4012;

// === impl Run ===

impl Run {
    pub(super) async fn moves(&mut self, crowd: &mut Crowd) -> Result<(), OpenError> {
        self.all_leave(crowd).await?;
        self.some_leave(crowd).await?;
        self.cancelled(crowd).await?;
        self.unrenewed(crowd).await?;
        self.left_alone(crowd).await?;
        self.totals(crowd).await;
        Ok(())
    }

    /// An order of this run for everybody.
    pub(super) fn order(&self, name: &str) -> Value {
        json!({"id": self.id(name), "reason": "drill", "select": {"all": {}}, "mode": "ask",
            "ratePerSecond": RATE, "leaseSeconds": 30, "onDeadline": "wait",
            "reconnect": {"minMs": 0, "maxMs": MAX_MS, "hint": {"query": "wsroll=conformance"}}, "closeCode": 1012})
    }

    /// Waits until the report counts the crowd's open sockets.
    pub(super) async fn counted(&mut self, crowd: &mut Crowd, what: &str) {
        if self.report.outcome(&rule::SESSIONS_COUNT) == Some(Outcome::Fails) {
            return; // it was waited for before
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (open, told) = (
                crowd.open_count() as u64,
                self.port.sessions().await.map(|report| report.open),
            );
            let live = self.config.live;
            let holds = told
                .as_ref()
                .is_ok_and(|told| *told == open || live && *told >= open);
            if holds || Instant::now() > deadline {
                let told = told.map_or_else(|error| error, |told| told.to_string());
                let evidence = format!("{what}: {open} open, told {told}");
                return self.report.check(&rule::SESSIONS_COUNT, holds, evidence);
            }
            crowd.watch(LOOK_EVERY).await;
        }
    }

    /// Everybody goes, and somebody comes meanwhile.
    async fn all_leave(&mut self, crowd: &mut Crowd) -> Result<(), OpenError> {
        let count = self.config.sessions.max(16);
        crowd.open(count).await?;
        self.counted(crowd, "after opening").await;

        // Whoever takes one of these moves everybody at a thousand per second.
        for (what, body) in self.bad_bodies() {
            let answer = self
                .port
                .call(http::Method::PUT, DRAIN_PATH, Auth::Right, Some(body))
                .await;
            if !answer.is(400) {
                self.report
                    .check(&rule::ORDER_BAD, false, format!("{what} {answer}"));
            }
        }
        crowd.watch(Duration::from_millis(500)).await;
        let moved = count - crowd.open_count();
        let told = crowd
            .members
            .iter()
            .filter(|member| !member.notices.is_empty())
            .count();
        let evidence = format!("of {count} clients {moved} were closed and {told} got a notice");
        self.report
            .check(&rule::ORDER_BAD_STARTS_NOTHING, moved + told == 0, evidence);
        if moved > 0 {
            crowd.open(moved).await?;
        }

        let first = crowd.members.len() - count;
        let order = self.order("all");
        let begun = Instant::now();
        self.start(&order).await;
        crowd
            .until(begun + PATIENCE, |members| {
                members[first..].iter().any(|m| m.end.is_some())
            })
            .await;
        self.start(&order).await;
        let late = crowd.open_one(false).await;
        let needed = Duration::from_secs_f64((count + 1) as f64 / RATE) + Duration::from_millis(MAX_MS);
        let gone = crowd
            .until(begun + needed + PATIENCE, |members| {
                members.iter().all(|m| m.end.is_some())
            })
            .await;

        let evidence = match &late {
            Err(error) => format!("a client that came during the order was refused: {error}"),
            Ok(()) if gone => {
                "a client that came during the order was taken, and closed in its turn".to_owned()
            }
            Ok(()) => "a client that came during the order was taken".to_owned(),
        };
        let late_stayed = late.is_ok() && crowd.members.last().is_some_and(|member| member.end.is_none());
        let others_gone = crowd.open_count() <= 1;
        self.report.check(
            &rule::DRAIN_ACCEPTS,
            late.is_ok() && !(late_stayed && others_gone),
            evidence,
        );

        let members = &crowd.members[first..];
        let left = members.iter().filter(|member| member.end.is_none()).count();
        let evidence = format!(
            "{} clients, {left} still open {} ms after the order",
            members.len(),
            begun.elapsed().as_millis()
        );
        self.report.check(
            &rule::DRAIN_COMPLETES,
            left == 0 || late_stayed && left == 1,
            evidence,
        );
        self.ends(members, begun, RATE, 1012, "all");
        self.shuffled(&members[..count]);
        self.notices(crowd, first, &order);
        self.progress_of("all", crowd, first).await;
        self.counted(crowd, "after the order").await;
        // It would go on taking those who come: all means them as well.
        self.port.delete(&self.id("all")).await;
        Ok(())
    }

    /// How the sessions of an order ended: code, reason, pace.
    pub(super) fn ends(&mut self, members: &[Member], begun: Instant, rate: f64, code: u16, name: &str) {
        let id = self.id(name);
        let mut times: Vec<Duration> = Vec::new();
        let (mut cut, mut other, mut wordless) = (0, Vec::new(), 0);
        for (at, end) in members.iter().filter_map(|member| member.end.as_ref()) {
            times.push(at.saturating_duration_since(begun));
            match end {
                End::Cut => cut += 1,
                End::Closed(seen, reason) => {
                    if *seen != code {
                        other.push(*seen);
                    }
                    if !reason.contains(&id) {
                        wordless += 1;
                    }
                }
            }
        }
        times.sort_unstable();
        let all = times.len();
        let evidence = format!("{all} closes, {cut} without a close frame");
        self.report.check(&rule::DRAIN_CLEAN, cut == 0, evidence);
        other.sort_unstable();
        other.dedup();
        let evidence = if other.is_empty() {
            format!("{} closes with {code}", all - cut)
        } else {
            format!("ordered {code}, seen {other:?}")
        };
        self.report.check(&rule::DRAIN_CODE, other.is_empty(), evidence);
        let evidence = format!("{wordless} of {} closes without it", all - cut);
        self.report
            .check(&rule::DRAIN_CLOSE_REASON, wordless == 0, evidence);
        self.paced(&rule::DRAIN_PACED, &times, rate);
        let burst = most_within(&times, Duration::from_millis(250));
        let bound = (rate / 2.0).ceil() as usize + 1;
        let evidence = format!("at most {burst} closes in 250 ms at {rate} per second");
        self.report.check(&rule::DRAIN_EVEN, burst <= bound, evidence);
    }

    /// At most the rate and one more in a second: what was closed in time may be seen late.
    pub(super) fn paced(&mut self, of: &rule::Rule, times: &[Duration], rate: f64) {
        let most = most_within(
            times,
            Duration::from_secs(1).saturating_sub(SLACK.max(self.lag.most())),
        );
        let evidence = format!(
            "{} closes, at most {most} in a second at {rate} per second",
            times.len()
        );
        self.report.check(of, most <= rate.ceil() as usize + 1, evidence);
    }

    /// Whether the order of the closes has nothing to do with that of the opens; those with and without notices each.
    fn shuffled(&mut self, members: &[Member]) {
        let mut ended: Vec<(Instant, usize, bool)> = members
            .iter()
            .enumerate()
            .filter_map(|(place, member)| Some((member.end.as_ref()?.0, place, member.declared)))
            .collect();
        ended.sort_unstable();
        let all: Vec<usize> = ended.iter().map(|(_, place, _)| *place).collect();
        let kind = |kind: bool| -> Vec<usize> {
            ended
                .iter()
                .filter(|(.., declared)| *declared == kind)
                .map(|(_, place, _)| place / 2)
                .collect()
        };
        let sorted = looks_sorted(&all) || looks_sorted(&kind(true)) || looks_sorted(&kind(false));
        let begin: Vec<String> = all.iter().take(8).map(ToString::to_string).collect();
        let evidence = format!(
            "of {} clients in the order of their opening went {} …",
            all.len(),
            begin.join(", ")
        );
        self.report.check(&rule::DRAIN_RANDOM, !sorted, evidence);
    }

    /// A number of sessions, and a share of them.
    async fn some_leave(&mut self, crowd: &mut Crowd) -> Result<(), OpenError> {
        for (of, name, select, all) in [
            (&rule::DRAIN_COUNT, "count", json!({"count": 4}), 12_usize),
            (&rule::DRAIN_FRACTION, "fraction", json!({"fraction": 0.5}), 8),
        ] {
            crowd.open(all.saturating_sub(crowd.open_count())).await?;
            self.counted(crowd, "after opening").await;
            let first = crowd.members.len();
            let open = crowd.open_count();
            let mut order = self.order(name);
            order["select"] = select;
            order["closeCode"] = OTHER_CODE.into();
            // Above what is needed: pace is another rule's.
            order["ratePerSecond"] = 20.into();
            let before = ended(&crowd.members);
            let begun = Instant::now();
            self.start(&order).await;
            crowd
                .until(begun + PATIENCE, |members| {
                    ended(members).len() >= before.len() + 4
                })
                .await;
            crowd.watch(WATCH).await;
            let gone: Vec<usize> = ended(&crowd.members[..first])
                .into_iter()
                .filter(|place| !before.contains(place))
                .collect();
            let evidence = format!("{} of {open} clients: {} closed", order["select"], gone.len());
            self.report.check(of, gone.len() == 4, evidence);
            let others: Vec<String> = gone
                .iter()
                .filter_map(|place| match &crowd.members[*place].end {
                    Some((_, End::Closed(code, _))) if *code != OTHER_CODE => Some(code.to_string()),
                    Some((_, End::Cut)) => Some("a cut".to_owned()),
                    _ => None,
                })
                .collect();
            let evidence = format!("ordered {OTHER_CODE}, seen {}", others.join(", "));
            self.report.check(&rule::DRAIN_CODE, others.is_empty(), evidence);
        }
        Ok(())
    }

    /// An order is cancelled in the middle.
    async fn cancelled(&mut self, crowd: &mut Crowd) -> Result<(), OpenError> {
        crowd.open(12_usize.saturating_sub(crowd.open_count())).await?;
        let all = crowd.open_count();
        let mut order = self.order("cancelled");
        order["reconnect"]["maxMs"] = 0.into();
        order["ratePerSecond"] = 4.into();
        let begun = Instant::now();
        self.start(&order).await;
        let some = crowd
            .until(begun + PATIENCE, |members| {
                members.iter().filter(|m| m.end.is_none()).count() + 2 <= all
            })
            .await;
        let answer = self.port.delete(&self.id("cancelled")).await;
        // What was on its way when the order was cancelled has arrived by now.
        crowd.watch(SLACK).await;
        let told = crowd
            .members
            .iter()
            .filter(|m| m.end.is_none() && told_by(m, &self.id("cancelled")))
            .count();
        let then = crowd.open_count();
        crowd.watch(WATCH).await;
        let lost = then - crowd.open_count();
        let evidence = format!(
            "DELETE {answer} after {} closes; {then} were left, {told} of them told, {lost} closed after it",
            all - then
        );
        self.report
            .check(&rule::DRAIN_CANCEL, some && lost <= told, evidence);
        Ok(())
    }
}

/// The places of those who have ended.
fn ended(members: &[Member]) -> Vec<usize> {
    let places = members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.end.is_some());
    places.map(|(place, _)| place).collect()
}

/// Whether the order told this client to go.
fn told_by(member: &Member, id: &str) -> bool {
    member.notices.iter().any(|(_, notice)| notice["id"] == id)
}
