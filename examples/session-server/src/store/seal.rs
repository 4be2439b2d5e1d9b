//! Sealing at rest: what a session holds is encrypted before it leaves the process.
//!
//! From each key of the configuration, every session derives keys of its own (HKDF-SHA256 over user and session): one for
//! AES-256-GCM, one for HMAC. So random nonces never get scarce, however many sessions and messages there are, and an
//! entry that is moved to another session or user cannot be opened there; user, session and the kind of entry are its
//! associated data as well. Names that the store has to find (message ids, names of values) stand there as keyed hashes.
//!
//! The first key seals, all keys open. A new key is first added *behind* the one in use on every pod, then moved to the
//! front; the old one goes when the last session that it sealed has expired.
//!
//! In the clear stays what the store decides by, and what the network sees anyway: user, session id, tier, permissions,
//! how many entries there are, how long and when. Not protected against: somebody who may write to the store can delete
//! entries, bring back older ones of the same session, or change their order.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, Prk, Salt},
    hmac,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// Bytes of a key.
const KEY: usize = 32;
/// Keys that may be open at once: rotations have two.
const MAX_KEYS: usize = 8;
/// First byte of everything sealed; JSON never begins with it.
const SEALED: u8 = 1;
/// Bytes by which an entry names the key that sealed it.
const KEY_ID: usize = 4;
/// Bytes of a keyed hash of a name.
const TAG: usize = 16;

/// The keys that seal what stands in a store. Without any it stands there as it is. Its `Debug` shows none.
#[derive(Clone, Default)]
pub struct StateKeys {
    keys: Arc<[Key]>,
    accept_unsealed: bool,
}

struct Key {
    id: [u8; KEY_ID],
    secret: Prk,
}

/// What an entry is; one kind cannot stand in for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A numbered reply.
    Reply,
    /// Something that was said.
    History,
    /// The id of a message that was applied.
    MessageId,
    /// A value, or its name.
    Value,
}

/// Seals and opens the entries of one session.
pub(super) struct Sealer<'k> {
    keys: &'k StateKeys,
    context: Vec<u8>,
}

/// Keys that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not one key.
    #[error(
        "there is no key in it: write 32 random bytes in base64, as `openssl rand -base64 32` prints them"
    )]
    None,
    /// A line that is no key; which, counted from 1.
    #[error("line {0} is not 32 bytes in base64, as `openssl rand -base64 32` prints them")]
    NotAKey(usize),
    /// More than a rotation needs.
    #[error("there are more than {MAX_KEYS} keys in it")]
    TooMany,
}

/// Why an entry was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Sealed by a key that is not there.
    #[error("it was sealed by a key that this server does not have")]
    UnknownKey,
    /// Changed, or moved from another session.
    #[error("it was changed, or it is not this session's")]
    Foreign,
    /// Not sealed, where everything has to be.
    #[error("it is not sealed, and STATE_ACCEPT_UNSEALED is not set")]
    Unsealed,
}

// === impl StateKeys ===

impl StateKeys {
    /// Reads keys: one a line, 32 bytes in base64 each; empty lines and those that begin with `#` do not count.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = BASE64_STANDARD.decode(line).ok();
            let bytes = bytes.filter(|bytes| bytes.len() == KEY);
            keys.push(Key::new(&bytes.ok_or(KeyError::NotAKey(number))?));
        }
        match keys.len() {
            0 => Err(KeyError::None),
            1..=MAX_KEYS => Ok(Self {
                keys: keys.into(),
                accept_unsealed: false,
            }),
            _ => Err(KeyError::TooMany),
        }
    }

    /// The same, which also opens what was never sealed: for the time after a key was introduced.
    #[must_use]
    pub fn accepting_unsealed(mut self, accept: bool) -> Self {
        self.accept_unsealed = accept;
        self
    }

    /// Whether anything is sealed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// For the entries of one session.
    pub(super) fn of(&self, user: &str, session: &str) -> Sealer<'_> {
        Sealer {
            keys: self,
            // Neither holds a zero byte, so that no two pairs look alike.
            context: [user.as_bytes(), session.as_bytes()].join(&0),
        }
    }
}

impl fmt::Debug for StateKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateKeys({})", self.keys.len())
    }
}

// === impl Key ===

impl Key {
    fn new(bytes: &[u8]) -> Self {
        let secret = Salt::new(HKDF_SHA256, b"session-server/v1").extract(bytes);
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&expand(&secret, &[b"id"])[..KEY_ID]);
        Self { id, secret }
    }
}

// === impl Sealer ===

impl Sealer<'_> {
    /// What is to stand in the store for `plain`.
    pub(super) fn seal(&self, kind: Kind, plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let Some(key) = self.keys.keys.first() else {
            return Ok(plain);
        };
        let mut body = plain;
        let nonce = self
            .cipher(key)?
            .seal_in_place_append_tag(Aad::from(self.associated(kind)), &mut body)
            .map_err(|_| SealError::Foreign)?;
        let mut sealed = Vec::with_capacity(1 + KEY_ID + NONCE_LEN + body.len());
        sealed.push(SEALED);
        sealed.extend_from_slice(&key.id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// What stood in the store, if it is this session's and nobody changed it.
    pub(super) fn open(&self, kind: Kind, stored: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let Some(sealed) = stored.strip_prefix(&[SEALED]) else {
            return if self.keys.is_empty() || self.keys.accept_unsealed {
                Ok(stored)
            } else {
                Err(SealError::Unsealed)
            };
        };
        let (id, sealed) = sealed.split_at_checked(KEY_ID).ok_or(SealError::Foreign)?;
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::Foreign)?;
        let mut outcome = Err(SealError::UnknownKey);
        // Ids are short: two keys may share one.
        for key in self.keys.keys.iter().filter(|key| key.id == id) {
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Foreign)?;
            let mut body = body.to_vec();
            let opened = self
                .cipher(key)?
                .open_in_place(nonce, Aad::from(self.associated(kind)), &mut body);
            match opened {
                Ok(plain) => return Ok(plain.to_vec()),
                Err(_) => outcome = Err(SealError::Foreign),
            }
        }
        outcome
    }

    /// What stands in the store for a name: first as it is written now, then as it may have been written before.
    pub(super) fn names(&self, kind: Kind, name: &str) -> Vec<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::with_capacity(2);
        for key in self.keys.keys.iter() {
            let secret = expand(&key.secret, &[b"name", &self.context]);
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let mut context = hmac::Context::with_key(&secret);
            context.update(kind.label());
            context.update(name.as_bytes());
            names.push(context.sign().as_ref()[..TAG].to_vec());
        }
        if self.keys.is_empty() || self.keys.accept_unsealed {
            names.push(name.as_bytes().to_vec());
        }
        names
    }

    fn cipher(&self, key: &Key) -> Result<RandomizedNonceKey, SealError> {
        let secret = expand(&key.secret, &[b"seal", &self.context]);
        RandomizedNonceKey::new(&AES_256_GCM, &secret).map_err(|_| SealError::Foreign)
    }

    fn associated(&self, kind: Kind) -> Vec<u8> {
        [kind.label(), &self.context].concat()
    }
}

// === impl Kind ===

impl Kind {
    /// Ends with a zero byte, so that nothing after it can be taken for a part of it.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Reply => b"reply\0",
            Self::History => b"history\0",
            Self::MessageId => b"id\0",
            Self::Value => b"value\0",
        }
    }
}

fn expand(secret: &Prk, info: &[&[u8]]) -> [u8; KEY] {
    let mut key = [0; KEY];
    let filled = secret
        .expand(info, HKDF_SHA256)
        .and_then(|output| output.fill(&mut key));
    if filled.is_err() {
        unreachable!("HKDF gives 32 bytes for every info")
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; KEY])
    }

    fn keys(bytes: &[u8]) -> StateKeys {
        let lines: Vec<_> = bytes.iter().map(|byte| line(*byte)).collect();
        StateKeys::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn an_entry_opens_only_where_it_was_sealed() {
        let keys = keys(&[1]);
        let ours = keys.of("ann", "s1");
        let sealed = ours.seal(Kind::Reply, b"hello".to_vec()).unwrap();
        assert!(!sealed.windows(5).any(|part| part == b"hello"));
        assert_eq!(ours.open(Kind::Reply, sealed.clone()).unwrap(), b"hello");
        for (user, session, kind) in [
            ("bob", "s1", Kind::Reply),
            ("ann", "s2", Kind::Reply),
            ("ann", "s1", Kind::History),
        ] {
            let opened = keys.of(user, session).open(kind, sealed.clone());
            assert_eq!(opened, Err(SealError::Foreign), "{user} {session} {kind:?}");
        }
        for at in [1, 8, 20, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(ours.open(Kind::Reply, changed).is_err(), "byte {at}");
        }
        for length in 1..sealed.len() {
            assert!(ours.open(Kind::Reply, sealed[..length].to_vec()).is_err());
        }
        assert_ne!(ours.seal(Kind::Reply, b"hello".to_vec()).unwrap(), sealed);
    }

    #[test]
    fn a_rotated_key_still_opens_and_finds() {
        let (before, during, after) = (keys(&[1]), keys(&[2, 1]), keys(&[2]));
        let old = before.of("ann", "s").seal(Kind::Value, b"dark".to_vec()).unwrap();
        let name = before.of("ann", "s").names(Kind::Value, "tools/k");
        assert_eq!(
            during.of("ann", "s").open(Kind::Value, old.clone()).unwrap(),
            b"dark"
        );
        assert_eq!(during.of("ann", "s").names(Kind::Value, "tools/k")[1], name[0]);
        let new = during.of("ann", "s").seal(Kind::Value, b"dark".to_vec()).unwrap();
        assert_eq!(after.of("ann", "s").open(Kind::Value, new).unwrap(), b"dark");
        assert_eq!(
            after.of("ann", "s").open(Kind::Value, old),
            Err(SealError::UnknownKey)
        );
    }

    #[test]
    fn what_is_not_sealed_is_refused_unless_that_is_allowed() {
        let plain = br#"{"id":"c-1"}"#.to_vec();
        let none = StateKeys::default();
        assert_eq!(
            none.of("ann", "s").seal(Kind::Reply, plain.clone()).unwrap(),
            plain
        );
        assert_eq!(none.of("ann", "s").names(Kind::MessageId, "c-1"), [b"c-1"]);
        let strict = keys(&[1]);
        assert_eq!(
            strict.of("ann", "s").open(Kind::Reply, plain.clone()),
            Err(SealError::Unsealed)
        );
        let sealed = strict.of("ann", "s").seal(Kind::Reply, plain.clone()).unwrap();
        assert_eq!(
            none.of("ann", "s").open(Kind::Reply, sealed),
            Err(SealError::UnknownKey)
        );
        let lenient = keys(&[1]).accepting_unsealed(true);
        assert_eq!(
            lenient.of("ann", "s").open(Kind::Reply, plain.clone()).unwrap(),
            plain
        );
        assert_eq!(lenient.of("ann", "s").names(Kind::MessageId, "c-1")[1], b"c-1");
    }

    #[test]
    fn keys_that_are_none_are_named_by_their_line() {
        let (good, short) = (line(1), BASE64_STANDARD.encode([1; 31]));
        assert!(StateKeys::parse(&format!("# ours\n{good}\n\n")).is_ok());
        assert_eq!(StateKeys::parse("\n# none\n").err(), Some(KeyError::None));
        assert_eq!(
            StateKeys::parse(&format!("{good}\n{short}")).err(),
            Some(KeyError::NotAKey(2))
        );
        assert_eq!(StateKeys::parse("secret").err(), Some(KeyError::NotAKey(1)));
        assert_eq!(
            StateKeys::parse(&vec![good; 9].join("\n")).err(),
            Some(KeyError::TooMany)
        );
        assert_eq!(format!("{:?}", keys(&[1, 2])), "StateKeys(2)");
    }
}
