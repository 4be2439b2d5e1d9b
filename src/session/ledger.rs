//! What a session has received and what it still waits for: numbers, duplicates, gaps, own requests. Pure.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::wire::ClientFrame;

/// Own requests that may wait for an answer at the same time.
const MAX_PENDING: usize = 256;

/// A part of the state that `set` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// Agent context.
    Context,
    /// Tool states.
    Tools,
    /// User preferences.
    Preferences,
}

/// An own request, kept until it is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Appends to the history.
    Say(Box<str>),
    /// Sets a key.
    Set {
        /// Where.
        section: Section,
        /// The key.
        key: Box<str>,
        /// The value.
        value: Value,
    },
    /// Asks for the state.
    State,
}

/// A request that is to go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Its id on the wire.
    pub id: String,
    /// Whether its answer is the state.
    pub reads: bool,
    /// Its frame in the session protocol.
    pub text: String,
}

/// What became of a numbered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The next one, after `missing` that never came.
    New {
        /// How many numbers were skipped.
        missing: u64,
    },
    /// Seen before.
    Duplicate,
}

/// The books of one session. Numbers are the service's, requests are counted here; both survive every socket.
#[derive(Debug, Default)]
pub struct Ledger {
    last: u64,
    requests: u64,
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    request: Request,
    asked_at: Instant,
    /// When it went out on the current socket.
    sent_at: Option<Instant>,
}

// === impl Ledger ===

impl Ledger {
    /// The last number received: what a resume tells the service.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes note of a numbered message.
    pub fn receive(&mut self, seq: u64) -> Received {
        if seq <= self.last {
            return Received::Duplicate;
        }
        let missing = seq - self.last - 1;
        self.last = seq;
        Received::New { missing }
    }

    /// The service began anew at this number.
    pub fn restart(&mut self, seq: u64) {
        self.last = seq;
    }

    /// Keeps a request until it is answered and returns its number; `None` while too many are waiting.
    pub fn ask(&mut self, request: Request, now: Instant) -> Option<u64> {
        if self.pending.len() >= MAX_PENDING {
            return None;
        }
        self.requests += 1;
        self.pending.push_back(Pending {
            number: self.requests,
            request,
            asked_at: now,
            sent_at: None,
        });
        Some(self.requests)
    }

    /// The answer to a request came: when it was asked. `None` for an answer that nobody waits for.
    pub fn answer(&mut self, id: &str) -> Option<(u64, Instant)> {
        let number = parse_id(id)?;
        let place = self.pending.iter().position(|p| p.number == number)?;
        self.pending.remove(place).map(|p| (p.number, p.asked_at))
    }

    /// The requests not yet sent on the current socket, in order; they count as sent at `now`.
    pub fn unsent(&mut self, now: Instant) -> Vec<Unsent> {
        let ack = self.last;
        self.pending
            .iter_mut()
            .filter(|p| p.sent_at.is_none())
            .map(|p| {
                p.sent_at = Some(now);
                p.unsent(ack)
            })
            .collect()
    }

    /// The socket changed: every waiting request goes out again, under its own id, so that it is applied once.
    pub fn socket_changed(&mut self) {
        for pending in &mut self.pending {
            pending.sent_at = None;
        }
    }

    /// When the request that has waited longest on the current socket was sent.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|p| p.sent_at).min()
    }

    /// Whether something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        self.pending.iter().any(|p| p.sent_at.is_none())
    }

    /// Requests without an answer.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Unanswered requests that write state, and so would be lost.
    pub fn pending_writes(&self) -> usize {
        self.pending
            .iter()
            .filter(|p| p.request != Request::State)
            .count()
    }
}

impl Pending {
    fn unsent(&self, ack: u64) -> Unsent {
        let id = format!("c-{}", self.number);
        Unsent {
            reads: self.request == Request::State,
            text: self.frame(id.clone(), ack),
            id,
        }
    }

    fn frame(&self, id: String, ack: u64) -> String {
        match &self.request {
            Request::Say(text) => ClientFrame::Say { id, text, ack }.to_text(),
            Request::Set { section, key, value } => ClientFrame::Set {
                id,
                section: *section,
                key,
                value,
            }
            .to_text(),
            Request::State => ClientFrame::State { id }.to_text(),
        }
    }
}

fn parse_id(id: &str) -> Option<u64> {
    id.strip_prefix("c-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However often and in whatever pieces a service repeats from the last number on, each number counts once.
        #[test]
        fn replays_are_dropped_by_number(replays in proptest::collection::vec(1_u64..40, 1..40)) {
            let mut ledger = Ledger::default();
            let mut fresh = 0;
            for count in replays {
                let from = ledger.last().saturating_sub(3);
                for seq in from..from + count {
                    match ledger.receive(seq) {
                        Received::New { missing } => {
                            prop_assert_eq!(missing, 0);
                            fresh += 1;
                        }
                        Received::Duplicate => prop_assert!(seq <= ledger.last()),
                    }
                }
            }
            prop_assert_eq!(fresh, ledger.last());
        }

        #[test]
        fn missing_numbers_are_counted(gaps in proptest::collection::vec(0_u64..5, 0..50)) {
            let mut ledger = Ledger::default();
            let mut missing_in_all = 0;
            for gap in &gaps {
                let seq = ledger.last() + 1 + gap;
                if let Received::New { missing } = ledger.receive(seq) {
                    missing_in_all += missing;
                }
            }
            prop_assert_eq!(missing_in_all, gaps.iter().sum::<u64>());
            prop_assert_eq!(ledger.last(), missing_in_all + gaps.len() as u64);
        }
    }

    #[test]
    fn unanswered_requests_go_out_again_under_the_same_id() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.ask(Request::Say("a".into()), now);
        ledger.ask(Request::Say("b".into()), now);
        let first = ledger.unsent(now);
        assert_eq!(first.len(), 2);
        assert!(ledger.unsent(now).is_empty());
        assert_eq!(ledger.answer("c-1").map(|(n, _)| n), Some(1));
        ledger.socket_changed();
        assert_eq!(ledger.unsent(now), first[1..]);
    }

    #[test]
    fn a_second_answer_is_nobodys() {
        let mut ledger = Ledger::default();
        ledger.ask(Request::State, Instant::now());
        assert!(ledger.answer("c-1").is_some());
        assert!(ledger.answer("c-1").is_none());
        assert!(ledger.answer("x").is_none());
    }

    #[test]
    fn waiting_requests_are_bounded() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        for _ in 0..MAX_PENDING {
            assert!(ledger.ask(Request::State, now).is_some());
        }
        assert!(ledger.ask(Request::State, now).is_none());
    }
}
