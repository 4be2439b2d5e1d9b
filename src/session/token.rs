//! The bearer token of a session, kept out of logs.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A bearer token. `Debug` hides it, and no error of this room holds it. Copies share it: who renews one renews all.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    value: RwLock<Arc<str>>,
    refused: AtomicBool,
}

impl Token {
    /// Wraps a token as given.
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Inner {
            value: RwLock::new(token.into()),
            refused: AtomicBool::new(false),
        }))
    }

    /// The token itself, to be sent and nothing else.
    pub fn reveal(&self) -> Arc<str> {
        self.0
            .value
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sessions that hold a copy dial with this from now on.
    pub fn renew(&self, token: impl Into<Arc<str>>) {
        *self.0.value.write().unwrap_or_else(PoisonError::into_inner) = token.into();
        self.0.refused.store(false, Ordering::Relaxed);
    }

    /// The service answered this token with 401.
    pub(super) fn refused(&self) {
        self.0.refused.store(true, Ordering::Relaxed);
    }

    /// Whether the service answered it with 401 since it was made or renewed.
    pub fn was_refused(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The same token with one character in its middle changed: what a forger would send. Not the last one, which in
    /// base64 may hold bits that nobody reads.
    #[must_use]
    pub fn tampered(&self) -> Self {
        let mut changed: Vec<char> = self.reveal().chars().collect();
        let middle = changed.len() / 2;
        match changed.get_mut(middle) {
            Some(place) => *place = if *place == '0' { '1' } else { '0' },
            None => changed.push('0'),
        }
        Self::new(changed.into_iter().collect::<String>())
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.reveal() == other.reveal()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn debug_hides_the_token() {
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(…)");
    }

    #[test]
    fn a_tampered_token_differs() {
        for token in ["abc0", "abc1", "x", ""] {
            assert_ne!(Token::new(token).tampered(), Token::new(token));
        }
    }
}
