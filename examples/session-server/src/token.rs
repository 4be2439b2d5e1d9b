//! Who is on the other end of a socket: signed session tokens.
//!
//! A token is `<user>.<tier>.<hex of HMAC-SHA256(key, "user.tier")>`. It is checked at every connect, and a session
//! belongs to the user who opened it. Real services put an expiry and a key id in here as well; what matters to this
//! example is that the check needs no shared state, so that any pod can do it.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Longest user or tier name, in bytes.
const MAX_NAME: usize = 64;

/// The key that signs tokens. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct SessionKey(Vec<u8>);

/// What a valid token says about its bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user; sessions belong to users.
    pub user: String,
    /// The user's service tier, carried over every move.
    pub tier: String,
}

/// Why a token, or the names for one, were refused. Never shows the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form `user.tier.signature`.
    #[error("the token is not of the form user.tier.signature")]
    Malformed,
    /// The signature is not ours.
    #[error("the token's signature does not fit")]
    BadSignature,
    /// A name with characters that tokens cannot carry.
    #[error("user and tier must be 1 to 64 letters, digits, '-' or '_'")]
    BadName,
}

// === impl SessionKey ===

impl SessionKey {
    /// A key from raw bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Signs a token for `user` on `tier`.
    pub fn sign(&self, user: &str, tier: &str) -> Result<String, TokenError> {
        if !is_name(user) || !is_name(tier) {
            return Err(TokenError::BadName);
        }
        let signed = format!("{user}.{tier}");
        let signature = hex::encode(self.mac(&signed).finalize().into_bytes());
        Ok(format!("{signed}.{signature}"))
    }

    /// Checks a token; the comparison takes the same time wherever it differs.
    pub fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (user, tier) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if !is_name(user) || !is_name(tier) {
            return Err(TokenError::Malformed);
        }
        let signature = hex::decode(signature).map_err(|_| TokenError::Malformed)?;
        self.mac(signed)
            .verify_slice(&signature)
            .map_err(|_| TokenError::BadSignature)?;
        Ok(Identity {
            user: user.to_owned(),
            tier: tier.to_owned(),
        })
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        // HMAC takes keys of any length: short ones are padded, long ones hashed.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            unreachable!("hmac accepts every key length")
        };
        mac.update(signed.as_bytes());
        mac
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_token_names_its_bearer() {
        let key = SessionKey::new("k");
        let token = key.sign("load-7", "gold").unwrap();
        assert_eq!(
            key.verify(&token).unwrap(),
            Identity {
                user: "load-7".into(),
                tier: "gold".into()
            }
        );
    }

    #[test]
    fn foreign_and_broken_tokens_are_refused() {
        let key = SessionKey::new("k");
        let token = key.sign("ann", "free").unwrap();
        assert_eq!(
            SessionKey::new("other").verify(&token),
            Err(TokenError::BadSignature)
        );
        assert_eq!(
            key.verify(&token.replace("free", "gold")),
            Err(TokenError::BadSignature)
        );
        for broken in [
            "",
            "ann",
            "ann.free",
            "ann.free.",
            "ann.free.zz",
            "..00",
            "a b.free.00",
            "a.b.c.00",
        ] {
            assert!(key.verify(broken).is_err(), "{broken:?} must not pass");
        }
        assert_eq!(key.verify("ann.free.zz"), Err(TokenError::Malformed));
    }

    #[test]
    fn names_that_could_confuse_the_token_are_not_signed() {
        let key = SessionKey::new("k");
        for name in ["", "a.b", "a b", &"x".repeat(65)] {
            assert_eq!(key.sign(name, "free"), Err(TokenError::BadName));
        }
    }
}
