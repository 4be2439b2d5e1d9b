//! Revisions, ReplicaSets and pods.
//!
//! Nothing in this room decides anything: it builds what the plan asks for and reads what is there.

pub mod address;
pub mod certificate;
pub mod labels;
pub mod pods;
pub mod replica_set;
pub mod revision;
pub mod scale;
pub mod sidecar;
pub mod token;

#[cfg(test)]
mod restricted_tests;

pub use labels::Role;
pub use revision::Revision;
