//! Every drained session is accounted for: what pods released is matched with what arrived, by keyed hash.
//!
//! Pure: reports are read into [`Accounts`], the clock is a parameter. Pods are read one after the other, and a client that
//! opens its new socket first arrives before it is released; so either may come first, in reading and in time.
//!
//! Nothing is decided on what has not been read yet: a session is missing only when every pod has been read up to the end of
//! its time (the *watermark*). That holds for a pod that answers late and for a restarted operator that reads rings anew.

mod followed;
mod tally;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use self::followed::{Arrival, Followed, Release, Settled};
use self::tally::{Natural, Tally};
use super::protocol::{EventsReport, MAX_EVENTS, ReleasedHow, SessionEvent, SessionEventKind};
use crate::api::status::Returned;

/// Most sessions that are followed at one time; above it a sample of them is. One costs 62 bytes (see `followed`).
pub const MAX_FOLLOWED: usize = 100_000;
/// A pod that has not been read for so long holds nobody's verdict up.
const STALE_MS: i64 = 45_000;
/// How far two pods' times may be apart: the time of an answer on its way.
const JITTER_MS: i64 = 2_000;
/// Nothing that a process remembers is older than a year; a time before time began cannot be reckoned with.
const MAX_AGO_MS: i64 = 366 * 24 * 3_600_000;
/// Sessions that are left out at one time: probes.
const MAX_IGNORED: usize = 4_096;

/// Matches releases and arrivals.
#[derive(Debug)]
pub struct Accounts {
    setting: Setting,
    sources: HashMap<String, Source>,
    next_source: u32,
    /// Revisions by index: items hold two bytes each.
    revisions: Vec<String>,
    /// Read, and not matched yet.
    round: Vec<Seen>,
    followed: Followed,
    tally: Tally,
    natural: Natural,
    ignored: Ignored,
    /// What was released before is history that an earlier operator has counted already.
    born_ms: i64,
    /// What happened to single sessions, for whoever keeps a trail of it.
    journal: Option<Vec<Happened>>,
}

/// What the accounts are kept for at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// The release whose moves are followed.
    pub release: Option<Following>,
    /// The revision whose users leave and come back by themselves.
    pub stable: String,
    /// How long a session is waited for.
    pub within: Duration,
}

/// A release whose moves are followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// How the ids of its waves' orders begin.
    pub orders: String,
    /// The revision that users come from.
    pub stable: String,
    /// The revision that users go to.
    pub canary: String,
    /// How the ids of orders begin that lead nowhere in particular, within it: a scale-down's.
    pub untargeted: Option<String>,
}

/// What reading a page means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// There is more: read on.
    More,
    /// That was all.
    Last,
    /// The process is another one: read again from the start.
    Anew,
}

/// What became of a moved session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came back to where it was moved, after so long.
    Back(Duration),
    /// It came back elsewhere, after so long.
    Stray(Duration),
    /// It did not come back in time.
    Missing,
    /// Its client had been silent; nobody waits for it.
    Dormant,
}

/// Something that happened to one session that the release moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Keyed hash of its identity.
    pub session: u64,
    /// What.
    pub what: Happening,
}

/// What happened to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It ended on a pod under an order.
    Released {
        /// UID of the pod.
        pod: String,
        /// The pod's revision.
        revision: String,
        /// Id of the order.
        order: String,
        /// How.
        how: Option<ReleasedHow>,
    },
    /// It came back.
    Returned {
        /// On which revision.
        revision: String,
        /// Milliseconds after its release; below zero where it came before it let go.
        after_ms: i64,
        /// Whether it found its state.
        resumed: Option<bool>,
        /// Whether that is another revision than the one it was moved to.
        stray: bool,
    },
    /// It did not come back in time.
    Missing,
}

/// A process whose events are read.
#[derive(Debug)]
struct Source {
    id: u32,
    instance: Option<String>,
    /// The number of the last event read.
    next: u64,
    /// Everything up to here has been read.
    read_up_to_ms: i64,
    /// When it was last read.
    read_at_ms: i64,
}

/// An event with its time.
#[derive(Debug)]
struct Seen {
    at_ms: i64,
    source: u32,
    session: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Arrived(Arrival),
    /// `None`: it ended here, and nobody waits for it.
    Released(Option<Release>),
    Dormant,
}

/// Hashes that are left out, the newest.
#[derive(Debug, Default)]
struct Ignored {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

// === impl Accounts ===

impl Accounts {
    /// Empty accounts of an operator that starts now.
    pub fn new(now: Timestamp) -> Self {
        Self::with_limit(now, MAX_FOLLOWED)
    }

    /// The same with another bound on the sessions that are followed at one time.
    pub fn with_limit(now: Timestamp, limit: usize) -> Self {
        Self {
            setting: Setting::default(),
            sources: HashMap::new(),
            next_source: 0,
            revisions: Vec::new(),
            round: Vec::new(),
            followed: Followed::new(limit),
            tally: Tally::new(),
            natural: Natural::default(),
            ignored: Ignored::default(),
            born_ms: now.as_millisecond(),
            journal: None,
        }
    }

    /// Whether to remember what happens to single sessions, until [`Accounts::take_journal`].
    pub fn keep_journal(&mut self, keep: bool) {
        self.journal = keep.then(|| self.journal.take().unwrap_or_default());
    }

    /// What happened to single sessions since the last time. What an earlier operator has seen is not in it.
    pub fn take_journal(&mut self) -> Vec<Happened> {
        self.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Says what the accounts are kept for. Another release begins a new account; `told` is what status says of it already:
    /// an operator that takes over goes on with the same sample.
    pub fn attend(&mut self, setting: Setting, told: Option<&Returned>) {
        let orders = |s: &Setting| s.release.as_ref().map(|r| r.orders.clone());
        if orders(&setting) != orders(&self.setting) {
            self.tally = Tally::new();
            self.followed.forget_moved();
            if setting.release.is_some() {
                let share = told.map_or(100.0, |t| t.sampled_percent);
                self.followed.begin_sample(share);
            }
        }
        self.setting = setting;
    }

    /// Leaves sessions out: probes are no users.
    pub fn ignore(&mut self, sessions: impl IntoIterator<Item = u64>) {
        for session in sessions {
            self.ignored.add(session);
        }
    }

    /// What to ask a pod for next, as `after`.
    pub fn cursor(&self, pod: &str) -> u64 {
        self.sources.get(pod).map_or(0, |s| s.next)
    }

    /// Whether moved sessions are waited for.
    pub fn is_waiting(&self) -> bool {
        self.followed.moved() > 0
    }

    /// Forgets pods that are gone: nothing more is to be read of them.
    pub fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.sources.retain(|pod, _| there(pod));
    }

    /// Reads a page of a pod's events that was asked for by [`Accounts::cursor`]. Events that were read before do not count
    /// again.
    pub fn read(&mut self, pod: &str, revision: &str, report: &EventsReport, now: Timestamp) -> Page {
        let now_ms = now.as_millisecond();
        let known = self.sources.get(pod);
        let restarted =
            known.is_some_and(|s| s.instance != report.instance || (report.next < s.next && s.next > 0));
        if restarted || known.is_none() {
            let asked = self.cursor(pod);
            let source = Source {
                id: self.next_source,
                instance: report.instance.clone(),
                next: 0,
                read_up_to_ms: i64::MIN,
                read_at_ms: now_ms,
            };
            self.next_source += 1;
            self.sources.insert(pod.to_owned(), source);
            if asked > 0 {
                return Page::Anew;
            }
        } else {
            // What a ring dropped before it was ever read is history; what it dropped since is lost.
            self.tally.lost = self.tally.lost.saturating_add(report.lost);
        }
        let revision = self.index_of(revision);
        for event in &report.events {
            self.note(pod, revision, event, now_ms);
        }
        let Some(source) = self.sources.get_mut(pod) else {
            return Page::Last;
        };
        source.next = source.next.max(report.next);
        source.read_at_ms = now_ms;
        if report.events.len() >= MAX_EVENTS {
            return Page::More;
        }
        source.read_up_to_ms = now_ms;
        Page::Last
    }

    fn note(&mut self, pod: &str, revision: u16, event: &SessionEvent, now_ms: i64) {
        let Some(source) = self.sources.get_mut(pod).filter(|s| event.n > s.next) else {
            return;
        };
        source.next = event.n;
        // A pod tells its events in order; answers on their way must not change that.
        let ago = i64::try_from(event.ago_ms).unwrap_or(MAX_AGO_MS).min(MAX_AGO_MS);
        let at_ms = now_ms.saturating_sub(ago).max(source.read_up_to_ms);
        source.read_up_to_ms = at_ms;
        let source = source.id;
        let Ok(session) = u64::from_str_radix(&event.session, 16) else {
            return;
        };
        if self.ignored.known.contains(&session) || !self.followed.takes(session) {
            return;
        }
        let what = match event.kind {
            SessionEventKind::Arrived => What::Arrived(Arrival {
                revision,
                resumed: event.resumed,
            }),
            SessionEventKind::Released => {
                self.journal_release(pod, revision, session, event, at_ms);
                self.released(revision, event)
            }
            SessionEventKind::Other => return,
        };
        self.round.push(Seen {
            at_ms,
            source,
            session,
            what,
        });
    }

    fn journal_release(&mut self, pod: &str, revision: u16, session: u64, event: &SessionEvent, at_ms: i64) {
        let (Some(journal), Some(release)) = (&mut self.journal, &self.setting.release) else {
            return;
        };
        let order = event.order.as_ref().filter(|id| id.starts_with(&release.orders));
        if let Some(order) = order.filter(|_| at_ms >= self.born_ms) {
            journal.push(Happened {
                at_ms,
                session,
                what: Happening::Released {
                    pod: pod.to_owned(),
                    revision: self.revisions[usize::from(revision)].clone(),
                    order: order.clone(),
                    how: event.how,
                },
            });
        }
    }

    fn journal_outcome(&mut self, settled: &Settled, outcome: Outcome) {
        let Some(journal) = &mut self.journal else { return };
        let what = match (outcome, settled.back) {
            (Outcome::Back(_) | Outcome::Stray(_), Some((arrival, after_ms))) => Happening::Returned {
                revision: self.revisions[usize::from(arrival.revision)].clone(),
                after_ms,
                resumed: arrival.resumed,
                stray: matches!(outcome, Outcome::Stray(_)),
            },
            (Outcome::Missing, _) => Happening::Missing,
            // Told by its release.
            _ => return,
        };
        let after_ms = settled.back.map_or(0, |(_, ms)| ms);
        journal.push(Happened {
            at_ms: settled.released_ms + after_ms,
            session: settled.session,
            what,
        });
    }

    fn released(&mut self, revision: u16, event: &SessionEvent) -> What {
        let left = matches!(event.how, Some(ReleasedHow::Left | ReleasedHow::Cut));
        let from = &self.revisions[usize::from(revision)];
        let Some(order) = &event.order else {
            return What::Released((left && *from == self.setting.stable).then_some(Release::Natural));
        };
        let Some(release) = &self.setting.release else {
            return What::Released(None);
        };
        if !order.starts_with(&release.orders) {
            return What::Released(None);
        }
        if event.how == Some(ReleasedHow::Dormant) {
            return What::Dormant;
        }
        let anywhere = release
            .untargeted
            .as_ref()
            .is_some_and(|id| order.starts_with(id));
        let back = *from == release.canary;
        let target = if back { &release.stable } else { &release.canary }.clone();
        let target = (!anywhere).then(|| self.index_of(&target));
        What::Released(Some(Release::Moved { target }))
    }

    /// Matches what was read, in the order in which it happened, and decides on those whose time is over.
    pub fn settle(&mut self, now: Timestamp) -> Vec<Outcome> {
        let within_ms = i64::try_from(self.setting.within.as_millis()).unwrap_or(i64::MAX);
        let mut seen = std::mem::take(&mut self.round);
        // Stable: a process' own events stay in their order.
        seen.sort_by_key(|s| s.at_ms);
        let mut settled = Vec::new();
        for Seen {
            at_ms,
            source,
            session,
            what,
        } in seen
        {
            match what {
                What::Arrived(arrival) => {
                    settled.extend(self.followed.arrived(session, source, at_ms, arrival, within_ms));
                }
                What::Released(release) => {
                    if let Some(Release::Moved { .. }) = release {
                        self.tally.moved(session);
                    }
                    settled.extend(self.followed.released(session, source, at_ms, release, within_ms));
                }
                What::Dormant => {
                    self.followed.released(session, source, at_ms, None, within_ms);
                    settled.push(Settled::dormant(session, at_ms));
                }
            }
        }
        let watermark = self.watermark(now.as_millisecond());
        settled.extend(self.followed.expire(watermark, within_ms));
        self.followed.fit(self.setting.release.is_some());
        self.natural.rotate(now.as_millisecond());
        settled.iter().filter_map(|s| self.count(s)).collect()
    }

    /// Counts what is decided. An outcome is news unless it is history to this process.
    fn count(&mut self, settled: &Settled) -> Option<Outcome> {
        let after = |ms: i64| Duration::from_millis(ms.max(0).unsigned_abs());
        let outcome = match settled.release {
            Some(Release::Natural) => {
                self.natural.count(settled.back.is_some());
                return None;
            }
            Some(Release::Moved { target }) => match settled.back {
                None => Outcome::Missing,
                Some((arrival, ms)) if target.is_none_or(|t| t == arrival.revision) => {
                    Outcome::Back(after(ms))
                }
                Some((_, ms)) => Outcome::Stray(after(ms)),
            },
            None => Outcome::Dormant,
        };
        let resumed = settled.back.and_then(|(arrival, _)| arrival.resumed);
        self.tally.settled(settled.session, outcome, resumed);
        let news = settled.released_ms >= self.born_ms;
        if news {
            self.journal_outcome(settled, outcome);
        }
        news.then_some(outcome)
    }

    /// Up to when all pods have been read.
    fn watermark(&self, now_ms: i64) -> i64 {
        let fresh = self
            .sources
            .values()
            .filter(|s| now_ms - s.read_at_ms <= STALE_MS);
        let read = fresh.map(|s| s.read_up_to_ms).min().unwrap_or(now_ms);
        read.min(now_ms).saturating_sub(JITTER_MS)
    }

    /// What became of the sessions that the release moved; `None` where no pod tells, or none is followed.
    pub fn returned(&self) -> Option<Returned> {
        if self.sources.is_empty() || self.setting.release.is_none() {
            return None;
        }
        let natural = self.natural.percent();
        Some(self.tally.returned(self.followed.level(), natural))
    }

    /// Share of the sessions that left stable by themselves and came back in time, in percent; `None` after too few.
    pub fn natural_percent(&self) -> Option<f64> {
        self.natural.percent()
    }

    /// Sessions that are followed at the moment: the memory that pods can make the accounts take.
    #[cfg(test)]
    pub(super) fn followed(&self) -> usize {
        self.followed.len()
    }

    fn index_of(&mut self, revision: &str) -> u16 {
        let found = self.revisions.iter().position(|r| r == revision);
        let index = found.unwrap_or_else(|| {
            self.revisions.push(revision.to_owned());
            self.revisions.len() - 1
        });
        // A process sees far fewer than 65,535 revisions of one rollout.
        u16::try_from(index).unwrap_or(u16::MAX - 1)
    }
}

/// What status said before a restart, and what is counted since: no count of a release goes backwards.
///
/// A restarted operator reads the pods' rings from their start and counts the same sessions again. Where a ring has dropped
/// its oldest, that count is lower than what was told; so of every count the greater one stands. A session that was told
/// missing and is found to have come back after all is no longer missing. While a smaller sample is followed than before, the
/// new counts stand as they are: they are of other sessions.
pub fn merged(counted: Returned, told: &Returned) -> Returned {
    if counted.sampled_percent < told.sampled_percent {
        return Returned {
            lost_events: counted.lost_events.max(told.lost_events),
            natural_percent: counted.natural_percent.or(told.natural_percent),
            ..counted
        };
    }
    let further = if counted.back >= told.back { &counted } else { told };
    let (p50_ms, p95_ms) = (further.p50_ms, further.p95_ms);
    let moved = counted.moved.max(told.moved);
    let back = counted.back.max(told.back);
    let strays = counted.strays.max(told.strays);
    let resumed = counted.resumed.max(told.resumed);
    Returned {
        moved,
        back,
        strays,
        on_target: counted.on_target.max(told.on_target).min(back - strays.min(back)),
        resumed,
        not_resumed: counted
            .not_resumed
            .max(told.not_resumed)
            .min(back - resumed.min(back)),
        missing: counted.missing.max(told.missing).min(moved.saturating_sub(back)),
        dormant: counted.dormant.max(told.dormant),
        p50_ms,
        p95_ms,
        natural_percent: counted.natural_percent.or(told.natural_percent),
        sampled_percent: counted.sampled_percent.min(told.sampled_percent),
        lost_events: counted.lost_events.max(told.lost_events),
    }
}

// === impl Ignored ===

impl Ignored {
    fn add(&mut self, session: u64) {
        if !self.known.insert(session) {
            return;
        }
        self.order.push_back(session);
        if self.order.len() > MAX_IGNORED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
