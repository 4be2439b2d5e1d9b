//! How a wave's orders read: budget and pace, deadlines, and what leads moved sessions on.

use super::evidence::ProbeTarget;
use super::observed::SessionsView;
use super::pace::{self, Bounds};
use super::plan::{Hint, Note};
use super::wave::Terms;
use super::work::Work;
use crate::api::spec::{HintKind, OnDeadline};
use crate::api::status::{Pace, Release, Wave, WaveReason};

impl Work<'_> {
    /// Adapts the pace to what is seen of reconnects on the revision that a wave's sessions go to.
    pub(super) fn adapt_pace(&mut self, wave: &Wave) {
        let back = wave.reason == WaveReason::Rollback;
        let terms = self.terms(back);
        if !terms.adaptive {
            if let Some(drain) = &mut self.status.drain {
                drain.pace = None;
            }
            return;
        }
        let target = match wave.reason {
            WaveReason::Rollout => self.release().map(|r| r.canary.clone()).unwrap_or_default(),
            WaveReason::Rollback => self.stable_hash(),
            WaveReason::ScaleDown => wave.revision.clone(),
        };
        let probed = if self.release().is_some_and(|r| r.canary == target) {
            ProbeTarget::Canary
        } else {
            ProbeTarget::Stable
        };
        let seen = self.obs.evidence_of(probed);
        let probes = seen.map(|e| e.recent.clone()).unwrap_or_default();
        let view = self.obs.revision(&target);
        let sum = |count: fn(&SessionsView) -> Option<u64>| -> i64 {
            let pods = view.live().filter_map(|p| p.sessions.as_ref());
            pods.filter_map(count).sum::<u64>() as i64
        };
        let evidence = pace::Evidence {
            refused: sum(|s| s.refused),
            resumed: sum(|s| s.resumed),
            resume_failed: sum(|s| s.resume_failed),
            probes: probes.attempts,
            probes_failed: probes.failed,
            probes_failed_in_a_row: seen.map_or(0, |e| e.failures_in_a_row),
            p95_ms: probes.restored_p95_ms,
            baseline_p95_ms: self.release().and_then(|r| r.baseline).map(|b| b.p95_ms),
        };
        let bounds = self.drain_bounds(back);
        let drain = self.status.drain.get_or_insert_default();
        let next = pace::next(drain.pace.as_ref(), &target, &evidence, bounds, self.now);
        let lowered =
            drain.pace.as_ref().and_then(|p| p.lowered_at) != next.lowered_at && next.lowered_at.is_some();
        if let Some(reason) = next.reason.as_ref().filter(|_| lowered) {
            self.notes.push(Note::normal("PaceLowered", reason.clone()));
        }
        drain.pace = Some(next);
    }

    /// Between what the pace moves.
    pub(super) fn drain_bounds(&self, back: bool) -> Bounds {
        let terms = self.terms(back);
        if back {
            Bounds::of_rollback(terms.budget, terms.reconnect_window)
        } else {
            Bounds::of_drain(terms.budget, terms.reconnect_window)
        }
    }

    /// Whether the probes on the new revision meet what lowers the pace in this round.
    pub(super) fn is_about_to_ease(&self, pace: &Pace) -> bool {
        let bounds = self.drain_bounds(false);
        let due = pace.lowered_at.is_none_or(|at| self.since(at) >= bounds.window);
        let probes = self.obs.evidence_of(ProbeTarget::Canary);
        due && probes
            .is_some_and(|e| pace::many_failed(e.recent.attempts, e.recent.failed, e.failures_in_a_row))
    }

    pub(super) fn terms(&self, back: bool) -> Terms {
        let spec = &self.obs.rollout.spec;
        let sessions = self.release().map_or(0, |r| r.sessions).max(0) as u64;
        let sessions = sessions.max(self.status.sessions.unwrap_or_default().max(0) as u64);
        // Budget and deadlines follow the spec even in the middle of a release; the rest is the release's own.
        let notice = self.release().map_or(&spec.drain.notice, |r| &r.drain.notice);
        let budget = if back {
            spec.rollback_budget()
        } else {
            spec.drain.budget.clone()
        };
        let (deadline, close) = if back {
            (spec.rollback.deadline, true)
        } else {
            (spec.drain.deadline, spec.drain.on_deadline == OnDeadline::Close)
        };
        let hint = self.release().filter(|r| r.hinted).and_then(hint_of);
        let adaptive = budget.adaptive;
        let budget = budget.per_second(sessions);
        let limit = self.status.drain.as_ref().and_then(|d| d.pace.as_ref());
        let limit = limit.filter(|_| adaptive).map_or(budget, |pace| pace.limit);
        let mode = self.release().map_or(spec.drain.mode, |r| r.drain.mode);
        Terms {
            budget,
            pace: limit.min(budget),
            adaptive,
            hold: false,
            mode,
            max_pods: spec.capacity.max_draining_pods,
            deadline: deadline.0,
            close_at_deadline: close,
            reconnect_window: notice.reconnect_window.0,
            hint,
            close_code: notice.close_code,
            settle: self.settle(),
        }
    }
}

/// What moved sessions of a release present, by its drain settings.
fn hint_of(release: &Release) -> Option<Hint> {
    let value = &release.pins.hint;
    match release.drain.notice.hint {
        HintKind::Query => Some(Hint::Query(format!("wsroll={value}"))),
        HintKind::Path => Some(Hint::Path(format!("/wsroll-{value}"))),
        HintKind::Header => Some(Hint::Header(format!("x-wsroll-hint: {value}"))),
        HintKind::None => None,
    }
}
