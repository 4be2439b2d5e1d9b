//! Users' sessions.

use std::collections::BTreeMap;

use crate::engine::plan::Hint;

/// One user.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub place: Place,
    /// What it was told to present.
    pub hint: Option<Hint>,
    /// How often it was moved, by release.
    pub moved: BTreeMap<u64, u32>,
}

/// Where a session is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// On a pod.
    On(String),
    /// Between two sockets; dials then. The first dial after an order is what the budget counts.
    Dialling { at: i64, ordered: bool },
    /// Left for good.
    Away,
}

impl Session {
    pub(super) fn dialling(at: i64) -> Self {
        Self {
            place: Place::Dialling { at, ordered: false },
            hint: None,
            moved: BTreeMap::new(),
        }
    }
}
