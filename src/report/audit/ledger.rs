//! What was told of a rollout already. Pure: a round is shown to it, and it says what is news; the same round twice is none.
//!
//! It lives in the operator's memory. A restarted operator begins from the status as it was last written and from the orders that
//! pods say they follow. Of pods' counts it may tell again what was told after that status, two seconds' worth at most: totals are
//! in every line, and the last one of an order is its sum.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::changes;
use super::record::{
    AuditRecord, By, DrainCounts, Event, OrderData, PodData, ProbeData, ScenarioData, SeenAs, VERSION,
};
use super::scrub::Scrub;
use crate::api::RolloutStatus;
use crate::api::status::State;
use crate::drain::accounting::{Happened, Happening};
use crate::drain::protocol::{DrainProgress, ReleasedHow};
use crate::engine::evidence::{
    ProbeEvidence, ProbeFigures, ProbeTarget, RehearsalReport, RehearsalStage, ScenarioOutcome,
};
use crate::engine::plan::Order;

/// Rates that differ by less are the same.
const SAME_RATE: f64 = 0.000_5;

/// What was told of one rollout.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The status of the last round.
    told: Option<RolloutStatus>,
    /// Pods that are there, by UID.
    pods: HashMap<String, PodSeen>,
    /// Pods that the operator let go of, by UID.
    let_go: HashSet<String>,
    /// The order that a pod follows, by its UID.
    orders: HashMap<String, Terms>,
    /// Counts of the order that a pod follows, by its UID.
    drains: HashMap<String, (String, DrainCounts)>,
    /// Probes, with the beginning of their run.
    probes: HashMap<ProbeTarget, (Timestamp, ProbeFigures)>,
    /// Scenarios of the present rehearsal, and whether it ended.
    rehearsal: (String, HashSet<String>, bool),
}

/// What an order asks, as far as it can change.
#[derive(Clone, Debug, PartialEq)]
struct Terms {
    id: String,
    rate: f64,
    count: Option<u64>,
    mode: String,
}

/// A pod as a round sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// Name.
    pub name: String,
    /// Revision.
    pub revision: Option<String>,
    /// Open sessions; `None` is unknown.
    pub sessions: Option<u64>,
}

/// Sessions that ended with their process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// UID of the pod.
    pub uid: String,
    /// Its revision.
    pub revision: Option<String>,
    /// How many.
    pub sessions: u64,
    /// How it was noticed.
    pub seen: SeenAs,
}

/// One round of a rollout, as it is shown to the ledger.
#[derive(Debug)]
pub struct Round<'a> {
    /// Namespace of the rollout.
    pub namespace: &'a str,
    /// Name of the rollout.
    pub rollout: &'a str,
    /// The status as it was read.
    pub read: &'a RolloutStatus,
    /// The status as it became.
    pub status: &'a RolloutStatus,
    /// When.
    pub now: Timestamp,
    /// Pods that are there, by UID.
    pub pods: HashMap<String, PodSeen>,
    /// What pods say of the orders they follow, by UID.
    pub drains: Vec<(String, DrainProgress)>,
    /// Sessions that ended with their process, since the last round.
    pub cuts: Vec<Cut>,
    /// Sessions that came and went, since the last round.
    pub sessions: Vec<Happened>,
    /// What the probes saw.
    pub evidence: &'a [ProbeEvidence],
    /// The rehearsal.
    pub rehearsal: Option<&'a RehearsalReport>,
    /// Who wrote the request that the rollout carries.
    pub by: By,
    /// What must not be told.
    pub scrub: &'a Scrub,
}

/// Where a record belongs.
struct Head<'a> {
    namespace: &'a str,
    rollout: &'a str,
    release: Option<u64>,
    release_id: Option<String>,
    now: Timestamp,
}

// === impl Ledger ===

impl Ledger {
    /// What is news in a round, in its order.
    pub fn round(&mut self, round: Round<'_>) -> Vec<AuditRecord> {
        let first = self.told.is_none();
        let before = self.told.take().unwrap_or_else(|| round.read.clone());
        let head = Head::of(&round, round.status);
        let mut records = Vec::new();
        self.sessions(&round, &head, &mut records);
        self.drains(&round, &before, first, &head, &mut records);
        self.cuts(&round, &head, &mut records);
        self.probes(&round, &head, &mut records);
        self.rehearsal(&round, &head, &mut records);
        for event in changes::between(&before, round.status, &round.by, round.scrub, round.now) {
            records.push(Self::placed(&round, &before, event));
        }
        self.pods(&round, first, &head, &mut records);
        self.told = Some(round.status.clone());
        records
    }

    /// A pod took an order. `None` where nothing is new about it; `follows` says whether the pod said before that it follows it.
    pub fn ordered(&mut self, order: &Order, follows: bool) -> Option<Event> {
        let terms = Terms {
            id: order.id.clone(),
            rate: order.rate_per_second,
            count: order.count,
            mode: format!("{:?}", order.mode),
        };
        let data = OrderData {
            order: order.id.clone(),
            reason: order.reason.to_owned(),
            mode: terms.mode.clone(),
            rate_per_second: order.rate_per_second,
            count: order.count,
            deadline_ms: u64::try_from(order.deadline.as_millis()).unwrap_or(u64::MAX),
            close_at_deadline: order.close_at_deadline,
            close_code: order.close_code,
        };
        match self.orders.insert(order.uid.clone(), terms.clone()) {
            Some(known) if known.id == terms.id => {
                let same = (known.rate - terms.rate).abs() < SAME_RATE
                    && (known.count, &known.mode) == (terms.count, &terms.mode);
                (!same).then_some(Event::OrderChanged(data))
            }
            // An earlier operator gave it.
            None if follows => None,
            _ => Some(Event::OrderGiven(data)),
        }
    }

    /// An order was taken back. `None` where that was told.
    pub fn cancelled(&mut self, uid: &str, id: &str) -> Option<Event> {
        self.orders.remove(uid);
        // A pod that has nothing to take back is asked again in every round until it says so.
        let key = format!("{uid}/{id}");
        self.let_go
            .insert(key)
            .then(|| Event::OrderCancelled { order: id.to_owned() })
    }

    /// The operator lets go of a pod. False where that was told.
    pub fn let_go(&mut self, uid: &str) -> bool {
        self.let_go.insert(uid.to_owned())
    }

    /// The status of the last round that was shown.
    pub fn status(&self) -> Option<&RolloutStatus> {
        self.told.as_ref()
    }

    /// A status' event belongs to the release that was there before where that is over by it.
    fn placed(round: &Round<'_>, before: &RolloutStatus, event: Event) -> AuditRecord {
        let of_old = matches!(event, Event::ReleaseEnded { .. } | Event::WaveEnded { .. });
        let gone = round.status.release.is_none() && before.release.is_some();
        let status = if of_old || gone { before } else { round.status };
        let mut record = Head::of(round, status).record(event);
        record.revision = status.release.as_ref().map_or_else(
            || round.status.stable.clone(),
            |release| Some(release.canary.clone()),
        );
        if let Event::Phase { .. } = record.event {
            record.time = round.status.state.as_ref().map_or(round.now, State::since);
        }
        record
    }

    fn sessions(&mut self, round: &Round<'_>, head: &Head<'_>, records: &mut Vec<AuditRecord>) {
        for happened in &round.sessions {
            let session = format!("{:016x}", happened.session);
            let (event, uid, revision) = match &happened.what {
                Happening::Released {
                    pod,
                    revision,
                    order,
                    how,
                } => {
                    let event = Event::SessionReleased {
                        session,
                        order: order.clone(),
                        how: how_of(*how).to_owned(),
                    };
                    (event, Some(pod), Some(revision.clone()))
                }
                Happening::Returned {
                    revision,
                    after_ms,
                    resumed,
                    stray,
                } => {
                    let event = Event::SessionReturned {
                        session,
                        after_ms: u64::try_from(*after_ms).unwrap_or_default(),
                        resumed: *resumed,
                        stray: *stray,
                    };
                    (event, None, Some(revision.clone()))
                }
                Happening::Missing => (Event::SessionMissing { session }, None, None),
            };
            let seen = uid.and_then(|uid| round.pods.get(uid).or_else(|| self.pods.get(uid)));
            let mut record = head.pod(seen, event);
            record.revision = revision.or(record.revision);
            record.time = Timestamp::from_millisecond(happened.at_ms).unwrap_or(round.now);
            records.push(record);
        }
    }

    fn drains(
        &mut self,
        round: &Round<'_>,
        before: &RolloutStatus,
        first: bool,
        head: &Head<'_>,
        records: &mut Vec<AuditRecord>,
    ) {
        for (uid, progress) in &round.drains {
            let total = DrainCounts {
                notified: progress.notified.unwrap_or_default(),
                acknowledged: progress.acked,
                closed_clean: progress.closed_clean.unwrap_or_default(),
                closed_forced: progress.closed_forced.unwrap_or_default(),
            };
            let known = match self.drains.get(uid) {
                Some((id, counts)) if *id == progress.id => *counts,
                _ if first => written(before, uid, &progress.id).unwrap_or(total),
                _ => DrainCounts::default(),
            };
            let delta = total.since(known);
            self.drains.insert(uid.clone(), (progress.id.clone(), total));
            if !delta.is_nothing() {
                let event = Event::Progress {
                    order: progress.id.clone(),
                    delta,
                    total,
                };
                records.push(head.pod(round.pods.get(uid), event));
            }
        }
    }

    fn cuts(&mut self, round: &Round<'_>, head: &Head<'_>, records: &mut Vec<AuditRecord>) {
        for cut in &round.cuts {
            let event = Event::Unannounced {
                sessions: cut.sessions,
                seen: cut.seen,
            };
            let seen = round.pods.get(&cut.uid).or_else(|| self.pods.get(&cut.uid));
            let mut record = head.pod(seen, event);
            record.revision = cut.revision.clone().or(record.revision);
            records.push(record);
        }
    }

    fn probes(&mut self, round: &Round<'_>, head: &Head<'_>, records: &mut Vec<AuditRecord>) {
        for seen in round.evidence {
            // A run is known by its beginning: counts start anew with it.
            let known = self.probes.insert(seen.target, (seen.since, seen.total.clone()));
            let old = known
                .filter(|(since, _)| *since == seen.since)
                .map(|(_, figures)| figures)
                .unwrap_or_default();
            let now = &seen.total;
            let data = ProbeData {
                target: seen.target,
                attempts: now.attempts.saturating_sub(old.attempts),
                restored: now.restored.saturating_sub(old.restored),
                failed: now.failed.saturating_sub(old.failed),
                state_lost: now.state_lost.saturating_sub(old.state_lost),
                unannounced: now.unannounced.saturating_sub(old.unannounced),
                failure: None,
            };
            let harm = data.failed + data.state_lost + data.unannounced;
            if data.attempts + harm == 0 {
                continue;
            }
            let failure = seen.last_failure.as_deref().filter(|_| harm > 0);
            let revision = round.status.release.as_ref().map(|r| match seen.target {
                ProbeTarget::Stable => r.stable.clone(),
                ProbeTarget::Canary => r.canary.clone(),
            });
            let unannounced = data.unannounced;
            let mut tell = |event| {
                let mut record = head.record(event);
                record.revision = revision.clone().or_else(|| round.status.stable.clone());
                records.push(record);
            };
            tell(Event::Probes(ProbeData {
                failure: failure.map(|text| round.scrub.sentence(text)),
                ..data
            }));
            if unannounced > 0 {
                tell(Event::Unannounced {
                    sessions: unannounced,
                    seen: SeenAs::Probe,
                });
            }
        }
    }

    fn rehearsal(&mut self, round: &Round<'_>, head: &Head<'_>, records: &mut Vec<AuditRecord>) {
        let Some(report) = round.rehearsal else { return };
        if self.rehearsal.0 != report.run {
            self.rehearsal = (report.run.clone(), HashSet::new(), false);
        }
        let revision = round.status.release.as_ref().map(|r| r.canary.clone());
        let mut tell = |event| {
            let mut record = head.record(event);
            record.revision.clone_from(&revision);
            records.push(record);
        };
        for scenario in &report.scenarios {
            let Some(outcome) = &scenario.outcome else {
                continue;
            };
            let name = scenario.scenario.to_string();
            if !self.rehearsal.1.insert(name.clone()) {
                continue;
            }
            let (outcome, sentence) = outcome_of(outcome);
            tell(Event::Scenario(ScenarioData {
                run: report.run.clone(),
                scenario: name,
                outcome: outcome.to_owned(),
                sentence: round.scrub.sentence(sentence),
                sessions: scenario.sessions,
                attempts: scenario.figures.attempts,
                restored: scenario.figures.restored,
                mean_ms: scenario.mean_ms,
                limit_ms: scenario.limit_ms,
            }));
        }
        let (outcome, failure) = match &report.stage {
            RehearsalStage::Passed => ("Passed", None),
            RehearsalStage::Failed(failure) => ("Failed", Some(failure)),
            _ => return,
        };
        if !std::mem::replace(&mut self.rehearsal.2, true) {
            tell(Event::Rehearsal {
                run: report.run.clone(),
                outcome: outcome.to_owned(),
                check: failure.map(|f| f.check.clone()),
                sentence: failure.map(|f| round.scrub.sentence(&f.message)),
            });
        }
    }

    fn pods(&mut self, round: &Round<'_>, first: bool, head: &Head<'_>, records: &mut Vec<AuditRecord>) {
        let data = |uid: &str, seen: &PodSeen, expected| PodData {
            uid: uid.to_owned(),
            sessions: seen.sessions,
            expected,
        };
        let mut gone: Vec<_> = self
            .pods
            .iter()
            .filter(|(uid, _)| !round.pods.contains_key(*uid))
            .collect();
        gone.sort_by_key(|(_, seen)| seen.name.clone());
        for (uid, seen) in gone {
            let event = Event::PodGone(data(uid, seen, Some(self.let_go.contains(uid))));
            records.push(head.pod(Some(seen), event));
        }
        let mut new: Vec<_> = round
            .pods
            .iter()
            .filter(|(uid, _)| !self.pods.contains_key(*uid))
            .collect();
        new.sort_by_key(|(_, seen)| seen.name.clone());
        for (uid, seen) in new.into_iter().filter(|_| !first) {
            records.push(head.pod(Some(seen), Event::PodCreated(data(uid, seen, None))));
        }
        let mut pods = round.pods.clone();
        for (uid, seen) in &mut pods {
            // Who does not answer now had so many when it did.
            let before = self.pods.get(uid).and_then(|p| p.sessions);
            seen.sessions = seen.sessions.or(before);
        }
        let there = |key: &str| pods.contains_key(key.split('/').next().unwrap_or(key));
        self.let_go.retain(|key| there(key));
        self.orders.retain(|uid, _| there(uid));
        self.drains.retain(|uid, _| there(uid));
        self.pods = pods;
    }
}

/// `Passed`, `Failed` or `Skipped`, and its sentence.
pub(crate) fn outcome_of(outcome: &ScenarioOutcome) -> (&'static str, &str) {
    match outcome {
        ScenarioOutcome::Passed { message } => ("Passed", message),
        ScenarioOutcome::Failed(failure) => ("Failed", &failure.message),
        ScenarioOutcome::Skipped { reason } => ("Skipped", reason),
    }
}

/// What the status says that a pod did by an order.
fn written(status: &RolloutStatus, uid: &str, order: &str) -> Option<DrainCounts> {
    let wave = status.wave.as_ref().filter(|w| order.starts_with(&w.id))?;
    let pod = wave.pods.iter().find(|p| p.uid == uid)?;
    let positive = |n: i64| u64::try_from(n).unwrap_or_default();
    Some(DrainCounts {
        notified: positive(pod.notified),
        acknowledged: None,
        closed_clean: positive(pod.closed_clean),
        closed_forced: positive(pod.closed_forced),
    })
}

fn how_of(how: Option<ReleasedHow>) -> &'static str {
    match how {
        Some(ReleasedHow::Left) => "left",
        Some(ReleasedHow::Moved) => "moved",
        Some(ReleasedHow::Forced) => "forced",
        Some(ReleasedHow::Dormant) => "dormant",
        Some(ReleasedHow::Cut) => "cut",
        Some(ReleasedHow::Other) | None => "other",
    }
}

// === impl Head ===

impl<'a> Head<'a> {
    fn of(round: &Round<'a>, status: &RolloutStatus) -> Self {
        let release = status.release.as_ref();
        Self {
            namespace: round.namespace,
            rollout: round.rollout,
            release: release.map(|r| r.number),
            release_id: release.map(|r| r.id.clone()),
            now: round.now,
        }
    }

    fn record(&self, event: Event) -> AuditRecord {
        AuditRecord {
            v: VERSION,
            time: self.now,
            namespace: self.namespace.to_owned(),
            rollout: self.rollout.to_owned(),
            release: self.release,
            release_id: self.release_id.clone(),
            revision: None,
            pod: None,
            event,
        }
    }

    fn pod(&self, seen: Option<&PodSeen>, event: Event) -> AuditRecord {
        let mut record = self.record(event);
        record.revision = seen.and_then(|s| s.revision.clone());
        record.pod = seen.map(|s| s.name.clone());
        record
    }
}
