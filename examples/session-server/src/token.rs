//! Who is on the other end of a socket: signed session tokens.
//!
//! A token is `<user>.<tier>[.<permissions>[.<expires>]].<hex of HMAC-SHA256(key, what is before)>`. It is checked at every
//! connect, and a session belongs to the user who opened it. What matters to this example is that the check needs no
//! shared state, so that any pod can do it; real services put a key id in here as well.
//!
//! `permissions` are some of `say`, `set` and `state`, joined by `-`, or `none`; left out, all of them. `expires` is a
//! time in seconds since 1970, 0 for never; left out, never. An open socket outlives its token: the next connect does not.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Serialize, Serializer};
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
    /// What the bearer may do, carried over every move.
    pub permissions: Permissions,
    /// When the token ends, in seconds since 1970; none: never.
    pub expires: Option<u64>,
}

/// What a bearer may do with a session. As text: names joined by `-`, or `none`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Say something.
    pub say: bool,
    /// Set values.
    pub set: bool,
    /// Read the whole state.
    pub state: bool,
}

/// Where the time comes from that tokens are checked against.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Seconds since 1970 that a test sets.
    Manual(Arc<AtomicU64>),
}

/// Why a token, or the names for one, were refused. Never shows the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the documented form.
    #[error("the token is not of the form user.tier[.permissions[.expires]].signature")]
    Malformed,
    /// The signature is not ours.
    #[error("the token's signature does not fit")]
    BadSignature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
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

    /// Signs a token for `user` on `tier`, good for everything and for ever.
    pub fn sign(&self, user: &str, tier: &str) -> Result<String, TokenError> {
        self.signed(user, tier, format!("{user}.{tier}"))
    }

    /// Signs a token for all that `identity` says.
    pub fn sign_identity(&self, identity: &Identity) -> Result<String, TokenError> {
        let Identity {
            user,
            tier,
            permissions,
            expires,
        } = identity;
        let body = format!("{user}.{tier}.{permissions}.{}", expires.unwrap_or(0));
        self.signed(user, tier, body)
    }

    /// Checks a token at `now`, in seconds since 1970; the comparison takes the same time wherever it differs.
    pub fn verify(&self, token: &str, now: u64) -> Result<Identity, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let identity = parse(signed).ok_or(TokenError::Malformed)?;
        let signature = hex::decode(signature).map_err(|_| TokenError::Malformed)?;
        self.mac(signed)
            .verify_slice(&signature)
            .map_err(|_| TokenError::BadSignature)?;
        if identity.expires.is_some_and(|expires| expires <= now) {
            return Err(TokenError::Expired);
        }
        Ok(identity)
    }

    fn signed(&self, user: &str, tier: &str, body: String) -> Result<String, TokenError> {
        if !is_name(user) || !is_name(tier) {
            return Err(TokenError::BadName);
        }
        let signature = hex::encode(self.mac(&body).finalize().into_bytes());
        Ok(format!("{body}.{signature}"))
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

// === impl Permissions ===

impl Permissions {
    /// All of them.
    pub const ALL: Self = Self {
        say: true,
        set: true,
        state: true,
    };

    /// Their names, in the order of the text.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [(self.say, "say"), (self.set, "set"), (self.state, "state")]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join("-"))
    }
}

impl FromStr for Permissions {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut permissions = Self::default();
        if text == "none" {
            return Ok(permissions);
        }
        for name in text.split('-') {
            match name {
                "say" => permissions.say = true,
                "set" => permissions.set = true,
                "state" => permissions.state = true,
                _ => return Err(TokenError::Malformed),
            }
        }
        Ok(permissions)
    }
}

/// A list of names, as clients see them.
impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

// === impl Clock ===

impl Clock {
    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        match self {
            #[allow(
                clippy::disallowed_methods,
                reason = "this is the clock that the others are handed"
            )]
            Self::System => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            Self::Manual(seconds) => seconds.load(Ordering::Relaxed),
        }
    }
}

/// Reads what a token says, signature aside.
fn parse(body: &str) -> Option<Identity> {
    let parts: Vec<_> = body.split('.').collect();
    let (user, tier, permissions, expires) = match parts[..] {
        [user, tier] => (user, tier, Permissions::ALL, 0),
        [user, tier, permissions] => (user, tier, permissions.parse().ok()?, 0),
        [user, tier, permissions, expires] => (user, tier, permissions.parse().ok()?, expires.parse().ok()?),
        _ => return None,
    };
    (is_name(user) && is_name(tier)).then(|| Identity {
        user: user.to_owned(),
        tier: tier.to_owned(),
        permissions,
        expires: (expires > 0).then_some(expires),
    })
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

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_signed_token_names_its_bearer() {
        let key = SessionKey::new("k");
        let token = key.sign("load-7", "gold").unwrap();
        let everything = Identity {
            user: "load-7".into(),
            tier: "gold".into(),
            permissions: Permissions::ALL,
            expires: None,
        };
        assert_eq!(key.verify(&token, NOW).unwrap(), everything);
        let less = Identity {
            permissions: "say-state".parse().unwrap(),
            expires: Some(NOW + 1),
            ..everything
        };
        let token = key.sign_identity(&less).unwrap();
        assert!(token.starts_with("load-7.gold.say-state.1800000001."), "{token}");
        assert_eq!(key.verify(&token, NOW).unwrap(), less);
        assert_eq!(key.verify(&token, NOW + 1), Err(TokenError::Expired));
    }

    #[test]
    fn foreign_and_broken_tokens_are_refused() {
        let key = SessionKey::new("k");
        let token = key.sign("ann", "free").unwrap();
        assert_eq!(
            SessionKey::new("other").verify(&token, NOW),
            Err(TokenError::BadSignature)
        );
        for (from, to) in [("free", "gold"), (".free", ".free.say"), (".free", ".free.say.0")] {
            assert_eq!(
                key.verify(&token.replace(from, to), NOW),
                Err(TokenError::BadSignature)
            );
        }
        for broken in [
            "",
            "ann",
            "ann.free",
            "ann.free.",
            "ann.free.zz",
            "..00",
            "a b.free.00",
            "a.b.c.00",
            "a.b.say.soon.00",
            "a.b.say.0.0.00",
        ] {
            assert!(key.verify(broken, NOW).is_err(), "{broken:?} must not pass");
        }
        for malformed in ["ann.free.zz", "a.b.say.soon.00", "a.b.all.00"] {
            assert_eq!(key.verify(malformed, NOW), Err(TokenError::Malformed));
        }
    }

    #[test]
    fn names_that_could_confuse_the_token_are_not_signed() {
        let key = SessionKey::new("k");
        for name in ["", "a.b", "a b", &"x".repeat(65)] {
            assert_eq!(key.sign(name, "free"), Err(TokenError::BadName));
        }
    }

    #[test]
    fn permissions_are_read_as_they_are_written() {
        for text in ["none", "say", "set-state", "say-set-state"] {
            assert_eq!(text.parse::<Permissions>().unwrap().to_string(), text);
        }
        for bad in ["", "all", "say-", "Say"] {
            assert!(bad.parse::<Permissions>().is_err(), "{bad:?}");
        }
        let listed = serde_json::to_string(&Permissions::ALL).unwrap();
        assert_eq!(listed, r#"["say","set","state"]"#);
    }
}
