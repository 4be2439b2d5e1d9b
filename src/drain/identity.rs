//! Identities that pods may tell each other about: keyed hashes, so that nobody learns a session's name from an answer.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Bytes of the hash that are told: enough to keep 100,000 sessions apart, too few to be worth guessing.
const BYTES: usize = 8;

/// The key with which a rollout's pods hash identities. All its revisions share it. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityKey(Vec<u8>);

// === impl IdentityKey ===

impl IdentityKey {
    /// Takes the key as it stands in the Secret; white space at the ends does not count.
    pub fn new(text: &str) -> Self {
        Self(text.trim().as_bytes().to_vec())
    }
}

impl std::fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityKey(redacted)")
    }
}

/// `HMAC-SHA256(key, "session:" + identity)`, its first 8 bytes as 16 lower-case hexadecimal digits.
pub fn hash(key: &IdentityKey, identity: &str) -> String {
    hex::encode(&mac(key, "session:", identity)[..BYTES])
}

/// The whole MAC of a text in a domain of its own: a value of one purpose is never valid for another.
pub fn mac(key: &IdentityKey, domain: &str, text: &str) -> [u8; 32] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.0) else {
        return [0; 32];
    };
    mac.update(domain.as_bytes());
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_identity_has_the_same_hash_on_every_pod_and_another_under_another_key() {
        let key = IdentityKey::new("k1\n");
        assert_eq!(hash(&key, "alice"), hash(&IdentityKey::new("k1"), "alice"));
        assert_ne!(hash(&key, "alice"), hash(&key, "alicf"));
        assert_ne!(hash(&key, "alice"), hash(&IdentityKey::new("k2"), "alice"));
        // Fixed: implementations in other languages are checked against this value.
        assert_eq!(hash(&IdentityKey::new("key"), "alice"), "74aae192643f597a");
    }
}
