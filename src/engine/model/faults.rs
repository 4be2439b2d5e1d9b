//! What goes wrong.

use proptest::prelude::*;

use super::clients::Place;
use super::world::World;
use crate::api::status::{Request, Verb};

/// A fault and its time.
#[derive(Debug, Clone)]
pub(super) struct Happening {
    /// Milliseconds after the release's template is applied.
    pub at: i64,
    pub fault: Fault,
}

/// What can happen.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The operator dies after so many acts of its next round, and is away for a time.
    Dies { after: usize, away: i64 },
    /// An act of the next round fails.
    Fails { act: usize },
    /// Status cannot be written in the next round.
    StatusRefused,
    /// A pod does not answer the operator for a time.
    Silent { pod: usize, time: i64 },
    /// A pod's process ends and comes back.
    Crash { pod: usize },
    /// Somebody writes the routes' weights.
    Weights { a: i32 },
    /// Somebody points a slot somewhere.
    Slot { slot: usize, revision: usize },
    /// Another template: A, B or C.
    Template { which: usize },
    /// Other replicas.
    Replicas { count: u32 },
    /// A person asks.
    Asks { verb: usize },
    /// The status is lost with the resource, which is applied again.
    StatusLost,
}

pub(super) fn any() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => (0usize..12, 0i64..20_000).prop_map(|(after, away)| Fault::Dies { after, away }),
        3 => (0usize..8).prop_map(|act| Fault::Fails { act }),
        1 => Just(Fault::StatusRefused),
        2 => (0usize..16, 500i64..60_000).prop_map(|(pod, time)| Fault::Silent { pod, time }),
        2 => (0usize..16).prop_map(|pod| Fault::Crash { pod }),
        2 => (0i32..=100).prop_map(|a| Fault::Weights { a }),
        2 => (0usize..3, 0usize..3).prop_map(|(slot, revision)| Fault::Slot { slot, revision }),
        2 => (0usize..3).prop_map(|which| Fault::Template { which }),
        2 => (1u32..8).prop_map(|count| Fault::Replicas { count }),
        3 => (0usize..5).prop_map(|verb| Fault::Asks { verb }),
        1 => Just(Fault::StatusLost),
    ]
}

pub(super) fn happenings(most: usize) -> impl Strategy<Value = Vec<Happening>> {
    proptest::collection::vec((0i64..90_000, any()), 0..=most).prop_map(|list| {
        let mut list: Vec<Happening> = list
            .into_iter()
            .map(|(at, fault)| Happening { at, fault })
            .collect();
        list.sort_by_key(|h| h.at);
        list
    })
}

pub(super) const TEMPLATES: [&str; 3] = ["aaa", "bbb", "ccc"];

impl World {
    pub(super) fn strike(&mut self, fault: &Fault) {
        self.trace.push(format!("{} FAULT {fault:?}", self.now));
        match fault {
            Fault::Dies { after, away } => self.dies = Some((*after, *away)),
            Fault::Fails { act } => self.fails = Some(*act),
            Fault::StatusRefused => self.refuses_status = true,
            Fault::Silent { pod, time } => {
                let until = self.now + time;
                let count = self.pods.len();
                if let Some(pod) = self.pods.get_mut(pod % count.max(1)) {
                    pod.silent_until = until;
                }
                self.last_trouble = self.last_trouble.max(until);
            }
            Fault::Crash { pod } => {
                let count = self.pods.len();
                let up_at = self.now + 3_000;
                if let Some(pod) = self.pods.get_mut(pod % count.max(1)).filter(|p| p.up_at <= up_at) {
                    pod.crash(up_at);
                    let uid = pod.uid.clone();
                    self.cut(&uid);
                }
            }
            Fault::Weights { a } => {
                self.weights = [("a", *a), ("b", 100 - a), ("c", 0)]
                    .map(|(slot, weight)| (slot.to_owned(), weight))
                    .into();
                self.foreign_at = self.now;
            }
            Fault::Slot { slot, revision } => {
                let slot = crate::api::SLOTS[*slot].to_owned();
                self.slots.insert(slot, TEMPLATES[*revision].to_owned());
                self.foreign_at = self.now;
            }
            Fault::Template { which } => self.template = TEMPLATES[*which].to_owned(),
            Fault::Replicas { count } => self.set_replicas(*count),
            Fault::Asks { verb } => {
                let verb = [Verb::Promote, Verb::Pause, Verb::Resume, Verb::Abort, Verb::Retry][*verb];
                self.request = Some(Request {
                    verb,
                    release: None,
                    nonce: format!("n{}", self.now),
                });
            }
            Fault::StatusLost => {
                self.status = crate::api::RolloutStatus::default();
                self.lost_status = true;
            }
        }
        self.last_trouble = self.last_trouble.max(self.now);
    }

    /// Everybody on a pod is cut.
    pub(super) fn cut(&mut self, uid: &str) -> usize {
        let mut cut = 0;
        for session in &mut self.sessions {
            if session.place == Place::On(uid.to_owned()) {
                session.place = Place::Dialling {
                    at: self.now + 200,
                    ordered: false,
                };
                cut += 1;
            }
        }
        if cut > 0 {
            self.trace
                .push(format!("{} {cut} users of {uid} are cut", self.now));
        }
        self.unannounced += cut as u64;
        self.all_unannounced += cut as u64;
        cut
    }
}
