//! Entries of sessions as they stand in stores: small JSON texts, sealed where there is a key.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Change, HistoryEntry, Lease, Reply, Result, Section, Snapshot, StateKeys, StoreError, Write,
    seal::{Kind, Sealer},
};

/// One message, ready for a store.
pub(super) struct Entries {
    /// The message's id: as it is written, then as it may have been written before.
    pub(super) ids: Vec<Vec<u8>>,
    /// Its reply.
    pub(super) reply: Vec<u8>,
    /// What it adds to the history.
    pub(super) history: Option<Vec<u8>>,
    /// The value that it sets: names like the ids, and the value.
    pub(super) value: Option<(Vec<Vec<u8>>, Vec<u8>)>,
}

/// A reply or a part of the history; its number stands beside it.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    id: Cow<'a, str>,
    text: Cow<'a, str>,
}

/// A value with its name.
type Named<'a> = (Section, Cow<'a, str>, Cow<'a, Value>);

impl Entries {
    /// The entries that a message makes.
    pub(super) fn new(keys: &StateKeys, lease: &Lease, write: &Write<'_>) -> Result<Self> {
        let sealer = keys.of(&lease.user, &lease.session);
        let text = |kind, text: &str| {
            let id = write.id.into();
            seal(
                &sealer,
                kind,
                &Text {
                    id,
                    text: text.into(),
                },
            )
        };
        let (history, value) = match &write.change {
            Change::Say(said) => (Some(text(Kind::History, said)?), None),
            Change::Set { section, key, value } => {
                let name = format!("{}/{key}", section.as_str());
                let named: Named<'_> = (*section, (*key).into(), Cow::Borrowed(*value));
                let entry = seal(&sealer, Kind::Value, &named)?;
                (None, Some((sealer.names(Kind::Value, &name), entry)))
            }
        };
        Ok(Self {
            ids: sealer.names(Kind::MessageId, write.id),
            reply: text(Kind::Reply, write.reply)?,
            history,
            value,
        })
    }
}

/// Reads a reply.
pub(super) fn reply(sealer: &Sealer<'_>, seq: u64, stored: Vec<u8>) -> Result<Reply> {
    let (id, text) = open_text(sealer, Kind::Reply, stored)?;
    Ok(Reply { seq, id, text })
}

/// Reads a part of the history.
pub(super) fn history(sealer: &Sealer<'_>, seq: u64, stored: Vec<u8>) -> Result<HistoryEntry> {
    let (id, text) = open_text(sealer, Kind::History, stored)?;
    Ok(HistoryEntry { seq, id, text })
}

/// Reads a value into its place.
pub(super) fn value(sealer: &Sealer<'_>, stored: Vec<u8>, into: &mut Snapshot) -> Result<()> {
    let plain = sealer.open(Kind::Value, stored).map_err(StoreError::Unreadable)?;
    let (section, key, value): Named<'_> = serde_json::from_slice(&plain).map_err(odd)?;
    into.section_mut(section)
        .insert(key.into_owned(), value.into_owned());
    Ok(())
}

/// What the store holds is not what this program writes.
pub(super) fn odd(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}

fn open_text(sealer: &Sealer<'_>, kind: Kind, stored: Vec<u8>) -> Result<(String, String)> {
    let plain = sealer.open(kind, stored).map_err(StoreError::Unreadable)?;
    let Text { id, text } = serde_json::from_slice(&plain).map_err(odd)?;
    Ok((id.into_owned(), text.into_owned()))
}

fn seal(sealer: &Sealer<'_>, kind: Kind, entry: &impl Serialize) -> Result<Vec<u8>> {
    let plain = serde_json::to_vec(entry).map_err(odd)?;
    sealer.seal(kind, plain).map_err(StoreError::Unreadable)
}
