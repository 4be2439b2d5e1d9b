//! Plays the drain protocol against any implementation, and says what holds and what does not.
//!
//! [`rule`] is the catalogue. Without clients, only the drain port's answers are looked at, and nobody is moved. With
//! [`Traffic`] it opens clients of its own and has them drained: every session of the process takes part in that, so a
//! process that has other sessions is left alone unless [`Config::live`] says so. All orders are cancelled at the end.

mod counters;
mod crowd;
mod deadlines;
mod events;
mod lag;
mod measure;
mod moves;
mod notices;
mod orders;
mod port;
mod report;
mod requests;
pub mod rule;
mod run;

pub use crowd::{Declare, Traffic};
pub use report::{Finding, Outcome, Report};
pub use rule::{Level, Rule};
pub use run::{Config, Error, play};
