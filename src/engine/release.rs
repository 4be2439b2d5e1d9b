//! How a release begins, is requested on, is superseded, and ends.

use super::observed::Observed;
use super::plan::Note;
use super::work::Work;
use crate::api::spec::Scenario;
use crate::api::status::{
    Baseline, PastRelease, PauseReason, Pins, Rejected, Release, Request, RequestResult, RolledBack, Since,
    State, Verb,
};

/// Images of a release that status lists.
const IMAGES: usize = 32;
/// Releases that status remembers.
const HISTORY: usize = 10;

impl Work<'_> {
    /// A rollout without status: the first one, or one whose resource was deleted and applied again over pods that still serve.
    pub(super) fn begin(&mut self) {
        self.status.observed_generation = Some(self.obs.rollout.generation);
        if self.status.state.is_some() {
            return;
        }
        if let Some(serving) = serving_revision(self.obs) {
            self.notes.push(Note::normal(
                "Adopted",
                format!("revision {serving} is serving already"),
            ));
            self.status.stable = Some(serving);
            self.enter(State::Healthy(Since { since: self.now }));
        } else {
            self.status.stable = Some(self.obs.template_hash.clone());
            self.enter(State::Initializing(Since { since: self.now }));
        }
    }

    /// Carries out what a person asked for, once, and says what came of it.
    pub(super) fn heed_request(&mut self) {
        let Some(request) = self.obs.request.clone() else {
            return;
        };
        if self
            .status
            .last_request
            .as_ref()
            .is_some_and(|last| last.nonce == request.nonce)
        {
            return;
        }
        let outcome = self.carry_out(&request);
        let (accepted, message) = match outcome {
            Ok(message) => (true, message),
            Err(message) => (false, message),
        };
        let verb = request.verb.to_string();
        self.notes.push(if accepted {
            Note::normal("Requested", format!("{verb}: {message}"))
        } else {
            Note::warning("RequestRefused", format!("{verb}: {message}"))
        });
        self.status.last_request = Some(RequestResult {
            nonce: request.nonce,
            verb,
            accepted,
            message,
            at: self.now,
        });
    }

    fn carry_out(&mut self, request: &Request) -> Result<String, String> {
        let state = self.state();
        let phase = state.phase();
        if let (Some(wanted), Some(release)) = (request.release, self.release())
            && wanted != release.number
        {
            return Err(format!(
                "the request is for release {wanted}, release {} is under way",
                release.number
            ));
        }
        match (request.verb, &state) {
            (Verb::Promote, State::Preflight(_)) if self.signal_is_asked() => {
                if let Some(release) = self.status.release.as_mut() {
                    release.signal_accepted = true;
                }
                Ok("the pods of the old revision are let go of by SIGTERM, one at a time".to_owned())
            }
            (Verb::Promote, State::Analysing(at)) => {
                let step = at.step;
                Ok(self.after_step(step, "promoted"))
            }
            (Verb::Promote | Verb::Resume, State::Paused(paused)) if paused.reason == PauseReason::Step => {
                let step = paused.step;
                Ok(self.after_step(step, "promoted"))
            }
            (Verb::Promote | Verb::Resume, State::Paused(paused)) => {
                let step = paused.step;
                self.enter(State::Surging(self.at(step)));
                Ok(format!("release goes on at step {}", step + 1))
            }
            (
                Verb::Pause,
                State::Surging(at) | State::Shifting(at) | State::Moving(at) | State::Analysing(at),
            ) if self.release().is_some_and(|r| r.rehearsed) => {
                self.pause(
                    at.step,
                    PauseReason::Requested,
                    format!("paused by request in {phase}"),
                );
                Ok(format!("release stands still at step {}", at.step + 1))
            }
            (Verb::Abort, State::RollingBack(_)) => Err("the release is going back already".to_owned()),
            (Verb::Abort, State::Initializing(_) | State::Healthy(_) | State::RolledBack(_)) => {
                Err(format!("no release is under way ({phase})"))
            }
            (Verb::Abort, _) if self.way_back_is_gone() => Err(format!(
                "the ReplicaSet of revision {} was deleted: there is nothing to go back to; release its template again",
                self.stable_hash()
            )),
            (Verb::Abort, _) => {
                self.roll_back("Aborted", "aborted by request".to_owned(), true);
                Ok("release goes back".to_owned())
            }
            (Verb::Retry, State::RolledBack(_) | State::Healthy(_)) if self.status.rejected.is_some() => {
                self.status.rejected = None;
                Ok("the rejected template will be tried again".to_owned())
            }
            (Verb::Retry, _) => Err("no template is rejected".to_owned()),
            (verb, _) => Err(format!("there is nothing to {verb} in phase {phase}")),
        }
    }

    /// A new template starts a release, or supersedes one; the old one's template ends it.
    pub(super) fn heed_template(&mut self) {
        let wanted = self.obs.template_hash.clone();
        match self.state() {
            // Its pods are still there with their sessions: it takes over again at once.
            State::Soaking(_)
                if self.is_leaving(&wanted) && self.release().is_some_and(|r| r.stable == wanted) =>
            {
                let message = format!("the template is that of revision {wanted} again");
                self.roll_back("Superseded", message, false);
            }
            State::Healthy(_) | State::RolledBack(_) | State::Soaking(_) => {
                let current = match self.release() {
                    Some(release) => release.canary.clone(),
                    None => self.stable_hash(),
                };
                let rejected = self.status.rejected.as_ref().filter(|r| r.hash == wanted);
                let rejected = rejected.map(|r| r.message.clone());
                if wanted == current {
                    if matches!(self.state(), State::RolledBack(_)) {
                        self.enter(State::Healthy(Since { since: self.now }));
                    }
                } else if let Some(message) = rejected {
                    if matches!(self.state(), State::Healthy(_)) {
                        self.enter(State::RolledBack(RolledBack {
                            since: self.now,
                            reason: "Rejected".to_owned(),
                            message,
                        }));
                    }
                } else {
                    // Whatever a scale-down has not moved yet stays.
                    self.drop_wave();
                    if matches!(self.state(), State::Soaking(_)) {
                        self.close_release("Completed", None);
                    }
                    self.start_release();
                }
            }
            State::Initializing(_) => self.status.stable = Some(wanted),
            State::Preflight(_) if self.release().is_some_and(|r| r.canary != wanted) => {
                // Nothing has moved yet: the newest template takes the place of the one that was waiting.
                if wanted == self.stable_hash() {
                    self.status.release = None;
                    self.status.weight = None;
                    self.enter(State::Healthy(Since { since: self.now }));
                } else {
                    self.start_release();
                }
            }
            // In Finishing everybody has moved: going back would move all of them again.
            State::RollingBack(_) | State::Preflight(_) | State::Finishing(_) => {}
            _ => {
                let Some(release) = self.release() else { return };
                if release.canary == wanted {
                    return;
                }
                let message = if release.stable == wanted {
                    format!("the template is that of revision {wanted} again")
                } else {
                    format!(
                        "a newer template, revision {wanted}, takes the place of {}",
                        release.canary
                    )
                };
                self.roll_back("Superseded", message, false);
            }
        }
    }

    fn start_release(&mut self) {
        let spec = &self.obs.rollout.spec;
        let stable = self.status.stable.clone().unwrap_or_default();
        let canary = self.obs.template_hash.clone();
        let number = match &self.status.release {
            Some(waiting) => waiting.number,
            None => self.status.releases + 1,
        };
        let stable_slot = self.serving_slot(&stable);
        let canary_slot = self
            .obs
            .rollout
            .slots()
            .iter()
            .copied()
            .find(|slot| **slot != *stable_slot)
            .map_or_else(String::new, str::to_owned);
        let entropy = &self.obs.entropy;
        let part = |from: usize, to: usize| entropy.get(from..to).unwrap_or("x").to_owned();
        self.status.releases = number;
        self.status.release = Some(Release {
            number,
            id: format!("r{number}{}", part(0, 4)),
            stable,
            canary: canary.clone(),
            images: self.obs.template_images.iter().take(IMAGES).cloned().collect(),
            started_at: self.now,
            stable_slot,
            canary_slot,
            steps: spec.steps.clone(),
            drain: spec.drain.clone(),
            via: None,
            signal_accepted: false,
            rollback: spec.rollback.clone(),
            thresholds: spec.thresholds.clone(),
            pins: Pins {
                probe_stable: part(4, 20),
                probe_canary: part(20, 36),
                probe_nobody: spec
                    .rehearsal
                    .scenarios
                    .contains(&Scenario::BackOff)
                    .then(|| part(48, 64)),
                hint: part(36, 48),
            },
            programming_ms: None,
            rehearsed: false,
            exposed: false,
            hinted: false,
            waves: 0,
            baseline: None,
            trial: None,
            conserved: None,
            sessions: self.stable().sessions() as i64,
        });
        self.status.drain = None;
        self.status.verdict = None;
        self.status.alerts = Vec::new();
        self.status.collateral = Vec::new();
        self.status.weight = None;
        self.status.unannounced = Some(0);
        self.status.rejected = None;
        self.notes.push(Note::normal(
            "ReleaseStarted",
            format!("release {number}: revision {canary}"),
        ));
        self.enter(State::Preflight(Since { since: self.now }));
    }

    /// The slot that carries users now: of those that select the revision, the one with the greatest weight.
    fn serving_slot(&self, stable: &str) -> String {
        let slots = self.obs.rollout.slots();
        slots
            .iter()
            .copied()
            .filter(|slot| {
                self.obs
                    .slots
                    .get(*slot)
                    .is_none_or(|revision| revision == stable)
            })
            .max_by_key(|slot| {
                let weight: i32 = self
                    .obs
                    .routes
                    .iter()
                    .flat_map(|r| &r.rules)
                    .filter_map(|rule| rule.get(*slot))
                    .sum();
                // The first of equals: `max_by_key` would take the last.
                (weight, std::cmp::Reverse(*slot))
            })
            .map_or_else(String::new, str::to_owned)
    }

    /// Writes the release into the history and forgets it.
    pub(super) fn close_release(&mut self, result: &str, message: Option<String>) {
        let Some(release) = self.status.release.take() else {
            return;
        };
        let drain = self.status.drain.clone().unwrap_or_default();
        let restored = match &self.status.state {
            Some(State::RollingBack(back)) => back
                .weights_restored_at
                .map(|at| at.duration_since(back.since).as_millis() as i64),
            _ => None,
        };
        self.status.history.insert(
            0,
            PastRelease {
                number: release.number,
                revision: release.canary,
                result: result.to_owned(),
                message,
                started_at: release.started_at,
                ended_at: self.now,
                moved: drain.closed_clean + drain.closed_forced,
                drain_ms: drain.active_ms,
                verdict_to_weights_ms: restored,
            },
        );
        self.status.history.truncate(HISTORY);
        self.status.alerts = Vec::new();
        self.status.wave = None;
    }

    /// The end of a rollback: the release is closed, the template remembered where it was rejected.
    pub(super) fn finish_rollback(&mut self, reason: String, message: String, reject: bool) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        self.status.stable = Some(release.stable.clone());
        if reject {
            self.status.rejected = Some(Rejected {
                hash: release.canary.clone(),
                images: release.images.clone(),
                message: message.clone(),
                at: self.now,
            });
            self.notes.push(Note::warning(
                "RolledBack",
                format!(
                    "revision {} is rejected ({message}); revision {} serves",
                    release.canary, release.stable
                ),
            ));
        }
        self.close_release(
            if reject { "RolledBack" } else { "Superseded" },
            Some(message.clone()),
        );
        self.status.weight = None;
        self.enter(if reject {
            State::RolledBack(RolledBack {
                since: self.now,
                reason,
                message,
            })
        } else {
            State::Healthy(Since { since: self.now })
        });
    }

    /// What the rehearsal and the control group tell about reconnect times. What was forced on stable just before comes before what
    /// the new revision itself took in the hand-over.
    pub(super) fn note_baseline(&mut self, p50: Option<u64>, p95: Option<u64>) {
        let forced = self.obs.rehearsal.as_ref().map(|r| &r.stable);
        let forced = forced.and_then(|f| Some((f.restored_p50_ms?, f.restored_p95_ms?)));
        let (p50, p95) = forced.map_or((p50, p95), |(p50, p95)| (Some(p50), Some(p95)));
        if let (Some(p50_ms), Some(p95_ms), Some(release)) = (p50, p95, self.status.release.as_mut()) {
            let old = release.baseline.unwrap_or(Baseline { p50_ms: 0, p95_ms: 0 });
            release.baseline = Some(Baseline {
                p50_ms: old.p50_ms.max(p50_ms),
                p95_ms: old.p95_ms.max(p95_ms),
            });
        }
    }
}

/// The revision that serves users though no status says so: behind the slot with the greatest weight, else the one with most ready pods.
fn serving_revision(obs: &Observed) -> Option<String> {
    let weight_of = |hash: &str| -> i32 {
        obs.slots
            .iter()
            .filter(|(_, revision)| *revision == hash)
            .flat_map(|(slot, _)| {
                obs.routes
                    .iter()
                    .flat_map(|r| &r.rules)
                    .filter_map(|rule| rule.get(slot).copied())
            })
            .sum()
    };
    obs.revisions
        .iter()
        .filter(|(_, view)| view.replicas > 0)
        .max_by_key(|(hash, view)| (view.ready().min(1), weight_of(hash), view.ready()))
        .map(|(hash, _)| hash.clone())
}
