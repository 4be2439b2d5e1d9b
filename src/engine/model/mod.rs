//! A small cluster in virtual time, to run the engine in: what it must never do is checked at every act.
//!
//! - `world`: a case, its state and its time
//! - `cluster`: what happens by itself
//! - `operator`: the rounds of an operator that may die between any two acts
//! - `pods`: ReplicaSets that start pods slowly, pods that follow orders
//! - `gateway`: weights, slots and pins that are programmed late
//! - `clients`: sessions that come, stay, are moved and come back
//! - `probes`: what rehearsal and fleet report of a good or a bad version
//! - `checks`: the invariants
//! - `faults`: what goes wrong, and when
//! - `properties`: what holds in every run; `phases`, `rehearsals`, `requests`, `drains`, `leave`, `signal`, `windows`, `trouble`: one scenario each

mod checks;
mod clients;
mod cluster;
mod drains;
mod faults;
mod gateway;
mod leave;
mod operator;
mod phases;
mod pods;
mod probes;
mod properties;
mod rehearsals;
mod requests;
mod signal;
mod trouble;
mod windows;
mod world;

use faults::{Fault, Happening};
use world::{Case, Manner, Quality, World};

/// Numbers that are the same in every run.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 for an empty range.
    fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            0
        } else {
            (self.next() % end as u64) as usize
        }
    }
}
