//! Rules about `GET /wsroll/v1/events`, which is optional.

use std::collections::BTreeMap;

use super::crowd::{Crowd, End};
use super::rule;
use super::run::Run;
use crate::drain::identity;
use crate::drain::protocol::{EventsReport, MAX_EVENTS, SessionEvent, SessionEventKind};

/// Pages that are read at most.
const MAX_PAGES: usize = 50;

// === impl Run ===

impl Run {
    /// The form of an answer.
    pub(super) async fn events_form(&mut self) {
        let answer = self.port.events(0).await;
        if answer.is(404) {
            for rule in [
                &rule::EVENTS_SHAPE,
                &rule::EVENTS_AFTER,
                &rule::EVENTS_ACCOUNT,
                &rule::EVENTS_IDENTITY,
            ] {
                self.report.not_offered(rule, "GET /wsroll/v1/events 404");
            }
            return;
        }
        match answer.json::<EventsReport>() {
            Ok(page) => {
                let evidence = format!("{} events, next {}", page.events.len(), page.next);
                self.report
                    .check(&rule::EVENTS_SHAPE, page.events.len() <= MAX_EVENTS, evidence);
            }
            Err(error) => self.report.check(&rule::EVENTS_SHAPE, false, error),
        }
    }

    /// Whether the events tell what our clients saw.
    pub(super) async fn events_account(&mut self, crowd: &Crowd) {
        if self.report.outcome(&rule::EVENTS_SHAPE) != Some(super::Outcome::Holds) {
            return;
        }
        let Some((events, lost)) = self.all_events().await else {
            return;
        };
        self.pages(&events, lost).await;

        let of_us = |event: &&SessionEvent| event.order.as_ref().is_some_and(|id| id.starts_with(&self.name));
        let told = events
            .iter()
            .filter(|e| e.kind == SessionEventKind::Released)
            .filter(of_us)
            .count();
        let seen = crowd
            .members
            .iter()
            .filter(|member| match &member.end {
                Some((_, End::Closed(code, _))) => *code != 1000,
                _ => false,
            })
            .count();
        let arrived = events
            .iter()
            .filter(|event| event.kind == SessionEventKind::Arrived)
            .count();
        let opened = crowd.members.len();
        let evidence = format!(
            "{told} released by our orders, we saw {seen}; {arrived} arrived, we opened {opened}; {lost} lost"
        );
        let holds = lost > 0 || told == seen && arrived >= opened;
        self.report.check(&rule::EVENTS_ACCOUNT, holds, evidence);
        self.identities(&events, crowd);
    }

    /// Every page from the first on, and what was lost.
    async fn all_events(&mut self) -> Option<(Vec<SessionEvent>, u64)> {
        let (mut events, mut lost, mut after) = (Vec::new(), 0, 0);
        for _ in 0..MAX_PAGES {
            let page: EventsReport = match self.port.events(after).await.json() {
                Ok(page) => page,
                Err(error) => {
                    self.report.check(&rule::EVENTS_SHAPE, false, error);
                    return None;
                }
            };
            lost += page.lost;
            let is_last = page.events.is_empty() || page.next <= after;
            events.extend(page.events);
            if is_last {
                break;
            }
            after = page.next;
        }
        Some((events, lost))
    }

    async fn pages(&mut self, events: &[SessionEvent], lost: u64) {
        let rising = events.windows(2).all(|pair| pair[0].n + 1 == pair[1].n);
        let first = events.first().map_or(1, |event| event.n);
        let evidence = format!(
            "{} events from {first} on, each number one above the last: {rising}, lost {lost}",
            events.len()
        );
        self.report.check(&rule::EVENTS_SHAPE, rising, evidence);
        // Numbers that are missing before the first were dropped.
        let counted = lost == first - 1;
        let middle = events.get(events.len() / 2).map_or(0, |event| event.n);
        match self.port.events(middle).await.json::<EventsReport>() {
            Ok(page) => {
                let next = page.events.first().map(|event| event.n);
                let holds = counted && next.is_none_or(|n| n == middle + 1);
                let next = next.map_or("none".to_owned(), |n| n.to_string());
                let evidence =
                    format!("after={middle} begins with {next}; first number {first}, lost {lost}");
                self.report.check(&rule::EVENTS_AFTER, holds, evidence);
            }
            Err(error) => self.report.check(&rule::EVENTS_AFTER, false, error),
        }
    }

    fn identities(&mut self, events: &[SessionEvent], crowd: &Crowd) {
        let is_hash =
            |text: &str| text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if let Some(event) = events.iter().find(|event| !is_hash(&event.session)) {
            let evidence = format!("event {} names a session in another form", event.n);
            return self.report.check(&rule::EVENTS_IDENTITY, false, evidence);
        }
        if !crowd.is_named() {
            let why = "sessions have no names of their own: put {session} into --ws or --header";
            return self.report.not_tested(&rule::EVENTS_IDENTITY, why);
        }
        let mut seen: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for event in events {
            let of = seen.entry(&event.session).or_default();
            match event.kind {
                SessionEventKind::Arrived => of.0 += 1,
                SessionEventKind::Released => of.1 += 1,
                SessionEventKind::Other => {}
            }
        }
        let Some(key) = &self.config.identity_key else {
            let pairs = seen.values().filter(|(came, went)| came == went).count();
            let evidence = format!(
                "{pairs} of {} went as often as they came (no --identity-key to compare with)",
                seen.len()
            );
            return self
                .report
                .check(&rule::EVENTS_IDENTITY, pairs >= crowd.members.len(), evidence);
        };
        let hashes = crowd
            .members
            .iter()
            .map(|member| identity::hash(key, &member.name));
        let known = hashes.filter(|hash| seen.contains_key(hash.as_str())).count();
        let evidence = format!(
            "{known} of {} sessions are told by the hash of their names",
            crowd.members.len()
        );
        self.report
            .check(&rule::EVENTS_IDENTITY, known == crowd.members.len(), evidence);
    }
}
