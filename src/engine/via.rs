//! Who lets a revision's sessions go: the application by the protocol, the sidecar, or the application's SIGTERM handler.

use super::plan::Note;
use super::work::Work;
use crate::api::spec::Via;
use crate::api::status::Wave;

/// Why a release cannot choose yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ViaWait {
    /// As an identifier.
    pub reason: &'static str,
    /// One sentence, with the remedy.
    pub message: String,
    /// Whether somebody has to do something.
    pub stalled: bool,
}

impl Work<'_> {
    /// Chooses, once per release, who lets the old revision's sessions go. False while that cannot be said.
    pub(super) fn choose_via(&mut self) -> bool {
        let Some(release) = self.release().cloned() else {
            return false;
        };
        if release.via.is_some() {
            return true;
        }
        let Ok((via, why)) = self.via_choice() else {
            return false;
        };
        self.notes.push(Note::normal(
            "Via",
            format!("sessions leave revision {} via {via}: {why}", release.stable),
        ));
        if let Some(release) = self.status.release.as_mut() {
            release.via = Some(via);
        }
        true
    }

    /// What a release waits for before it can choose.
    pub(super) fn via_wait(&self) -> Option<ViaWait> {
        self.release().filter(|r| r.via.is_none())?;
        self.via_choice().err()
    }

    /// Whether `promote` would accept that the old revision's pods go by SIGTERM.
    pub(super) fn signal_is_asked(&self) -> bool {
        self.via_wait().is_some_and(|wait| wait.stalled)
    }

    /// The old revision's pods are as they were created: what the spec says now counts for the next ones, except that it may accept
    /// the signal for pods that nobody was told how to ask.
    fn via_choice(&self) -> Result<(Via, String), ViaWait> {
        let hash = self.stable_hash();
        let view = self.obs.revision(&hash);
        let signal = |why: &str| Ok((Via::Signal, why.to_owned()));
        match view.via {
            // Written by an operator that knew nothing else.
            None => Ok((
                Via::Protocol,
                "it was created before there was a choice".to_owned(),
            )),
            Some(via @ (Via::Protocol | Via::Sidecar | Via::Signal)) => {
                Ok((via, "its pods were created so".to_owned()))
            }
            Some(Via::Auto) => match view.speaks {
                Some(true) => Ok((Via::Protocol, "its pods answer the drain protocol".to_owned())),
                _ if self.obs.rollout.spec.drain.via == Via::Signal => signal("spec.drain.via says so"),
                _ if self.release().is_some_and(|r| r.signal_accepted) => {
                    signal("it was accepted by promote")
                }
                Some(false) => Err(ViaWait {
                    reason: "SignalNotAccepted",
                    message: format!(
                        "the pods of revision {hash} do not answer the drain protocol: they can only be let go of by SIGTERM, one \
                         at a time. Accept it for this release with `kubectl wsroll promote`, or set spec.drain.via to Signal; \
                         with Sidecar later revisions are drained at pace"
                    ),
                    stalled: true,
                }),
                None => Err(ViaWait {
                    reason: "ViaUnknown",
                    message: format!(
                        "spec.drain.via is Auto, and no pod of revision {hash} has answered on its drain port yet"
                    ),
                    stalled: false,
                }),
            },
        }
    }

    /// Whether a revision's pods are let go of by SIGTERM.
    pub(super) fn by_signal(&self, hash: &str) -> bool {
        let release = self.release();
        let accepted = release.is_some_and(|r| r.via == Some(Via::Signal))
            || self.obs.rollout.spec.drain.via == Via::Signal;
        if let Some(release) = release.filter(|r| r.stable == hash && r.via.is_some()) {
            return release.via == Some(Via::Signal);
        }
        let view = self.obs.revisions.get(hash);
        match view.and_then(|v| v.via) {
            Some(Via::Signal) => true,
            Some(Via::Auto) => accepted && view.is_some_and(|v| v.speaks != Some(true)),
            Some(Via::Protocol | Via::Sidecar) | None => false,
        }
    }

    /// Sessions on all pods but those of a wave, where any pod tells.
    pub(super) fn others(&self, wave: &Wave) -> Option<i64> {
        let mine = |uid: &str| wave.pods.iter().any(|p| p.uid == uid);
        let mut known = self
            .obs
            .revisions
            .values()
            .flat_map(|view| &view.pods)
            .filter(|p| !p.terminating && !mine(&p.uid))
            .filter_map(|p| p.sessions.as_ref())
            .peekable();
        known.peek()?;
        Some(known.map(|s| s.open as i64).sum())
    }
}
