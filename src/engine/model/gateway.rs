//! The data plane: it does what the routes say, later.

use std::collections::{BTreeMap, VecDeque};

use super::Dice;
use crate::engine::observed::{PinKind, PinRule};

/// What the gateway works by.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plane {
    pub weights: BTreeMap<String, i32>,
    pub slots: BTreeMap<String, String>,
    pub pins: Vec<PinRule>,
    /// UIDs of the pods in rotation, by revision.
    pub endpoints: BTreeMap<String, Vec<String>>,
}

/// A gateway that follows late.
#[derive(Debug, Clone, Default)]
pub(super) struct Gateway {
    changes: VecDeque<(i64, Plane)>,
}

/// What a client presents.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way<'a> {
    Plain,
    Pin(PinKind, &'a str),
}

impl Gateway {
    pub(super) fn tell(&mut self, now: i64, lag: i64, plane: Plane) {
        if self.changes.back().is_none_or(|(_, last)| *last != plane) {
            self.changes.push_back((now, plane));
        }
        while self.changes.get(1).is_some_and(|(at, _)| at + lag <= now) {
            self.changes.pop_front();
        }
    }

    pub(super) fn plane(&self) -> Plane {
        self.changes.front().map(|(_, p)| p.clone()).unwrap_or_default()
    }

    /// The pod that a fresh connection lands on.
    pub(super) fn route(&self, way: Way<'_>, dice: &mut Dice) -> Option<String> {
        let (_, plane) = self.changes.front()?;
        let pinned = match way {
            Way::Plain => None,
            Way::Pin(kind, value) => plane.pins.iter().find(|p| p.kind == kind && p.value == value),
        };
        let slot = pinned.map_or_else(|| by_weight(&plane.weights, dice), |pin| Some(pin.slot.clone()))?;
        let pods = plane.endpoints.get(plane.slots.get(&slot)?)?;
        (!pods.is_empty()).then(|| pods[dice.below(pods.len())].clone())
    }
}

fn by_weight(weights: &BTreeMap<String, i32>, dice: &mut Dice) -> Option<String> {
    let total: i32 = weights.values().sum();
    let mut at = dice.below(total.max(0) as usize) as i32;
    for (slot, weight) in weights {
        if at < *weight {
            return Some(slot.clone());
        }
        at -= weight;
    }
    None
}
