//! Sessions over polling requests.

use super::peer::Goodbye;

/// What a polling session is.
#[derive(Debug, Default)]
pub(super) struct Polling {}

// === impl Polling ===

impl Polling {
    pub(super) fn close(&self, _goodbye: Goodbye) {}
}
