//! The bearer token of a session, kept out of logs.

use std::fmt;

/// A bearer token. `Debug` hides it, and no error of this room holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// Wraps a token as given.
    pub fn new(token: impl Into<Box<str>>) -> Self {
        Self(token.into())
    }

    /// The token itself, to be sent and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The same token with one character in its middle changed: what a forger would send. Not the last one, which in
    /// base64 may hold bits that nobody reads.
    #[must_use]
    pub fn tampered(&self) -> Self {
        let mut changed: Vec<char> = self.0.chars().collect();
        let middle = changed.len() / 2;
        match changed.get_mut(middle) {
            Some(place) => *place = if *place == '0' { '1' } else { '0' },
            None => changed.push('0'),
        }
        Self(changed.into_iter().collect::<String>().into())
    }
}

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
