//! Decide: phases, waves and budget, capacity, verdict. Pure: no client, no clock, no I/O.
//!
//! [`plan()`] reads one moment of the cluster and says what the status shall be and what is to be done. The same code runs under
//! the operator and in tests. Every phase can be re-entered from status plus observation: nothing is remembered between calls.
//!
//! - `advance`: which phase follows
//! - `release`: how a release begins, is requested on, and ends
//! - `act`: what the phase asks of the cluster, as the difference to what is there
//! - `wave`, `budget`, `pace`: who lets go of sessions next, and how fast
//! - `windows`: the new revision gets every new connection while a wave's clients come back
//! - `via`: who lets a revision's sessions go; `leaving`: revisions that nobody may cut
//! - `verdict`: go on, wait, or go back
//! - `collateral`: who was cut though nobody touched them
//! - `report`: what the phase looks like to people

mod act;
mod advance;
pub mod budget;
pub mod capacity;
mod collateral;
pub mod evidence;
mod leaving;
pub mod observed;
pub mod pace;
pub mod plan;
mod release;
mod report;
mod terms;
pub mod verdict;
mod via;
pub mod wave;
mod windows;
mod work;

#[cfg(test)]
mod model;

use jiff::Timestamp;

pub use observed::Observed;
pub use plan::{Action, Note, Plan};
pub use report::progress_only;

/// Decides.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let mut work = work::Work::new(observed, now);
    work.begin();
    work.heed_request();
    work.heed_template();
    work.advance();
    work.collateral();
    work.act();
    work.report();
    work.into_plan()
}
