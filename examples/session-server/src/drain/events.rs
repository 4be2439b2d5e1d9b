//! Who came and who went, as keyed hashes, so that the operator can account for every session: `GET /wsroll/v1/events`.
//!
//! The ring is bounded; what it drops before it was read is told as lost. The identity of a session is its id, which is
//! the same on every pod.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;
use tokio::time::Instant;

use crate::{
    config::Secret,
    session::{Ending, Peer},
};

/// Events kept.
const CAPACITY: usize = 20_000;
/// Events in one answer. A shorter answer is the last one.
const PAGE: usize = 1_000;

/// The ring of a process. Without a key there is none.
#[derive(Debug)]
pub(crate) struct Events {
    key: Option<Secret>,
    capacity: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Number of the newest, from 1.
    last: u64,
    kept: VecDeque<(Instant, Kept)>,
}

#[derive(Clone, Debug)]
struct Kept {
    kind: Kind,
    session: String,
    order: Option<String>,
    how: Option<How>,
    resumed: Option<bool>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Released,
    Arrived,
}

/// How a session went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum How {
    /// By itself.
    Left,
    /// Under an order.
    Moved,
    /// Closed at an order's deadline.
    Forced,
    /// Without a close frame.
    Cut,
}

/// What `GET /wsroll/v1/events` answers.
#[derive(Debug, Serialize)]
pub(super) struct Page<'a> {
    instance: &'a str,
    next: u64,
    lost: u64,
    events: Vec<Event>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    n: u64,
    kind: Kind,
    session: String,
    ago_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<How>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
}

// === impl Events ===

impl Events {
    pub(crate) fn new(key: Option<Secret>) -> Self {
        Self {
            key,
            capacity: CAPACITY,
            ring: Mutex::default(),
        }
    }

    /// A session is open here. `resumed` is whether it found its state, where it asked for one.
    pub(crate) fn arrived(&self, peer: &Peer, resumed: Option<bool>) {
        peer.set_arrived();
        self.add(&peer.session, |session| Kept {
            kind: Kind::Arrived,
            session,
            order: None,
            how: None,
            resumed,
        });
    }

    /// A socket ended. One on which no session ever was is no event.
    pub(crate) fn released(&self, peer: &Peer, ending: Ending) {
        if !peer.has_arrived() {
            return;
        }
        let order = peer.told.get().map(|tally| tally.id.clone());
        let how = match (&order, ending.forced, ending.code) {
            (Some(_), true, _) => Some(How::Forced),
            // Cut or not, it went because it was told.
            (Some(_), false, _) => Some(How::Moved),
            (None, _, 1006) => Some(How::Cut),
            // The client's own close, or another connection of it that took the session.
            (None, ..) => ending.by_client.then_some(How::Left),
        };
        self.add(&peer.session, |session| Kept {
            kind: Kind::Released,
            session,
            order,
            how,
            resumed: None,
        });
    }

    fn add(&self, session: &str, event: impl FnOnce(String) -> Kept) {
        let Some(key) = &self.key else { return };
        let event = event(hash(key, session));
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        ring.kept.push_back((Instant::now(), event));
        if ring.kept.len() > self.capacity {
            ring.kept.pop_front();
        }
    }

    /// The events after number `after`; `None` where there is no key.
    pub(super) fn page<'a>(&self, instance: &'a str, after: u64) -> Option<Page<'a>> {
        self.key.as_ref()?;
        let now = Instant::now();
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = ring.last - ring.kept.len() as u64;
        let skip = usize::try_from(after.saturating_sub(dropped)).unwrap_or(usize::MAX);
        let events: Vec<_> = (dropped + 1..)
            .zip(&ring.kept)
            .skip(skip)
            .take(PAGE)
            .map(|(n, (at, kept))| Event {
                n,
                kind: kept.kind,
                session: kept.session.clone(),
                ago_ms: millis(now.saturating_duration_since(*at)),
                order: kept.order.clone(),
                how: kept.how,
                resumed: kept.resumed,
            })
            .collect();
        Some(Page {
            instance,
            // Who asks beyond the end has read another process.
            next: events.last().map_or(ring.last, |event| event.n),
            lost: dropped.saturating_sub(after),
            events,
        })
    }
}

/// `HMAC-SHA256(key, "session:" + identity)`, its first 8 bytes as 16 hexadecimal digits.
fn hash(key: &Secret, identity: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()) else {
        unreachable!("hmac accepts every key length")
    };
    mac.update(b"session:");
    mac.update(identity.as_bytes());
    hex::encode(&mac.finalize().into_bytes()[..8])
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(capacity: usize) -> Events {
        Events {
            capacity,
            ..Events::new(Some(Secret::new("key")))
        }
    }

    fn peer(session: &str) -> Peer {
        Peer::new(1, session.into(), false, false, false)
    }

    fn numbers(page: &Page<'_>) -> Vec<u64> {
        page.events.iter().map(|event| event.n).collect()
    }

    #[test]
    fn identities_are_hashed_as_the_protocol_says() {
        assert_eq!(hash(&Secret::new("key"), "alice"), "74aae192643f597a");
    }

    #[test]
    fn without_a_key_there_are_no_events() {
        let events = Events::new(None);
        events.arrived(&peer("a"), None);
        assert!(events.page("i", 0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn pages_go_on_where_they_ended_and_tell_what_was_lost() {
        let events = events(1_500);
        let peer = peer("a");
        for _ in 0..1_200 {
            events.arrived(&peer, None);
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        let first = events.page("i", 0).unwrap();
        assert_eq!((first.events.len(), first.next, first.lost), (1_000, 1_000, 0));
        assert_eq!(first.events[0].ago_ms, 3_000);
        let second = events.page("i", first.next).unwrap();
        assert_eq!((second.events.len(), second.next), (200, 1_200));
        let none = events.page("i", second.next).unwrap();
        assert_eq!((none.events.len(), none.next, none.lost), (0, 1_200, 0));
        for _ in 0..1_500 {
            events.arrived(&peer, None);
        }
        let late = events.page("i", 1_190).unwrap();
        assert_eq!((late.lost, numbers(&late)[0]), (10, 1_201));
        // Numbers of another process.
        assert_eq!(events.page("i", 9_000).unwrap().next, 2_700);
    }

    #[test]
    fn a_socket_without_a_session_is_no_event() {
        let events = events(10);
        events.released(&peer("a"), Ending::CUT);
        assert_eq!(events.page("i", 0).unwrap().next, 0);
    }
}
