//! The evidence of a part of a release: what counts, what it says, and what people are told.

use std::time::Duration;

use crate::api::spec::Thresholds;
use crate::api::status::{Alert, Conserved, Passed, Release, Trial, WaveReason};
use crate::engine::evidence::{ProbeTarget, RECENT};
use crate::engine::observed::SessionsView;
use crate::engine::plan::Note;
use crate::engine::verdict::{self, Breach, Evidence, Found, Outcome, Part};
use crate::engine::work::Work;

/// An alert that was not found for so long is over: at a bar it would come and go otherwise.
const OVER: Duration = Duration::from_secs(60);
/// Alerts that status holds.
const ALERTS: usize = 16;

impl Work<'_> {
    /// Takes over what the probes have counted, into the epoch that it belongs to.
    pub(super) fn sample(&mut self) {
        let Some(release) = self.release().cloned() else {
            return;
        };
        let limits = &release.thresholds.reconnect_success;
        if let Some(stable) = self.obs.evidence_of(ProbeTarget::Stable)
            && stable.window.attempts >= u64::from(limits.min_samples)
        {
            self.note_baseline(stable.window.restored_p50_ms, stable.window.restored_p95_ms);
        }
        let before = release.trial.as_ref();
        let same = before.map_or(
            Part {
                step: 0,
                settled: false,
            },
            |trial| Part {
                step: trial.step,
                settled: trial.settled,
            },
        );
        let part = Part::of(&self.state(), release.steps.len() as u32).unwrap_or(same);
        let mut trial = verdict::begin(before, part, self.now);
        let aside = self.easing();
        for evidence in &self.obs.evidence {
            let tally = match evidence.target {
                ProbeTarget::Canary => &mut trial.canary,
                ProbeTarget::Stable => &mut trial.stable,
            };
            verdict::take_over(tally, evidence, aside);
        }
        trial.interval = verdict::interval(limits, &trial);
        if let Some(release) = self.status.release.as_mut() {
            release.trial = Some(trial);
        }
    }

    /// Counts users' sessions before moves and after them. A pod that does not answer makes the count unknown.
    pub(super) fn conserve(&mut self) {
        let Some(release) = self.release() else { return };
        let (stable, canary) = (self.stable(), self.canary());
        if stable.unknown() + canary.unknown() > 0 {
            return;
        }
        let users = self.users(&stable, ProbeTarget::Stable) + self.users(&canary, ProbeTarget::Canary);
        let wave = self.status.wave.as_ref();
        let moves = wave.is_some_and(|w| w.reason == WaveReason::Rollout);
        let within = release.thresholds.session_count.within.0;
        let before = release.conserved.clone();
        let next = match before {
            Some(over) if !moves && over.after.is_some() => over,
            Some(open) if moves && open.after.is_none() => Conserved {
                done_at: None,
                ..open
            },
            _ if moves => Conserved {
                before: users as i64,
                done_at: None,
                after: None,
            },
            Some(open) => {
                let done_at = open.done_at.unwrap_or(self.now);
                let back = self.since(done_at) >= within;
                Conserved {
                    done_at: Some(done_at),
                    after: back.then_some(users as i64),
                    ..open
                }
            }
            None => return,
        };
        if let Some(release) = self.status.release.as_mut() {
            release.conserved = Some(next);
        }
    }

    /// Sessions before the last moves and after them, as long as that is news.
    fn conserved(&self) -> Option<(i64, i64)> {
        let release = self.release()?;
        let conserved = release.conserved.as_ref()?;
        let news = release.thresholds.session_count.within.0 + OVER;
        let recent = self.since(conserved.done_at?) <= news;
        Some((conserved.before, conserved.after.filter(|_| recent)?))
    }

    pub(super) fn judge(&self, release: &Release, trial: &Trial) -> Outcome {
        let canary = self.obs.revision(&release.canary);
        let sum = |count: fn(&SessionsView) -> Option<u64>| -> u64 {
            let pods = canary.pods.iter().filter_map(|p| p.sessions.as_ref());
            pods.filter_map(count).sum()
        };
        let pods: Vec<String> = canary
            .live()
            .filter(|p| p.ready && p.serving)
            .map(|p| p.name.clone())
            .collect();
        verdict::judge(
            &release.thresholds,
            Evidence {
                trial,
                canary: self.obs.evidence_of(ProbeTarget::Canary),
                stable: self.obs.evidence_of(ProbeTarget::Stable),
                pods: &pods,
                easing: self.easing(),
                users_state_lost: sum(|s| s.state_lost),
                users: self.returned(),
                resumes: (sum(|s| s.resumed), sum(|s| s.resume_failed)),
                baseline: self.release().and_then(|r| r.baseline),
                conserved: self.conserved(),
                analysis: &self.obs.rollout.spec.analysis,
                metrics: &self.obs.metrics,
            },
        )
    }

    /// Notes a passed verdict, which stays for this part of the release; what comes after it is met with fresh evidence.
    pub(super) fn passed(&mut self, trial: &Trial, message: String, warned: bool) {
        let passed = trial.passed.clone().unwrap_or(Passed { message, warned });
        self.record_verdict("Passed", "Thresholds", &passed.message);
        let next = Trial {
            passed: Some(passed),
            ..trial.next_epoch(self.now)
        };
        if let Some(release) = self.status.release.as_mut() {
            release.trial = Some(next);
        }
    }

    /// The passed verdict of a step whose sessions have moved.
    pub(super) fn passed_of(&self, step: u32) -> Option<Passed> {
        let part = Part { step, settled: true };
        let trial = self.release()?.trial.as_ref()?;
        trial.passed.clone().filter(|_| part.is_of(trial))
    }

    /// Tells what the window gives reason to, on either revision, in a release and outside of one.
    pub(super) fn alert(&mut self) {
        let thresholds: Thresholds = self
            .release()
            .map_or(&self.obs.rollout.spec.thresholds, |r| &r.thresholds)
            .clone();
        let found: Vec<Found> = self
            .obs
            .evidence
            .iter()
            .filter_map(|evidence| verdict::alerts(&thresholds, evidence))
            .collect();
        for found in found {
            self.raise(found);
        }
        let now = self.now;
        self.status.alerts.retain(|alert| {
            Duration::try_from(now.duration_since(alert.seen_at)).unwrap_or_default() <= OVER
        });
    }

    /// Tells of breaches that decide nothing.
    pub(super) fn warn_of(&mut self, breaches: &[Breach]) {
        for breach in breaches {
            self.raise(Found {
                reason: breach.reason.clone(),
                level: "warning",
                message: breach.message.clone(),
            });
        }
    }

    /// Keeps an alert in status; the first time, and when it becomes another level, it is told.
    fn raise(&mut self, found: Found) {
        let Found {
            reason,
            level,
            message,
        } = found;
        let known = self.status.alerts.iter_mut().find(|a| a.reason == reason);
        if let Some(alert) = known {
            alert.seen_at = self.now;
            alert.message.clone_from(&message);
            if alert.level == level {
                return;
            }
            level.clone_into(&mut alert.level);
            alert.since = self.now;
        } else if self.status.alerts.len() < ALERTS {
            self.status.alerts.push(Alert {
                reason: reason.clone(),
                level: level.to_owned(),
                message: message.clone(),
                since: self.now,
                seen_at: self.now,
            });
        }
        self.notes.push(if level == "warning" {
            Note::warning("ThresholdBreached", format!("{reason}: {message}"))
        } else {
            Note::warning("Alert", format!("{level}: {message}"))
        });
    }

    /// Whether what fails or is slow on the new revision now may be the doing of our own pace: a wave leads sessions there, and the
    /// pace was lowered a moment ago, or is about to be. At the floor there is nothing left to ease, so a version that fails at any
    /// pace is found when the pace has got there: six halvings below the budget, each after a reconnect window.
    pub(super) fn easing(&self) -> bool {
        let Some(pace) = self.status.drain.as_ref().and_then(|d| d.pace.as_ref()) else {
            return false;
        };
        let canary = self.release().map(|r| r.canary.as_str());
        if canary != Some(pace.seen.target.as_str()) || pace.limit <= self.drain_bounds(false).floor {
            return false;
        }
        if pace.lowered_at.is_some_and(|at| self.since(at) < RECENT) {
            return true;
        }
        let moves = self.status.wave.as_ref().is_some_and(|w| w.ordered_at.is_some());
        moves && self.is_about_to_ease(pace)
    }
}
