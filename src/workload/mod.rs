//! Revisions, ReplicaSets and pods.
//!
//! Nothing in this room decides anything: it builds what the plan asks for and reads what is there.

pub mod labels;
pub mod pods;
pub mod replica_set;
pub mod revision;
pub mod scale;
pub mod sidecar;
pub mod token;

pub use labels::Role;
pub use revision::Revision;
