//! Rules about what the pod counts. A pod may be a moment behind: it is asked again until it is right, or for long enough.

use tokio::time::{Instant, sleep};

use super::crowd::{Crowd, End};
use super::moves::{LOOK_EVERY, PATIENCE};
use super::rule;
use super::run::Run;
use crate::drain::protocol::{DrainProgress, DrainState, Totals};

// === impl Run ===

impl Run {
    /// What the order that moved `crowd.members[first..]` away says of itself.
    pub(super) async fn progress_of(&mut self, name: &str, crowd: &Crowd, first: usize) {
        if !self.tells_orders {
            for rule in [&rule::DRAIN_PROGRESS, &rule::DRAIN_DONE, &rule::NOTICE_ACK] {
                self.report.not_offered(rule, "the report has no drain");
            }
            return;
        }
        let members = &crowd.members[first..];
        let told = members.iter().filter(|member| !member.notices.is_empty()).count() as u64;
        let closed = members.iter().filter(|member| member.end.is_some()).count() as u64;
        let id = self.id(name);
        let deadline = Instant::now() + PATIENCE;
        let drain = loop {
            let drain = self.port.progress(&id).await;
            let settled = drain.as_ref().is_some_and(|drain| {
                drain.state == DrainState::Done
                    && wrong(drain, closed, told).is_empty()
                    && drain.acked.is_none_or(|acked| acked == told)
            });
            if settled || Instant::now() > deadline {
                break drain;
            }
            sleep(LOOK_EVERY).await;
        };
        let Some(drain) = drain else {
            return self
                .report
                .check(&rule::DRAIN_DONE, false, "the report forgot the order");
        };
        let evidence = format!("after the last close it is {:?}", drain.state);
        self.report
            .check(&rule::DRAIN_DONE, drain.state == DrainState::Done, evidence);
        let there = counters(&drain, closed, told)
            .iter()
            .filter(|(_, told, _)| told.is_some())
            .count();
        let wrong = wrong(&drain, closed, told);
        if there == 0 {
            self.report
                .not_offered(&rule::DRAIN_PROGRESS, "the order has no counters");
        } else {
            let evidence = if wrong.is_empty() {
                format!("{there} counters are right")
            } else {
                wrong.join(", ")
            };
            self.report
                .check(&rule::DRAIN_PROGRESS, wrong.is_empty(), evidence);
        }
        match drain.acked {
            Some(acked) if told > 0 => {
                self.report.check(
                    &rule::NOTICE_ACK,
                    acked == told,
                    format!("{acked} of {told} counted"),
                );
            }
            _ => self
                .report
                .not_offered(&rule::NOTICE_ACK, "nothing was told, or acked is not there"),
        }
    }

    /// What the process says it has seen in all.
    pub(super) async fn totals(&mut self, crowd: &Crowd) {
        let opened = crowd.members.len() as u64;
        let with_1012 =
            |member: &&super::crowd::Member| matches!(member.end, Some((_, End::Closed(1012, _))));
        let seen = crowd.members.iter().filter(with_1012).count() as u64;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(totals) = self.port.sessions().await.ok().and_then(|report| report.totals) else {
                return;
            };
            let Totals { accepted, closed, .. } = totals;
            let closed = closed.map(|closed| closed.get("1012").copied().unwrap_or(0));
            if accepted.is_none() && closed.is_none() {
                return self
                    .report
                    .not_offered(&rule::SESSIONS_TOTALS, "neither accepted nor closed is there");
            }
            let holds = accepted.is_none_or(|told| told >= opened) && closed.is_none_or(|told| told >= seen);
            if holds || Instant::now() > deadline {
                let show = |told: Option<u64>| told.map_or("not told".to_owned(), |told| told.to_string());
                let evidence = format!(
                    "accepted {} of the {opened} that we opened, closed with 1012 {} of {seen}",
                    show(accepted),
                    show(closed)
                );
                return self.report.check(&rule::SESSIONS_TOTALS, holds, evidence);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Name, as told, as seen.
fn counters(drain: &DrainProgress, closed: u64, told: u64) -> [(&'static str, Option<u64>, u64); 3] {
    [
        ("eligible", drain.eligible, closed),
        ("notified", drain.notified, told),
        ("closedClean", drain.closed_clean, closed),
    ]
}

fn wrong(drain: &DrainProgress, closed: u64, told: u64) -> Vec<String> {
    let counters = counters(drain, closed, told).into_iter();
    counters
        .filter_map(|(name, told, seen)| {
            told.filter(|told| *told != seen)
                .map(|told| format!("{name} {told} instead of {seen}"))
        })
        .collect()
}
