//! What pods are asked by the wave that is under way.

use crate::api::spec::DrainMode;
use crate::api::status::{Wave, WavePod, WaveReason};
use crate::engine::observed::{PodView, RevisionView};
use crate::engine::plan::{Action, Note};
use crate::engine::wave::{self, Terms};
use crate::engine::work::Work;

impl Work<'_> {
    /// Moves the wave on, and lets go of its pods when it is done.
    pub(super) fn wave(&mut self) {
        let Some(mut wave) = self.status.wave.take() else {
            return;
        };
        self.adapt_pace(&wave);
        let mut terms = self.terms(wave.reason == WaveReason::Rollback);
        if self.is_leaving(&wave.revision) {
            // Its deadline is over: there is nothing more to wait for.
            terms.mode = DrainMode::Ask;
        }
        if wave.windowed {
            terms.hint = None;
            terms.hold = !self.window_is_open(&wave);
        }
        if !self.ways_are_open(&wave, &terms) || self.earlier_orders(&wave) {
            // Who is moved now would be moved again.
            self.status.wave = Some(wave);
            return;
        }
        let revision = self.obs.revision(&wave.revision);
        let progress = if self.by_signal(&wave.revision) {
            let others = self.others(&wave);
            wave::signal::advance(&mut wave, &revision, &terms, others, self.now)
        } else {
            wave::advance(&mut wave, &revision, &terms, self.now)
        };
        let drain = self.status.drain.get_or_insert_default();
        drain.notified += progress.notified;
        drain.closed_clean += progress.closed_clean;
        drain.closed_forced += progress.closed_forced;
        self.wave_rate = progress.rate;
        self.wave_left = progress.left;
        self.overdue = progress.overdue;
        self.actions.extend(progress.actions);
        if !progress.done || wave.windowed || !self.settle_wave(&wave, &revision, &terms) {
            self.status.wave = Some(wave);
            return;
        }
        let took = wave.ordered_at.map_or(0, |at| {
            let last = wave
                .pods
                .iter()
                .filter_map(|p| p.done_at)
                .max()
                .unwrap_or(self.now);
            last.duration_since(at).as_millis() as i64
        });
        let drain = self.status.drain.get_or_insert_default();
        drain.active_ms += took;
        let (told, clean, forced) = wave.pods.iter().fold((0, 0, 0), |sum, p| {
            (
                sum.0 + p.notified,
                sum.1 + p.closed_clean,
                sum.2 + p.closed_forced,
            )
        });
        self.notes.push(Note::normal(
            "WaveDone",
            format!("{} pods are done in {:.1} s: {told} sessions told, {clean} left in turn, {forced} closed at the deadline",
                wave.pods.len(), took as f64 / 1_000.0),
        ));
    }

    /// Whether moved sessions would land where they belong: the hint leads there, and a revision that keeps its pods in rotation
    /// is at weight 0 at the gateway.
    fn ways_are_open(&self, wave: &Wave, terms: &Terms) -> bool {
        if wave.reason == WaveReason::ScaleDown {
            return true;
        }
        let hint = terms.hint.is_none() || self.hint_is_there();
        let Some(release) = self.release().filter(|_| !wave.leave_rotation) else {
            return hint;
        };
        let all = if wave.reason == WaveReason::Rollback {
            0
        } else {
            100
        };
        hint && self.weight_is(release, all)
    }

    /// Whether a pod that does not answer may still be at work by an order of an earlier wave, which nobody could take back: its
    /// lease has to run out before others get the budget.
    pub(in crate::engine) fn earlier_orders(&self, wave: &Wave) -> bool {
        let mine = |pod: &PodView| wave.pods.iter().any(|e| e.uid == pod.uid);
        let fresh = wave.ordered_at.is_none() && self.since(wave.since) < wave::LEASE + wave::LONGEST_LEAD;
        let silent = |pod: &PodView| pod.sessions.is_none() && !mine(pod);
        fresh
            && self
                .obs
                .revisions
                .values()
                .flat_map(RevisionView::live)
                .any(silent)
    }

    fn hint_is_there(&self) -> bool {
        match (self.wanted_pins(&self.state()), &self.obs.pins) {
            (None, there) => there.is_none(),
            (Some(wanted), Some(pins)) => pins.current && pins.accepted.is_ok() && pins.pins == wanted,
            (Some(_), None) => false,
        }
    }

    /// Retires as many of a finished wave's pods as capacity allows. True when nothing is left to do; who stays gets its
    /// labels back in the next round.
    fn settle_wave(&mut self, wave: &Wave, revision: &RevisionView, terms: &Terms) -> bool {
        if revision.live().count() as u32 != revision.replicas {
            return false;
        }
        let keep = match wave.reason {
            WaveReason::Rollout => self.limits.stable_target(self.canary().ready()),
            WaveReason::Rollback => 0,
            WaveReason::ScaleDown if self.is_leaving(&wave.revision) => 0,
            WaveReason::ScaleDown => self.limits.replicas,
        };
        let entry = |pod: &PodView| wave.pods.iter().find(|e| e.uid == pod.uid);
        let given_up = |e: &WavePod| terms.given_up(e, wave.elapsed_ms);
        let mine: Vec<&PodView> = revision
            .live()
            .filter(|p| entry(p).is_some_and(|e| e.count.is_none()))
            .collect();
        // Whose deadline has passed is let go of whatever the floor says; the rest as far as capacity allows.
        let (empty, held): (Vec<&PodView>, Vec<&PodView>) = mine.into_iter().partition(|p| is_empty(p));
        let forced: Vec<&PodView> = held
            .into_iter()
            .filter(|p| entry(p).is_some_and(given_up))
            .collect();
        let spare = revision.replicas.saturating_sub(keep) as usize;
        let spare = spare
            .saturating_sub(forced.len())
            .saturating_sub(self.missing(wave, revision));
        let pods: Vec<(String, String)> = forced
            .into_iter()
            .chain(empty.into_iter().take(spare))
            .map(|p| (p.name.clone(), p.uid.clone()))
            .collect();
        if pods.is_empty() {
            return true;
        }
        // A ReplicaSet deletes unready pods before cheap ones: none may be unready that might hold a session.
        let safe = revision
            .live()
            .filter(|p| !pods.iter().any(|(_, uid)| *uid == p.uid))
            .all(|p| p.ready || is_empty(p));
        if safe {
            self.actions.push(Action::Retire {
                revision: wave.revision.clone(),
                to: revision.replicas.saturating_sub(pods.len() as u32),
                pods,
                from: revision.replicas,
            });
        }
        false
    }

    /// Ready pods in rotation that are wanting beside the wave's own: so many of its pods come back instead of going.
    fn missing(&self, wave: &Wave, revision: &RevisionView) -> usize {
        if wave.reason == WaveReason::Rollback || self.is_leaving(&wave.revision) {
            return 0;
        }
        let in_wave = |pod: &PodView| wave.pods.iter().any(|e| e.uid == pod.uid);
        let mut rotating = revision
            .live()
            .filter(|p| p.ready && p.serving && !in_wave(p))
            .count() as u32;
        if wave.reason == WaveReason::Rollout {
            rotating += self.canary().in_rotation();
        }
        self.limits.required.saturating_sub(rotating) as usize
    }
}

fn is_empty(pod: &PodView) -> bool {
    pod.sessions.as_ref().is_some_and(|s| s.open == 0)
}
