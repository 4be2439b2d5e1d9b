//! The same story from the audit trail, which has every event.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

use jiff::Timestamp;

use super::{
    Phase, ProbeCounts, ProbeEntry, RequestEntry, ScenarioEntry, Story, VERSION, VerdictEntry, WaveCounts,
    WaveEntry,
};
use crate::api::status::Returned;
use crate::engine::evidence::ProbeTarget;
use crate::report::audit::{AuditRecord, DrainCounts, Event};

/// What of a trail is a rollout's.
#[derive(Debug, Default)]
pub struct Read {
    /// The rollout's records, as they were written.
    pub records: Vec<AuditRecord>,
    /// Records that sinks dropped, by their own account. They may be of any rollout.
    pub lost: u64,
    /// Lines that are no records of a version that this program knows.
    pub skipped: u64,
    /// Namespaces in which a rollout of this name was found.
    pub namespaces: BTreeSet<String>,
}

// === impl Read ===

impl Read {
    /// Reads a trail: the records of the rollouts of this name, in one namespace or in any.
    pub fn of(lines: impl BufRead, rollout: &str, namespace: Option<&str>) -> std::io::Result<Self> {
        let mut read = Self::default();
        for line in lines.split(b'\n') {
            let line = line?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match serde_json::from_slice::<AuditRecord>(&line) {
                Ok(record) if record.v == VERSION => read.take(record, rollout, namespace),
                _ => read.skipped += 1,
            }
        }
        Ok(read)
    }

    fn take(&mut self, record: AuditRecord, rollout: &str, namespace: Option<&str>) {
        if let Event::Lost { records } = record.event {
            self.lost += records;
        }
        if record.rollout != rollout {
            return;
        }
        self.namespaces.insert(record.namespace.clone());
        if namespace.is_none_or(|wanted| wanted == record.namespace) {
            self.records.push(record);
        }
    }

    /// The last release in it.
    pub fn last(&self) -> Option<u64> {
        self.records.iter().filter_map(|r| r.release).max()
    }

    /// Leaves one release's records.
    pub fn keep(&mut self, release: u64) {
        self.records.retain(|r| r.release == Some(release));
    }
}

/// The story that the records of one release tell; `None` without any.
pub fn from_records(records: &[AuditRecord]) -> Option<Story> {
    let first = records.first()?;
    let mut reader = Reader {
        story: Story {
            v: VERSION,
            number: first.release.unwrap_or_default(),
            id: first.release_id.clone().unwrap_or_default(),
            begun: first.time,
            ..Story::default()
        },
        orders: BTreeMap::new(),
        returned: None,
    };
    for record in records {
        reader.read(record);
    }
    Some(reader.finish())
}

struct Reader {
    story: Story,
    /// The last total of each order is its sum, whatever was told twice.
    orders: BTreeMap<String, DrainCounts>,
    returned: Option<Returned>,
}

impl Reader {
    fn read(&mut self, record: &AuditRecord) {
        let story = &mut self.story;
        match &record.event {
            Event::ReleaseBegun {
                from,
                to,
                images,
                sessions,
                steps,
            } => {
                story.id = record.release_id.clone().unwrap_or_default();
                story.begun = record.time;
                (story.from, story.to) = (from.clone(), to.clone());
                (story.images, story.steps) = (images.clone(), steps.clone());
                story.sessions = *sessions;
            }
            Event::ReleaseEnded {
                outcome,
                sentence,
                unannounced,
                verdict_to_weights_ms,
                ..
            } => {
                story.ended = Some(record.time);
                story.outcome = Some(outcome.clone());
                story.message = sentence.clone().or_else(|| story.message.take());
                story.unannounced = *unannounced;
                story.verdict_to_weights_ms = *verdict_to_weights_ms;
            }
            Event::Phase {
                to, step, sentence, ..
            } => story.enter(Phase {
                phase: to.clone(),
                step: *step,
                since: record.time,
                sentence: sentence.clone(),
            }),
            Event::RollbackBegun { reason, sentence } => {
                story.reason = Some(reason.clone());
                story.message = Some(sentence.clone());
            }
            Event::Verdict {
                outcome,
                reason,
                sentence,
                step,
            } => {
                let last = story.verdicts.last();
                let again = last.filter(|v| (&v.result, &v.reason) == (outcome, reason));
                story.judge(VerdictEntry {
                    step: again.map_or(*step, |v| v.step),
                    result: outcome.clone(),
                    reason: reason.clone(),
                    sentence: sentence.clone(),
                    at: again.map_or(record.time, |v| v.at),
                });
            }
            Event::Request {
                verb,
                accepted,
                sentence,
                by,
            } => story.heed(RequestEntry {
                at: record.time,
                verb: verb.clone(),
                accepted: *accepted,
                sentence: sentence.clone(),
                by: by.clone(),
            }),
            Event::Scenario(data) => story.played(ScenarioEntry {
                run: data.run.clone(),
                scenario: data.scenario.clone(),
                outcome: data.outcome.clone(),
                sentence: data.sentence.clone(),
                sessions: data.sessions,
                mean_ms: data.mean_ms,
                limit_ms: data.limit_ms,
            }),
            _ => self.figures(record),
        }
    }

    fn figures(&mut self, record: &AuditRecord) {
        match &record.event {
            Event::WaveStarted {
                wave,
                reason,
                pods,
                sessions,
            } => {
                self.story.waves.push(WaveEntry {
                    id: wave.clone(),
                    reason: reason.clone(),
                    since: record.time,
                    done: false,
                    pods: *pods,
                    sessions: *sessions,
                    before: WaveCounts::default(),
                    counts: WaveCounts::default(),
                });
                self.story.bound_waves();
            }
            Event::WaveEnded { wave, total } => {
                if let Some(open) = self.story.waves.iter_mut().find(|w| w.id == *wave) {
                    open.done = true;
                    open.counts = signed(*total);
                }
            }
            Event::Progress { order, total, .. } => _ = self.orders.insert(order.clone(), *total),
            Event::Unannounced { sessions, .. } => {
                self.story.unannounced += i64::try_from(*sessions).unwrap_or_default();
            }
            Event::Probes(data) => {
                let run = ProbeCounts {
                    attempts: data.attempts,
                    restored: data.restored,
                    failed: data.failed,
                    state_lost: data.state_lost,
                    unannounced: data.unannounced,
                };
                let entry = self.probe(data.target, record.time);
                entry.run = entry.run.plus(run);
                entry.last_failure = data.failure.clone().or_else(|| entry.last_failure.take());
            }
            event => self.session(event),
        }
    }

    fn session(&mut self, event: &Event) {
        let counted = || Returned {
            sampled_percent: 100.0,
            ..Returned::default()
        };
        match event {
            Event::SessionReleased { how, .. } => {
                let returned = self.returned.get_or_insert_with(counted);
                if how == "dormant" {
                    returned.dormant += 1;
                } else {
                    returned.moved += 1;
                }
            }
            Event::SessionReturned { resumed, stray, .. } => {
                let returned = self.returned.get_or_insert_with(counted);
                returned.back += 1;
                returned.strays += i64::from(*stray);
                returned.on_target += i64::from(!*stray);
                returned.resumed += i64::from(*resumed == Some(true));
                returned.not_resumed += i64::from(*resumed == Some(false));
            }
            Event::SessionMissing { .. } => self.returned.get_or_insert_with(counted).missing += 1,
            _ => {}
        }
    }

    fn probe(&mut self, target: ProbeTarget, since: Timestamp) -> &mut ProbeEntry {
        let probes = &mut self.story.probes;
        let at = probes.iter().position(|p| p.target == target).unwrap_or_else(|| {
            probes.push(ProbeEntry {
                target,
                since,
                earlier: ProbeCounts::default(),
                run: ProbeCounts::default(),
                p50_ms: None,
                p95_ms: None,
                last_failure: None,
            });
            probes.len() - 1
        });
        &mut probes[at]
    }

    fn finish(self) -> Story {
        let Self {
            mut story,
            orders,
            returned,
        } = self;
        // Orders of waves: a rehearsal's are of probes.
        let waves = format!("{}-w", story.id);
        let mine = orders.iter().filter(|(id, _)| id.starts_with(&waves));
        story.drain = mine.fold(WaveCounts::default(), |sum, (_, total)| sum.plus(signed(*total)));
        story.returned = returned;
        story
    }
}

fn signed(counts: DrainCounts) -> WaveCounts {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    WaveCounts {
        notified: number(counts.notified),
        closed_clean: number(counts.closed_clean),
        closed_forced: number(counts.closed_forced),
    }
}
