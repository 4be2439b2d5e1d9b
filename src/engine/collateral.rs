//! Sessions that were cut on a revision that nobody touched, and what changed before.

use std::time::Duration;

use jiff::Timestamp;

use super::observed::Cut;
use super::plan::Note;
use super::work::Work;
use crate::api::status::Collateral;

/// Cuts that status remembers.
const KEPT: usize = 10;
/// A change that is longer ago is not named.
const BEFORE: Duration = Duration::from_secs(300);

impl Work<'_> {
    /// Tells of cuts on the old revision, apart from the pods of a wave: those are asked to go.
    pub(super) fn collateral(&mut self) {
        let stable = self.stable_hash();
        let asked = |cut: &Cut| {
            let wave = self.obs.status.wave.as_ref().or(self.status.wave.as_ref());
            wave.is_some_and(|w| w.pods.iter().any(|p| Some(&p.uid) == cut.uid.as_ref()))
        };
        let cuts: Vec<Cut> = self
            .obs
            .cuts
            .iter()
            .filter(|cut| cut.revision == stable && !asked(cut))
            .cloned()
            .collect();
        for cut in cuts {
            let after = self.change_before(cut.at);
            self.notes.push(Note::warning(
                "Collateral",
                format!(
                    "{}: {} sessions on revision {} were cut, which nobody had asked to go; {after}",
                    cut.what, cut.sessions, cut.revision
                ),
            ));
            self.status.collateral.insert(
                0,
                Collateral {
                    at: cut.at,
                    revision: cut.revision,
                    what: cut.what,
                    sessions: cut.sessions as i64,
                    after,
                },
            );
        }
        self.status.collateral.truncate(KEPT);
    }

    /// The last change of ours before a time, as the status has it.
    fn change_before(&self, at: Timestamp) -> String {
        let status = &self.obs.status;
        let weight = status
            .weight
            .iter()
            .map(|w| (w.asked_at, format!("weight {} was asked for", w.desired)));
        let wave = status.wave.iter().flat_map(|w| {
            let ordered = w
                .ordered_at
                .map(|at| (at, format!("wave {} got its first orders", w.id)));
            [Some((w.since, format!("wave {} began", w.id))), ordered]
        });
        let phase = status
            .state
            .iter()
            .map(|s| (s.since(), format!("phase {} began", s.phase())));
        let request = status
            .last_request
            .iter()
            .filter(|r| r.accepted)
            .map(|r| (r.at, format!("{} was asked for", r.verb)));
        let changes = weight.chain(wave.flatten()).chain(phase).chain(request);
        let age = |then: Timestamp| Duration::try_from(at.duration_since(then)).ok();
        let last = changes
            .filter_map(|(then, what)| Some((age(then)?, what)))
            .filter(|(age, _)| *age <= BEFORE)
            .min_by_key(|(age, _)| *age);
        last.map_or_else(
            || format!("wsroll had changed nothing for {} min", BEFORE.as_secs() / 60),
            |(age, what)| format!("{what} {:.1} s before", age.as_secs_f64()),
        )
    }
}
