//! What the difference between two statuses tells. Pure: the same status twice tells nothing.

use jiff::Timestamp;

use super::record::{By, DrainCounts, Event};
use super::scrub::Scrub;
use crate::api::RolloutStatus;
use crate::api::status::{State, Verdict, Wave};
use crate::report::story::wave_counts;

/// What happened between two statuses of a rollout, in its order. The release and the revision that each belongs to are its
/// reader's to add.
pub(super) fn between(
    before: &RolloutStatus,
    after: &RolloutStatus,
    by: &By,
    scrub: &Scrub,
    now: Timestamp,
) -> Vec<Event> {
    let mut events = Vec::new();
    events.extend(requested(before, after, by, scrub));
    let moved_on = phase_key(before) != phase_key(after);
    events.extend(judged(before, after, moved_on, scrub));
    let (ended, begun) = (ended(before, after, scrub), begun(before, after));
    if let (None, Some(State::RollingBack(back))) = (rolling(before), &after.state) {
        events.push(Event::RollbackBegun {
            reason: back.reason.clone(),
            sentence: scrub.sentence(&back.message),
        });
    }
    events.extend(wave_ended(before, after));
    events.extend(weights(before, after, now));
    events.extend(ended);
    events.extend(begun);
    if moved_on {
        events.extend(phase(before, after, scrub));
    }
    events.extend(wave_started(before, after));
    events
}

fn phase_key(status: &RolloutStatus) -> Option<(&'static str, Timestamp)> {
    status.state.as_ref().map(|s| (s.phase(), s.since()))
}

fn rolling(status: &RolloutStatus) -> Option<()> {
    matches!(status.state, Some(State::RollingBack(_))).then_some(())
}

fn phase(before: &RolloutStatus, after: &RolloutStatus, scrub: &Scrub) -> Option<Event> {
    let state = after.state.as_ref()?;
    Some(Event::Phase {
        from: before.state.as_ref().map(|s| s.phase().to_owned()),
        to: state.phase().to_owned(),
        step: state.step().map(|step| step + 1),
        sentence: reason_of(state).map(|text| scrub.sentence(text)),
    })
}

/// Why a phase is, where it says so.
pub(crate) fn reason_of(state: &State) -> Option<&str> {
    match state {
        State::Paused(s) => Some(&s.message),
        State::RollingBack(s) => Some(&s.message),
        State::RolledBack(s) => Some(&s.message),
        _ => None,
    }
}

fn requested(before: &RolloutStatus, after: &RolloutStatus, by: &By, scrub: &Scrub) -> Option<Event> {
    let request = after.last_request.as_ref()?;
    let known = before.last_request.as_ref();
    if known.is_some_and(|k| k.nonce == request.nonce) {
        return None;
    }
    Some(Event::Request {
        verb: request.verb.clone(),
        accepted: request.accepted,
        sentence: scrub.sentence(&request.message),
        by: by.clone(),
    })
}

fn judged(before: &RolloutStatus, after: &RolloutStatus, moved_on: bool, scrub: &Scrub) -> Option<Event> {
    let verdict = after.verdict.as_ref()?;
    let key = |v: &Verdict| (v.result.clone(), v.reason.clone(), v.at);
    let last = before.verdict.as_ref();
    let same = last.is_some_and(|last| key(last) == key(verdict));
    // Its numbers change with every sample: they are told once more where the phase ends with them.
    let last_words = moved_on && last.is_some_and(|last| last.message != verdict.message);
    (!same || last_words).then(|| Event::Verdict {
        outcome: verdict.result.clone(),
        reason: verdict.reason.clone(),
        sentence: scrub.sentence(&verdict.message),
        step: before.state.as_ref().and_then(State::step).map(|step| step + 1),
    })
}

fn begun(before: &RolloutStatus, after: &RolloutStatus) -> Option<Event> {
    let release = after.release.as_ref()?;
    if before.release.as_ref().is_some_and(|old| old.id == release.id) {
        return None;
    }
    Some(Event::ReleaseBegun {
        from: release.stable.clone(),
        to: release.canary.clone(),
        images: release.images.clone(),
        sessions: release.sessions,
        steps: release.steps.iter().map(|step| i32::from(step.weight)).collect(),
    })
}

fn ended(before: &RolloutStatus, after: &RolloutStatus, scrub: &Scrub) -> Option<Event> {
    let old = before.release.as_ref()?;
    if after.release.as_ref().is_some_and(|now| now.id == old.id) {
        return None;
    }
    // A release that follows at once has begun its own count.
    let counted = if after.release.is_none() { after } else { before };
    let unannounced = counted.unannounced.unwrap_or_default();
    let known = |number| before.history.iter().any(|p| p.number == number);
    let past = after
        .history
        .iter()
        .find(|p| p.number == old.number && !known(p.number));
    Some(match past {
        Some(past) => Event::ReleaseEnded {
            outcome: past.result.clone(),
            sentence: past.message.as_deref().map(|text| scrub.sentence(text)),
            moved: past.moved,
            unannounced,
            verdict_to_weights_ms: past.verdict_to_weights_ms,
        },
        None => Event::ReleaseEnded {
            outcome: "Withdrawn".to_owned(),
            sentence: None,
            moved: 0,
            unannounced,
            verdict_to_weights_ms: None,
        },
    })
}

fn weights(before: &RolloutStatus, after: &RolloutStatus, now: Timestamp) -> Vec<Event> {
    let Some(weight) = &after.weight else {
        return Vec::new();
    };
    let old = before.weight.as_ref();
    let mut events = Vec::new();
    let asked = old.is_none_or(|o| (o.desired, o.asked_at) != (weight.desired, weight.asked_at));
    if asked {
        events.push(Event::WeightAsked {
            percent: weight.desired,
        });
    }
    let there = |w: &crate::api::status::Weight| w.programmed == Some(w.desired);
    if there(weight) && (asked || !old.is_some_and(there)) {
        events.push(Event::WeightProgrammed {
            percent: weight.desired,
            after_ms: u64::try_from(now.duration_since(weight.asked_at).as_millis()).unwrap_or_default(),
        });
    }
    events
}

fn wave_started(before: &RolloutStatus, after: &RolloutStatus) -> Option<Event> {
    let wave = after.wave.as_ref()?;
    if before.wave.as_ref().is_some_and(|old| old.id == wave.id) {
        return None;
    }
    let reason: &'static str = wave.reason.into();
    Some(Event::WaveStarted {
        wave: wave.id.clone(),
        reason: reason.to_owned(),
        pods: wave.pods.len() as u32,
        sessions: planned(wave),
    })
}

/// Sessions that a wave is to move, as far as known.
pub(super) fn planned(wave: &Wave) -> i64 {
    wave.pods.iter().filter_map(|p| p.count.or(p.sessions)).sum()
}

fn wave_ended(before: &RolloutStatus, after: &RolloutStatus) -> Option<Event> {
    let old = before.wave.as_ref()?;
    if after.wave.as_ref().is_some_and(|wave| wave.id == old.id) {
        return None;
    }
    let counts = wave_counts(before, after);
    let positive = |n: i64| u64::try_from(n).unwrap_or_default();
    Some(Event::WaveEnded {
        wave: old.id.clone(),
        total: DrainCounts {
            notified: positive(counts.notified),
            acknowledged: None,
            closed_clean: positive(counts.closed_clean),
            closed_forced: positive(counts.closed_forced),
        },
    })
}
