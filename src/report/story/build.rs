//! A story from the statuses that its release went through.

use super::{
    MAX_BYTES, Phase, ProbeCounts, ProbeEntry, RELEASES, RequestEntry, ScenarioEntry, Stories, Story,
    VERSION, VerdictEntry, WaveCounts, WaveEntry,
};
use crate::api::RolloutStatus;
use crate::api::status::{Release, State};
use crate::engine::evidence::{ProbeEvidence, ProbeFigures, RehearsalReport};
use crate::report::audit::{By, Scrub};
use crate::report::audit::{outcome_of, reason_of};

/// Images, phases, verdicts, waves, scenarios and requests that are kept.
const IMAGES: usize = 8;
const PHASES: usize = 60;
const VERDICTS: usize = 12;
const WAVES: usize = 40;
const SCENARIOS: usize = 12;
const REQUESTS: usize = 12;
/// Longest text, bytes; and longest image.
const TEXT: usize = 400;
const IMAGE: usize = 256;

/// What a status does not say itself.
#[derive(Clone, Copy, Debug)]
pub struct Extras<'a> {
    /// What the probes saw.
    pub evidence: &'a [ProbeEvidence],
    /// The rehearsal.
    pub rehearsal: Option<&'a RehearsalReport>,
    /// Who wrote the request that the rollout carries.
    pub by: &'a By,
    /// What must not be told.
    pub scrub: &'a Scrub,
}

// === impl Stories ===

impl Stories {
    /// Goes on with what a status says. The same status again changes nothing.
    pub fn advance(&mut self, status: &RolloutStatus, extras: Extras<'_>) {
        if let Some(release) = &status.release {
            let known = self.0.iter().position(|s| s.number == release.number);
            let at = match known {
                // In preflight a newer template takes the number of the one that was waiting.
                Some(at) if self.0[at].id == release.id => at,
                Some(at) => {
                    self.0[at] = Story::begin(release);
                    at
                }
                None => {
                    self.0.insert(0, Story::begin(release));
                    0
                }
            };
            self.0[at].follow(status, release, extras);
        }
        let running = status.release.as_ref().map(|r| r.number);
        for story in &mut self.0 {
            if story.ended.is_none() && running != Some(story.number) {
                story.end(status, extras);
            }
        }
        self.0.sort_by_key(|story| std::cmp::Reverse(story.number));
        self.0.truncate(RELEASES);
    }
}

// === impl Story ===

impl Story {
    fn begin(release: &Release) -> Self {
        let images = release.images.iter().take(IMAGES);
        Self {
            v: VERSION,
            number: release.number,
            id: release.id.clone(),
            from: release.stable.clone(),
            to: release.canary.clone(),
            images: images.map(|image| short(image, IMAGE)).collect(),
            steps: release.steps.iter().map(|s| i32::from(s.weight)).collect(),
            begun: release.started_at,
            sessions: release.sessions,
            ..Self::default()
        }
    }

    fn follow(&mut self, status: &RolloutStatus, release: &Release, extras: Extras<'_>) {
        let text = |text: &str| short(&extras.scrub.sentence(text), TEXT);
        if let Some(state) = &status.state {
            self.enter(Phase {
                phase: state.phase().to_owned(),
                step: state.step().map(|step| step + 1),
                since: state.since(),
                sentence: reason_of(state).map(text),
            });
            if let State::RollingBack(back) = state {
                self.reason = Some(back.reason.clone());
                self.message = Some(text(&back.message));
            }
        }
        if let Some(verdict) = status.verdict.as_ref().filter(|v| v.at >= release.started_at) {
            self.judge(VerdictEntry {
                step: status.state.as_ref().and_then(State::step).map(|step| step + 1),
                result: verdict.result.clone(),
                reason: verdict.reason.clone(),
                sentence: text(&verdict.message),
                at: verdict.at,
            });
        }
        if let Some(request) = status
            .last_request
            .as_ref()
            .filter(|r| r.at >= release.started_at)
        {
            self.heed(RequestEntry {
                at: request.at,
                verb: request.verb.clone(),
                accepted: request.accepted,
                sentence: text(&request.message),
                by: extras.by.clone(),
            });
        }
        self.count(status);
        self.wave(status);
        for seen in extras.evidence.iter().filter(|e| e.since >= release.started_at) {
            self.probe(seen, extras.scrub);
        }
        if let Some(report) = extras.rehearsal.filter(|r| r.run.starts_with(&release.id)) {
            self.rehearse(report, extras.scrub);
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        // Phases follow each other in time: one that is not newer was seen already.
        match self.phases.last_mut() {
            Some(last) if last.phase == phase.phase && last.since == phase.since => *last = phase,
            Some(last) if last.since > phase.since => {}
            _ => self.phases.push(phase),
        }
        if self.phases.len() > PHASES {
            self.phases.remove(PHASES / 3);
            self.phases_omitted += 1;
        }
    }

    pub(super) fn judge(&mut self, verdict: VerdictEntry) {
        match self.verdicts.last_mut() {
            Some(last) if last.at == verdict.at && last.reason == verdict.reason => {
                last.sentence = verdict.sentence;
            }
            Some(last) if last.at > verdict.at => {}
            _ => self.verdicts.push(verdict),
        }
        if self.verdicts.len() > VERDICTS {
            self.verdicts.remove(0);
        }
    }

    pub(super) fn heed(&mut self, request: RequestEntry) {
        if self.requests.last().is_none_or(|last| last.at < request.at) {
            self.requests.push(request);
        }
        if self.requests.len() > REQUESTS {
            self.requests.remove(0);
        }
    }

    fn count(&mut self, status: &RolloutStatus) {
        if let Some(drain) = &status.drain {
            self.drain = WaveCounts {
                notified: self.drain.notified.max(drain.notified),
                closed_clean: self.drain.closed_clean.max(drain.closed_clean),
                closed_forced: self.drain.closed_forced.max(drain.closed_forced),
            };
            self.drain_ms = self.drain_ms.max(drain.active_ms);
            if drain.returned.is_some() {
                self.returned.clone_from(&drain.returned);
            }
        }
        self.unannounced = self.unannounced.max(status.unannounced.unwrap_or_default());
    }

    fn wave(&mut self, status: &RolloutStatus) {
        let id = status.wave.as_ref().map(|w| w.id.as_str());
        let begun = status.wave.as_ref().map(so_far).unwrap_or_default();
        if let Some(open) = self
            .waves
            .last_mut()
            .filter(|w| !w.done && Some(w.id.as_str()) != id)
        {
            // Waves follow each other: what was counted since it began is its own. Another may have begun already.
            if let Some(all) = all_of(status) {
                open.counts = all.minus(begun).minus(open.before).max(open.counts);
            }
            open.done = true;
        }
        let Some(wave) = &status.wave else { return };
        if let Some(known) = self.waves.last_mut().filter(|w| w.id == wave.id) {
            known.counts = known.counts.max(begun);
            return;
        }
        let reason: &'static str = wave.reason.into();
        self.waves.push(WaveEntry {
            id: wave.id.clone(),
            reason: reason.to_owned(),
            since: wave.since,
            done: false,
            pods: wave.pods.len() as u32,
            sessions: wave.pods.iter().filter_map(|p| p.count.or(p.sessions)).sum(),
            before: all_of(status).unwrap_or_default().minus(begun),
            counts: begun,
        });
        self.bound_waves();
    }

    pub(super) fn bound_waves(&mut self) {
        while self.waves.len() > WAVES {
            self.waves.remove(0);
            self.waves_omitted += 1;
        }
    }

    fn probe(&mut self, seen: &ProbeEvidence, scrub: &Scrub) {
        let run = counts_of(&seen.total);
        let failure = seen.last_failure.as_deref();
        let failure = failure.map(|text| short(&scrub.sentence(text), TEXT));
        let (p50_ms, p95_ms) = (seen.total.restored_p50_ms, seen.total.restored_p95_ms);
        let known = self.probes.iter_mut().find(|p| p.target == seen.target);
        let Some(entry) = known else {
            self.probes.push(ProbeEntry {
                target: seen.target,
                since: seen.since,
                earlier: ProbeCounts::default(),
                run,
                p50_ms,
                p95_ms,
                last_failure: failure,
            });
            self.probes.sort_by_key(|p| p.target);
            return;
        };
        if seen.since < entry.since {
            return;
        }
        if seen.since > entry.since {
            entry.earlier = entry.total();
            entry.since = seen.since;
        }
        entry.run = run;
        entry.p50_ms = p50_ms.or(entry.p50_ms);
        entry.p95_ms = p95_ms.or(entry.p95_ms);
        entry.last_failure = failure.or_else(|| entry.last_failure.take());
    }

    fn rehearse(&mut self, report: &RehearsalReport, scrub: &Scrub) {
        for scenario in &report.scenarios {
            let Some(outcome) = &scenario.outcome else {
                continue;
            };
            let (outcome, sentence) = outcome_of(outcome);
            self.played(ScenarioEntry {
                run: report.run.clone(),
                scenario: scenario.scenario.to_string(),
                outcome: outcome.to_owned(),
                sentence: short(&scrub.sentence(sentence), TEXT),
                sessions: scenario.sessions,
                mean_ms: scenario.mean_ms,
                limit_ms: scenario.limit_ms,
            });
        }
    }

    pub(super) fn played(&mut self, entry: ScenarioEntry) {
        // A rehearsal that began again plays its scenarios again: the last one counts.
        let known = self.scenarios.iter().position(|s| s.scenario == entry.scenario);
        match known {
            Some(at) => self.scenarios[at] = entry,
            None if self.scenarios.len() < SCENARIOS => self.scenarios.push(entry),
            None => {}
        }
    }

    /// The status knows the release no more.
    fn end(&mut self, status: &RolloutStatus, extras: Extras<'_>) {
        let past = status.history.iter().find(|p| p.number == self.number);
        if let Some(past) = past {
            let text = |text: &String| short(&extras.scrub.sentence(text), TEXT);
            self.ended = Some(past.ended_at);
            self.outcome = Some(past.result.clone());
            self.message = past.message.as_ref().map(text).or_else(|| self.message.take());
            self.verdict_to_weights_ms = past.verdict_to_weights_ms;
            self.drain_ms = self.drain_ms.max(past.drain_ms);
            let missed = past.moved - self.moved();
            self.drain.closed_clean += missed.max(0);
        } else {
            self.ended = status.state.as_ref().map(State::since);
            self.outcome = Some("Withdrawn".to_owned());
        }
        if status.release.is_none() {
            // The last counts stay in the status until the next release begins.
            self.count(status);
            if let Some(State::RolledBack(back)) = &status.state {
                self.reason = Some(back.reason.clone());
            }
        }
        if let Some(open) = self.waves.last_mut() {
            open.done = true;
        }
    }

    /// The story as JSON, at most [`MAX_BYTES`] long: the oldest details go first.
    pub fn to_bounded_json(&self) -> String {
        let mut story = self.clone();
        loop {
            let text = serde_json::to_string(&story).unwrap_or_default();
            if text.len() <= MAX_BYTES || !story.shrink() {
                return text;
            }
        }
    }

    /// Lets go of something; false where nothing is left.
    fn shrink(&mut self) -> bool {
        if self.waves.len() > 1 {
            self.waves.remove(0);
            self.waves_omitted += 1;
        } else if self.phases.len() > 2 {
            self.phases.remove(self.phases.len() / 3);
            self.phases_omitted += 1;
        } else if self.verdicts.len() > 1 {
            self.verdicts.remove(0);
        } else if self.requests.len() > 1 {
            self.requests.remove(0);
        } else {
            return self.scenarios.pop().is_some() || self.images.pop().is_some();
        }
        true
    }
}

// === impl WaveCounts ===

impl WaveCounts {
    #[must_use]
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            notified: self.notified + other.notified,
            closed_clean: self.closed_clean + other.closed_clean,
            closed_forced: self.closed_forced + other.closed_forced,
        }
    }

    #[must_use]
    fn minus(self, other: Self) -> Self {
        Self {
            notified: self.notified - other.notified,
            closed_clean: self.closed_clean - other.closed_clean,
            closed_forced: self.closed_forced - other.closed_forced,
        }
    }

    #[must_use]
    fn max(self, other: Self) -> Self {
        Self {
            notified: self.notified.max(other.notified),
            closed_clean: self.closed_clean.max(other.closed_clean),
            closed_forced: self.closed_forced.max(other.closed_forced),
        }
    }
}

/// What all waves of the release did.
fn all_of(status: &RolloutStatus) -> Option<WaveCounts> {
    status.drain.as_ref().map(|d| WaveCounts {
        notified: d.notified,
        closed_clean: d.closed_clean,
        closed_forced: d.closed_forced,
    })
}

/// What the pods of a wave did until now.
fn so_far(wave: &crate::api::status::Wave) -> WaveCounts {
    wave.pods.iter().fold(WaveCounts::default(), |sum, pod| {
        sum.plus(WaveCounts {
            notified: pod.notified,
            closed_clean: pod.closed_clean,
            closed_forced: pod.closed_forced,
        })
    })
}

/// What the wave of `before` did until it was over in `after`: the release's counts tell what came with the last poll.
pub fn wave_counts(before: &RolloutStatus, after: &RolloutStatus) -> WaveCounts {
    let Some(wave) = &before.wave else {
        return WaveCounts::default();
    };
    let known = so_far(wave);
    let begun = after.wave.as_ref().map(so_far).unwrap_or_default();
    match (all_of(before), all_of(after)) {
        // The next release counts from zero.
        (Some(old), Some(new)) => known.plus(new.minus(old).minus(begun).max(WaveCounts::default())),
        _ => known,
    }
}

pub(super) fn counts_of(figures: &ProbeFigures) -> ProbeCounts {
    ProbeCounts {
        attempts: figures.attempts,
        restored: figures.restored,
        failed: figures.failed,
        state_lost: figures.state_lost,
        unannounced: figures.unannounced,
    }
}

pub(super) fn short(text: &str, most: usize) -> String {
    crate::report::audit::cut(text.to_owned(), most)
}
