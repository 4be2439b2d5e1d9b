//! The acts with wsroll: a good version, one that never answers, one that breaks only under load.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    figures::{Broken, Side, drain_bound_s},
    load::Load,
    manifests::{PAUSE_S, ROLLOUT, STEPS, Version},
    narrate::say,
    release::{await_healthy, await_sessions, ship},
    rollout::Watch,
    setup::Stage,
};
use crate::{
    shell,
    wait::{self, Stopwatch},
};

/// The users stay this long after a release, to see that it lasts.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// All of them, on one rollout.
pub fn play(stage: &Stage) -> Result<Side> {
    let (v1, v2) = (Version::good("v1"), Version::good("v2"));
    stage.apply(&stage.rollout(&v1))?;
    let mut watch = Watch::start(stage)?;
    shell::step("v1 becomes Healthy", || await_healthy(stage, &mut watch))?;

    let side = good(stage, &mut watch, &v1, &v2)?;
    await_healthy(stage, &mut watch)?;
    broken(stage, &mut watch, &v2, side)
}

/// v1 to v2 under all users.
fn good(stage: &Stage, watch: &mut Watch<'_>, old: &Version, new: &Version) -> Result<Side> {
    let voice = stage.voice;
    let size = stage.size;
    voice.act(&format!("{} sessions on {}", size.sessions, old.name));
    let mut load = Load::arrive(stage, ROLLOUT)?;
    voice.act(&format!(
        "{} ships: {} %, {PAUSE_S} s to watch after each",
        new.name,
        steps()
    ));
    let ending = ship(stage, watch, &mut load, old, new)?;
    let verdict = ending.verdict();
    voice.result(
        verdict.result == "Completed",
        &format!(
            "{} {} after {} s",
            new.name,
            ending.status.phase,
            ending.took.as_secs()
        ),
    );
    if verdict.result != "Completed" {
        say(&format!("why: {}", verdict.why));
    }
    wait::sleep(AFTERWARDS);
    let there = await_sessions(stage, &mut load, &ending.revision, Duration::from_secs(30))?;
    let summary = load.leave()?;
    voice.result(
        summary.unannounced_disconnects == 0 && summary.messages_lost == 0 && summary.state_lost == 0,
        &format!(
            "{} unannounced disconnects, at most {} of one session; of {} messages {} lost; {} states lost",
            summary.unannounced_disconnects,
            summary.max_disconnects_per_session,
            summary.messages_sent,
            summary.messages_lost,
            summary.state_lost
        ),
    );
    voice.result(
        summary.peak_connects_per_s <= u64::from(size.budget),
        &format!(
            "at most {} first connects in one second, of {} allowed; {} sessions down at once",
            summary.peak_connects_per_s, size.budget, summary.peak_down
        ),
    );
    let release = ending.status.release.as_ref();
    let programming_ms = release.and_then(|release| release.programming_ms).unwrap_or(0);
    let drain = ending.status.drain.as_ref();
    Ok(Side {
        budget_per_s: Some(size.budget),
        drain_s: drain.map_or(0.0, |drain| drain.active_ms as f64 / 1000.0),
        drain_bound_s: Some(drain_bound_s(size, programming_ms)),
        release_s: ending.took.as_secs_f64(),
        ..Side::of(&summary, there)
    })
}

/// Two versions that do not work, one after the other, under the same users.
fn broken(stage: &Stage, watch: &mut Watch<'_>, good: &Version, side: Side) -> Result<Side> {
    let voice = stage.voice;
    let mute = Version::broken("v3", "mute");
    let above = stage.size.breaks_above();
    let overloaded = Version::broken("v4", format!("mute-above={above}"));
    let stable = watch.now()?.status.stable.context("no revision is stable")?;

    voice.act(&format!(
        "{} ships, which accepts sockets and never answers",
        mute.name
    ));
    let mut load = Load::arrive(stage, ROLLOUT)?;
    let stopped = ship(stage, watch, &mut load, good, &mute)?;
    let stopped_verdict = stopped.verdict();
    voice.result(
        stopped_verdict.result == "RolledBack",
        &format!(
            "{} after {} s: {}",
            stopped.status.phase,
            stopped.took.as_secs(),
            stopped_verdict.why
        ),
    );

    voice.act(&format!(
        "{} ships, whose pods fall silent with more than {above} sockets",
        overloaded.name
    ));
    let ending = ship(stage, watch, &mut load, good, &overloaded)?;
    await_sessions(stage, &mut load, &stable, Duration::from_secs(60))?;
    let all_back_s = ending
        .rolling_back
        .as_ref()
        .map_or(0.0, |clock: &Stopwatch| clock.elapsed().as_secs_f64());
    let verdict = ending.verdict();
    voice.result(
        verdict.result == "RolledBack",
        &format!(
            "{} after {} s: {}",
            ending.status.phase,
            ending.took.as_secs(),
            verdict.why
        ),
    );
    wait::sleep(AFTERWARDS);
    let summary = load.leave()?;
    let reached = summary.reached(&stopped.revision);
    voice.result(
        reached == 0,
        &format!("{reached} sessions ever met {}, the mute one", mute.name),
    );
    let restored = ending.verdict_to_weights_ms();
    voice.result(
        summary.sessions_unanswered_at_end == 0,
        &format!(
            "{}: weights back {} after the verdict; {} sessions had met it, {} remain unanswered",
            overloaded.name,
            restored.map_or_else(|| "at no time".to_owned(), |ms| format!("{ms} ms")),
            summary.reached(&ending.revision),
            summary.sessions_unanswered_at_end
        ),
    );
    Ok(Side {
        verdict_to_weights_restored_ms: restored,
        sessions_reached_by_broken: Some(reached),
        broken: Some(Broken {
            mute: stopped_verdict,
            under_load: verdict,
            sessions_reached_under_load: summary.reached(&ending.revision),
            all_back_s,
            max_disconnects_per_session: summary.max_disconnects_per_session,
            messages_lost: summary.messages_lost,
            state_lost: summary.state_lost,
            unanswered: summary.sessions_unanswered_at_end,
        }),
        ..side
    })
}

fn steps() -> String {
    STEPS.map(|weight| weight.to_string()).join(", ")
}
