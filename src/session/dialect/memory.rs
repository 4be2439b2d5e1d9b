//! What a script saved: it outlives the sockets of its session, and nobody but templates and expressions reads it.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::api::script::{Names, Saved, Script};
use crate::session::token::Token;

/// A value that is longer is not kept: a message may have a mebibyte, and a fleet has thousands of sessions.
const MAX_VALUE: usize = 256 * 1024;
/// A resume that was refused so often in a row is given up, and the session opened anew.
const RESUMES: u8 = 2;

/// The memory of one session, shared with its sockets. They are all polled by one task, so that nobody ever waits for it.
#[derive(Clone)]
pub(in crate::session) struct Remembered(Arc<Mutex<Memory>>);

/// What a session knows.
#[derive(Clone)]
pub(in crate::session) struct Memory {
    pub(super) script: Arc<Script>,
    saved: Vec<(Box<str>, Value)>,
    token: Option<Token>,
    rng: SmallRng,
    /// The session's own name, for services where the client chooses it.
    name: Box<str>,
    nonce: Box<str>,
    place: u64,
    /// How often `exchange` was said.
    pub(super) said: u64,
    /// Whether a socket was welcomed before.
    pub(super) known: bool,
    /// Resumes in a row that were refused.
    refused: u8,
    state: Compared,
}

/// The state as it was read first, to be found again.
#[derive(Clone, Default)]
struct Compared {
    kept: Option<Value>,
    /// What was read instead; read twice, it is what there is from then on.
    other: Option<Value>,
    /// Reads that are still to say that the session was not found.
    lost: u8,
}

// === impl Remembered ===

impl Remembered {
    pub(in crate::session) fn new(script: Arc<Script>, token: Option<Token>, place: u64) -> Self {
        // No seed: the sessions of two fleets must not be taken for each other.
        let (own, seed): (u64, u64) = rand::random();
        Self(Arc::new(Mutex::new(Memory {
            script,
            saved: Vec::new(),
            token,
            name: format!("wsroll-{own:016x}").into(),
            rng: SmallRng::seed_from_u64(seed),
            nonce: "".into(),
            place,
            said: 0,
            known: false,
            refused: 0,
            state: Compared::default(),
        })))
    }

    /// A copy that somebody else speaks from: it knows all that this session knows, but for the token.
    pub(in crate::session) fn taken_by(&self, token: Option<Token>) -> Self {
        let mut memory = self.lock().clone();
        memory.token = token;
        Self(Arc::new(Mutex::new(memory)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remembered(…)")
    }
}

// === impl Memory ===

impl Memory {
    /// Begins a section: what is said in it has a nonce of its own.
    pub(super) fn new_nonce(&mut self) {
        self.nonce = format!("{:016x}", self.rng.random::<u64>()).into();
    }

    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Keeps what was taken from a message; null and what is too long forget what was there.
    pub(super) fn save(&mut self, taken: Saved) {
        for (name, value) in taken {
            self.saved.retain(|(known, _)| *known != name);
            if !value.is_null() && size(&value) <= MAX_VALUE {
                self.saved.push((name, value));
            }
        }
    }

    /// Whether there is something that could be resumed.
    pub(super) fn may_resume(&self) -> bool {
        let needs = &self.script.resume_needs;
        self.known
            && self.refused < RESUMES
            && !self.script.resume.is_empty()
            && needs.iter().all(|name| self.saved(name).is_some())
    }

    /// A resume was answered with something else, or with a close.
    pub(super) fn resume_refused(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// A socket is welcomed; whether the session was found. `resuming`: by what `resume` says.
    pub(super) fn welcomed(&mut self, resuming: bool) -> bool {
        let given_up = self.refused >= RESUMES;
        let found = if resuming {
            self.saved("resumed")
                .is_none_or(|value| *value != Value::Bool(false))
        } else {
            !(self.known && given_up)
        };
        self.known = true;
        self.refused = 0;
        if !found {
            // Said by the next two reads of the state: whoever asks looks again before he believes it.
            self.state.lost = 2;
        }
        found
    }

    /// Compares the state just read with the first one. Whether it is the same.
    pub(super) fn same_state(&mut self) -> bool {
        let found = self.saved("state").cloned();
        let compared = &mut self.state;
        if compared.lost > 0 {
            compared.lost -= 1;
            compared.kept = found;
            compared.other = None;
            return false;
        }
        let Some(kept) = &compared.kept else {
            compared.kept = found;
            return true;
        };
        if found.as_ref() == Some(kept) {
            compared.other = None;
            return true;
        }
        if compared.other.is_some() && compared.other == found {
            compared.kept = found;
            compared.other = None;
        } else {
            compared.other = found;
        }
        false
    }

    /// The session's id: the service's, or the one that it was given here.
    pub(super) fn session(&self) -> String {
        match self.saved("session") {
            Some(Value::String(id)) => id.clone(),
            Some(other) => other.to_string(),
            None => self.name.to_string(),
        }
    }

    /// A saved text; empty where there is none.
    pub(super) fn text(&self, name: &str) -> String {
        let value = self.saved(name).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    }

    fn saved(&self, name: &str) -> Option<&Value> {
        self.saved
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, value)| value)
    }
}

impl Names for Memory {
    fn value(&self, name: &str) -> Option<Cow<'_, Value>> {
        if let Some(saved) = self.saved(name) {
            return Some(Cow::Borrowed(saved));
        }
        Some(Cow::Owned(match name {
            "session" => Value::from(&*self.name),
            "nonce" => Value::from(&*self.nonce),
            "n" => Value::from(self.said),
            "place" => Value::from(self.place),
            "token" => Value::from(&*self.token.as_ref()?.reveal()),
            _ => return None,
        }))
    }
}

/// About how much a value takes.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(size).sum::<usize>() + 8 * list.len(),
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + size(value)).sum(),
    }
}
