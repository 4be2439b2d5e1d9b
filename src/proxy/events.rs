//! Sessions that came and went, for the operator's account: a bounded ring, told as keyed hashes.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::drain::protocol::{EventsReport, MAX_EVENTS, ReleasedHow, SessionEvent, SessionEventKind};

/// Events kept: at 100 sessions a second those of several minutes.
const KEPT: usize = 50_000;

/// The ring.
#[derive(Debug, Default)]
pub(super) struct Events(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    /// Number of the last event; they count from 1.
    last: u64,
    kept: VecDeque<Kept>,
}

#[derive(Debug)]
struct Kept {
    kind: SessionEventKind,
    session: Box<str>,
    at_ms: u64,
    order: Option<Box<str>>,
    how: Option<ReleasedHow>,
}

// === impl Events ===

impl Events {
    /// A session was opened here.
    pub(super) fn arrived(&self, session: &str, now_ms: u64) {
        self.push(Kept {
            kind: SessionEventKind::Arrived,
            session: session.into(),
            at_ms: now_ms,
            order: None,
            how: None,
        });
    }

    /// A session ended here.
    pub(super) fn released(&self, session: &str, now_ms: u64, how: ReleasedHow, order: Option<&str>) {
        self.push(Kept {
            kind: SessionEventKind::Released,
            session: session.into(),
            at_ms: now_ms,
            order: order.map(Into::into),
            how: Some(how),
        });
    }

    fn push(&self, event: Kept) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        if ring.kept.len() == KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(event);
    }

    /// What came after event number `after`. A number from the future, as from another process, is answered with nothing
    /// and the last number.
    pub(super) fn after(&self, after: u64, now_ms: u64, instance: &str) -> EventsReport {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.last + 1 - ring.kept.len() as u64;
        let from = after.saturating_add(1).max(first);
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        let events: Vec<SessionEvent> = ring
            .kept
            .iter()
            .zip(first..)
            .skip(skip)
            .take(MAX_EVENTS)
            .map(|(kept, n)| SessionEvent {
                n,
                kind: kept.kind,
                session: kept.session.to_string(),
                ago_ms: now_ms.saturating_sub(kept.at_ms),
                order: kept.order.as_deref().map(str::to_owned),
                how: kept.how,
                resumed: None,
            })
            .collect();
        EventsReport {
            instance: Some(instance.to_owned()),
            next: events.last().map_or(ring.last, |event| event.n),
            lost: first.saturating_sub(after.saturating_add(1)),
            events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_in_pages_and_what_was_dropped_is_counted() {
        let events = Events::default();
        assert_eq!(events.after(0, 0, "i").next, 0);
        for n in 0..=KEPT as u64 {
            events.arrived(&format!("{n:016x}"), n);
        }
        let page = events.after(0, KEPT as u64 + 5, "i");
        assert_eq!((page.lost, page.events.len()), (1, MAX_EVENTS));
        assert_eq!((page.events[0].n, page.next), (2, 1 + MAX_EVENTS as u64));
        assert_eq!(page.events[0].ago_ms, KEPT as u64 + 4);
        let page = events.after(page.next, 0, "i");
        assert_eq!((page.lost, page.events[0].n), (0, 2 + MAX_EVENTS as u64));
        let last = KEPT as u64 + 1;
        let end = events.after(last, 0, "i");
        assert_eq!((end.next, end.events.len(), end.lost), (last, 0, 0));
        // From another process: nothing is made up.
        assert_eq!(events.after(last + 100, 0, "i").next, last);
    }

    #[test]
    fn a_released_session_tells_how_and_by_which_order() {
        let events = Events::default();
        events.released("a", 0, ReleasedHow::Moved, Some("o1"));
        let event = &events.after(0, 7, "i").events[0];
        assert_eq!(
            (event.how, event.order.as_deref(), event.ago_ms),
            (Some(ReleasedHow::Moved), Some("o1"), 7)
        );
    }
}
