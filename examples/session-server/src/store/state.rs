//! One session's state and what messages do to it. Pure; Redis does the same in Lua and PostgreSQL in PL/pgSQL,
//! and one suite tests all three.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::{
    Change, HistoryEntry, MAX_HISTORY, MAX_IDS, MAX_OUTBOX, MAX_VALUES, Reply, Result, Section, Snapshot,
    StoreError, Write,
};
use crate::token::Permissions;

/// A session.
#[derive(Debug, Default)]
pub(super) struct SessionState {
    pub(super) user: String,
    pub(super) tier: String,
    pub(super) permissions: Permissions,
    pub(super) epoch: u64,
    pub(super) nonce: String,
    /// The server process that owns it.
    pub(super) instance: String,
    seq: u64,
    history: VecDeque<HistoryEntry>,
    outbox: VecDeque<Reply>,
    /// Ids applied and the numbers of their replies, oldest first.
    ids: VecDeque<(String, u64)>,
    values: BTreeMap<(Section, String), Value>,
}

// === impl SessionState ===

impl SessionState {
    /// A new session of `user`.
    pub(super) fn new(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            ..Self::default()
        }
    }

    /// The number of the newest reply.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Drops all content but not who owns the session.
    pub(super) fn wipe(&mut self) {
        let Self {
            seq,
            history,
            outbox,
            ids,
            values,
            user: _,
            tier: _,
            permissions: _,
            epoch: _,
            nonce: _,
            instance: _,
        } = self;
        *seq = 0;
        history.clear();
        outbox.clear();
        ids.clear();
        values.clear();
    }

    /// Replies after `last`, oldest first.
    pub(super) fn replay(&self, last: u64) -> Vec<Reply> {
        self.outbox
            .iter()
            .filter(|reply| reply.seq > last)
            .cloned()
            .collect()
    }

    /// Applies a message once and gives its reply.
    pub(super) fn apply(&mut self, write: &Write<'_>) -> Result<Reply> {
        let applied = self
            .ids
            .iter()
            .rev()
            .find(|(id, _)| id == write.id)
            .map(|(_, seq)| *seq);
        if let Some(seq) = applied {
            let kept = self.outbox.iter().find(|reply| reply.seq == seq);
            return Ok(kept.cloned().unwrap_or_else(|| write.reply_as(seq)));
        }
        if let Change::Set { section, key, value } = &write.change {
            let slot = (*section, (*key).to_owned());
            if self.values.len() >= MAX_VALUES && !self.values.contains_key(&slot) {
                return Err(StoreError::Full);
            }
            self.values.insert(slot, (*value).clone());
        }
        self.seq += 1;
        if let Change::Say(text) = write.change {
            let entry = HistoryEntry {
                seq: self.seq,
                id: write.id.to_owned(),
                text: text.to_owned(),
            };
            push_bounded(&mut self.history, entry, MAX_HISTORY);
        }
        while self.outbox.front().is_some_and(|reply| reply.seq <= write.ack) {
            self.outbox.pop_front();
        }
        let reply = write.reply_as(self.seq);
        push_bounded(&mut self.outbox, reply.clone(), MAX_OUTBOX);
        push_bounded(&mut self.ids, (write.id.to_owned(), self.seq), MAX_IDS);
        Ok(reply)
    }

    /// The state as clients see it.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            history: self.history.iter().cloned().collect(),
            tier: self.tier.clone(),
            permissions: self.permissions,
            ..Snapshot::default()
        };
        for ((section, key), value) in &self.values {
            snapshot.section_mut(*section).insert(key.clone(), value.clone());
        }
        snapshot
    }
}

// === impl Write ===

impl Write<'_> {
    /// The reply to this message under number `seq`.
    pub(super) fn reply_as(&self, seq: u64) -> Reply {
        Reply {
            seq,
            id: self.id.to_owned(),
            text: self.reply.to_owned(),
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, bound: usize) {
    queue.push_back(item);
    if queue.len() > bound {
        queue.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn say<'a>(id: &'a str, text: &'a str, ack: u64) -> Write<'a> {
        Write {
            id,
            ack,
            reply: text,
            change: Change::Say(text),
        }
    }

    fn set<'a>(id: &'a str, key: &'a str, value: &'a Value) -> Write<'a> {
        Write {
            id,
            ack: 0,
            reply: "ok",
            change: Change::Set {
                section: Section::Tools,
                key,
                value,
            },
        }
    }

    #[test]
    fn a_repeat_is_answered_with_the_first_number_and_applied_once() {
        let mut state = SessionState::default();
        let first = state.apply(&say("c-1", "hello", 0)).unwrap();
        state.apply(&say("c-2", "again", 0)).unwrap();
        assert_eq!(state.apply(&say("c-1", "hello", 0)).unwrap(), first);
        assert_eq!(state.snapshot().history.len(), 2);
        // Even when the client acknowledged the reply, so that it is no longer kept.
        state.apply(&say("c-3", "more", 2)).unwrap();
        assert_eq!(state.apply(&say("c-1", "hello", 0)).unwrap(), first);
    }

    #[test]
    fn acknowledged_replies_are_not_replayed_and_all_lists_are_bounded() {
        let mut state = SessionState::default();
        for n in 1..=1000 {
            state.apply(&say(&format!("c-{n}"), "x", 0)).unwrap();
        }
        assert_eq!(state.replay(0).len(), MAX_OUTBOX);
        assert_eq!(
            state
                .replay(998)
                .iter()
                .map(|reply| reply.seq)
                .collect::<Vec<_>>(),
            [999, 1000]
        );
        assert_eq!(state.snapshot().history.len(), MAX_HISTORY);
        assert_eq!(state.ids.len(), MAX_IDS);
        state.apply(&say("last", "x", 1000)).unwrap();
        assert_eq!(state.replay(0).len(), 1);
    }

    #[test]
    fn values_have_sections_and_a_bound() {
        let mut state = SessionState::default();
        let value = json!({"step": 3});
        for n in 0..MAX_VALUES {
            let (id, key) = (format!("s-{n}"), format!("k{n}"));
            state.apply(&set(&id, &key, &value)).unwrap();
        }
        assert!(matches!(
            state.apply(&set("one-more", "new", &value)),
            Err(StoreError::Full)
        ));
        state.apply(&set("overwrite", "k0", &value)).unwrap();
        assert_eq!(state.snapshot().tools["k0"], value);
        assert!(state.snapshot().context.is_empty());
    }
}
