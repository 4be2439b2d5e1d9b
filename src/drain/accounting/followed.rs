//! Sessions on their way: released and not back, or arrived and not yet known to have been released.
//!
//! An entry has 40 bytes; in the B-tree, whose nodes are about two thirds full, a session costs 62 bytes (measured): 6.2 MB for 100,000. They are
//! kept for `within` at most, and arrivals for seconds, so that 100,000 hold a release of far more sessions.

use std::collections::BTreeMap;

/// A client that opens its new socket first does so at most this long before it is released.
const OVERLAP_MS: i64 = 15_000;
/// Entries of one session at one time. Real ones have two or three; a pod that tells a million events of one session must not make
/// everybody else's matching slow.
const MAX_OF_ONE: usize = 16;
/// One of 65,536 sessions is the smallest sample.
const MAX_LEVEL: u32 = 16;

/// The memory of the accounts, bounded: above its limit one of 2^level sessions is followed, chosen by hash.
#[derive(Debug)]
pub(super) struct Followed {
    /// By session and order of reading.
    entries: BTreeMap<(u64, u32), Entry>,
    limit: usize,
    level: u32,
    next: u32,
    moved: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at_ms: i64,
    source: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Arrived(Arrival),
    Released(Release),
}

/// A session that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Where.
    pub(super) revision: u16,
    /// Whether it found its state.
    pub(super) resumed: Option<bool>,
}

/// A session that went, and is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// By itself.
    Natural,
    /// By an order.
    Moved {
        /// Where to; `None` is anywhere.
        target: Option<u16>,
    },
}

/// What became of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) session: u64,
    /// Why it went; `None`: it was dormant.
    pub(super) release: Option<Release>,
    pub(super) released_ms: i64,
    /// Where it came back to, and milliseconds after how long.
    pub(super) back: Option<(Arrival, i64)>,
}

// === impl Settled ===

impl Settled {
    pub(super) fn dormant(session: u64, released_ms: i64) -> Self {
        Self {
            session,
            release: None,
            released_ms,
            back: None,
        }
    }
}

// === impl Followed ===

impl Followed {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            limit,
            level: 0,
            next: 0,
            moved: 0,
        }
    }

    /// Moved sessions that are waited for.
    pub(super) fn moved(&self) -> usize {
        self.moved
    }

    /// One of 2^level sessions is followed.
    pub(super) fn level(&self) -> u32 {
        self.level
    }

    /// Whether a session is in the sample.
    pub(super) fn takes(&self, session: u64) -> bool {
        session.trailing_zeros() >= self.level
    }

    /// Starts with this share of the sessions, in percent.
    pub(super) fn begin_sample(&mut self, percent: f64) {
        let share = (percent / 100.0).clamp(0.000_01, 1.0);
        self.resample((-share.log2()).round() as u32);
    }

    /// Nobody is moved any more by the release that was followed.
    pub(super) fn forget_moved(&mut self) {
        self.entries
            .retain(|_, e| !matches!(e.state, State::Released(Release::Moved { .. })));
        self.moved = 0;
    }

    /// A session came: it is back if it was waited for.
    pub(super) fn arrived(
        &mut self,
        session: u64,
        source: u32,
        at_ms: i64,
        arrival: Arrival,
        within_ms: i64,
    ) -> Option<Settled> {
        let waited = self.of(session).find_map(|(key, entry)| match entry.state {
            State::Released(release) if is_return(entry.at_ms, at_ms, within_ms) => {
                Some((key, entry.at_ms, release))
            }
            _ => None,
        });
        let Some((key, released_ms, release)) = waited else {
            self.insert(session, source, at_ms, State::Arrived(arrival));
            return None;
        };
        self.remove(key);
        Some(Settled {
            session,
            release: Some(release),
            released_ms,
            back: Some((arrival, at_ms - released_ms)),
        })
    }

    /// A session went. Its own arrival here is over; one elsewhere, or here after it, is its return.
    pub(super) fn released(
        &mut self,
        session: u64,
        source: u32,
        at_ms: i64,
        release: Option<Release>,
        within_ms: i64,
    ) -> Option<Settled> {
        let own = self
            .of(session)
            .find(|(_, e)| e.source == source && matches!(e.state, State::Arrived(_)));
        if let Some((key, _)) = own {
            self.remove(key);
        }
        let release = release?;
        let there = self.of(session).find_map(|(key, entry)| match entry.state {
            State::Arrived(arrival) if is_return(at_ms, entry.at_ms, within_ms) => {
                Some((key, entry.at_ms, arrival))
            }
            _ => None,
        });
        let Some((key, arrived_ms, arrival)) = there else {
            self.insert(session, source, at_ms, State::Released(release));
            return None;
        };
        self.remove(key);
        Some(Settled {
            session,
            release: Some(release),
            released_ms: at_ms,
            back: Some((arrival, arrived_ms - at_ms)),
        })
    }

    /// Decides on those whose time is over, where everything up to `watermark` has been read.
    pub(super) fn expire(&mut self, watermark: i64, within_ms: i64) -> Vec<Settled> {
        let mut missing = Vec::new();
        let moved = &mut self.moved;
        self.entries.retain(|(session, _), entry| {
            let age = watermark.saturating_sub(entry.at_ms);
            match entry.state {
                State::Arrived(_) => age <= OVERLAP_MS,
                State::Released(_) if age <= within_ms => true,
                State::Released(release) => {
                    *moved -= usize::from(is_moved(release));
                    missing.push(Settled {
                        session: *session,
                        release: Some(release),
                        released_ms: entry.at_ms,
                        back: None,
                    });
                    false
                }
            }
        });
        missing
    }

    /// Keeps within the bound: halves the sample as often as it takes. Where no release is followed, a sample that became too
    /// small grows again.
    pub(super) fn fit(&mut self, release: bool) {
        while self.entries.len() > self.limit && self.level < MAX_LEVEL {
            self.resample(self.level + 1);
        }
        if !release && self.level > 0 && self.entries.len() < self.limit / 4 {
            self.level -= 1;
        }
    }

    fn resample(&mut self, level: u32) {
        self.level = level.min(MAX_LEVEL);
        let level = self.level;
        self.entries
            .retain(|(session, _), _| session.trailing_zeros() >= level);
        let moved = |e: &&Entry| matches!(e.state, State::Released(release) if is_moved(release));
        self.moved = self.entries.values().filter(moved).count();
    }

    /// A session's entries, oldest read first.
    fn of(&self, session: u64) -> impl Iterator<Item = ((u64, u32), Entry)> + '_ {
        let range = (session, 0)..=(session, u32::MAX);
        self.entries.range(range).map(|(key, entry)| (*key, *entry))
    }

    fn insert(&mut self, session: u64, source: u32, at_ms: i64, state: State) {
        // Hashes may be made up, so that no sample thins them out: of those there are one in 65,536 otherwise.
        let unthinned = session.trailing_zeros() >= MAX_LEVEL;
        if unthinned && self.entries.len() >= self.limit.saturating_mul(2) {
            return;
        }
        let oldest = self.of(session).next().map(|(key, _)| key);
        let full = self.of(session).nth(MAX_OF_ONE - 1).is_some();
        if let Some(oldest) = oldest.filter(|_| full) {
            self.remove(oldest);
        }
        self.moved += usize::from(matches!(state, State::Released(r) if is_moved(r)));
        let entry = Entry { at_ms, source, state };
        self.entries.insert((session, self.next), entry);
        self.next = self.next.wrapping_add(1);
    }

    fn remove(&mut self, key: (u64, u32)) {
        if let Some(entry) = self.entries.remove(&key) {
            self.moved -= usize::from(matches!(entry.state, State::Released(r) if is_moved(r)));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) const BYTES: usize = size_of::<((u64, u32), Entry)>();
}

fn is_moved(release: Release) -> bool {
    matches!(release, Release::Moved { .. })
}

/// Whether who went then and came then has come back.
fn is_return(released_ms: i64, arrived_ms: i64, within_ms: i64) -> bool {
    let after = arrived_ms - released_ms;
    (-OVERLAP_MS..=within_ms).contains(&after)
}
