//! The sidecar from outside: programs of other people, unchanged, before and behind it.

pub mod autobahn;
pub mod bench;
mod child;
mod order;
mod proxy;
pub mod stacks;
