//! The custom resource: spec, status, conditions, validation. No I/O.

mod analysis;
pub mod conditions;
mod drain;
mod moving;
mod probes;
mod probes_check;
pub mod quantity;
mod rehearsal;
pub mod script;
pub mod spec;
pub mod status;
mod thresholds;
pub mod validate;
mod verdict;

#[cfg(test)]
mod hostile_tests;

pub use quantity::{Count, Span};
pub use spec::{WebSocketRollout, WebSocketRolloutSpec};
pub use status::RolloutStatus;
pub use validate::ValidatedRollout;

/// API group of the resource, and prefix of every label and annotation.
pub const GROUP: &str = "wsroll.dev";
/// Carries a person's request: JSON of [`status::Request`].
pub const ANNOTATION_REQUEST: &str = "wsroll.dev/request";
/// Comma-separated list of findings that a person has seen and accepts: `service/legacy`.
pub const ANNOTATION_ACKNOWLEDGE: &str = "wsroll.dev/acknowledge";
/// Gives traffic and pods back before the resource goes.
pub const FINALIZER: &str = "wsroll.dev/traffic";
/// The slots of a rollout that does not say how many: Services `<name>-<slot>`, each for one revision at a time.
pub const SLOTS: [&str; 3] = ["a", "b", "c"];
/// All the slots that a rollout can have.
pub const ALL_SLOTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// The slots of a rollout that has so many (`spec.traffic.slots`); never fewer than [`SLOTS`].
pub fn slots(count: u8) -> &'static [&'static str] {
    &ALL_SLOTS[..usize::from(count).clamp(SLOTS.len(), ALL_SLOTS.len())]
}
