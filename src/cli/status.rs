//! `wsroll status`: where a rollout is, for people; or the status as it is, for programs.

use std::fmt::Write as _;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::cluster::Target;
use super::output::{self, Format, table};
use crate::api::WebSocketRollout;
use crate::api::status::{DrainStatus, Pace, RolloutStatus, State};
use crate::report::story::page::short;

/// Which rollout to show, and how.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// Print the status as
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

impl StatusArgs {
    /// Reads the rollout and prints it.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { target, output } = self;
        let rollout = target.connect().await?.get().await?;
        let text = match output {
            Some(format) => format.render(&rollout.status)?,
            None => render(&rollout, Timestamp::now()),
        };
        output::print(&text)
    }
}

/// A page about a rollout, as of `now`.
pub fn render(rollout: &WebSocketRollout, now: Timestamp) -> String {
    let name = rollout.metadata.name.as_deref().unwrap_or_default();
    let namespace = rollout.metadata.namespace.as_deref().unwrap_or_default();
    let mut page = format!("{namespace}/{name}\n");
    let Some(status) = &rollout.status else {
        page.push_str("No operator has seen it yet: check that one runs and watches this namespace.\n");
        return page;
    };
    for (heading, line) in lines(status, now) {
        let _ = writeln!(page, "{heading:<13}{line}");
    }
    if status
        .observed_generation
        .is_some_and(|seen| Some(seen) < rollout.metadata.generation)
    {
        page.push_str("\nThe operator has not seen the last change of the spec yet.\n");
    }
    for section in [revisions(status), conditions(status, now)].into_iter().flatten() {
        page.push('\n');
        page.push_str(&section);
    }
    page
}

fn lines(status: &RolloutStatus, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut lines = vec![("Phase", phase(status, now))];
    let message = match &status.state {
        Some(State::Paused(paused)) => Some(&paused.message),
        Some(State::RollingBack(back)) => Some(&back.message),
        Some(State::RolledBack(back)) => Some(&back.message),
        _ => None,
    };
    lines.extend(message.map(|message| ("", message.clone())));
    if let Some(release) = &status.release {
        let (from, to, images) = (&release.stable, &release.canary, release.images.join(", "));
        let ago = age(release.started_at, now);
        lines.push((
            "Release",
            format!("#{} {from} -> {to} ({images}), begun {ago} ago", release.number),
        ));
    }
    if let Some(weight) = &status.weight {
        let line = match weight.programmed {
            Some(programmed) if programmed == weight.desired => format!("{programmed} % of new connections"),
            Some(programmed) => format!(
                "{programmed} % of new connections, {} % asked for",
                weight.desired
            ),
            None => format!("{} % of new connections asked for", weight.desired),
        };
        lines.push(("Weight", line));
    }
    if let Some(sessions) = status.sessions {
        let mut line = sessions.to_string();
        if let Some(moved) = &status.moved {
            let _ = write!(line, ", {moved} moved");
        }
        if let Some(unannounced) = status.unannounced {
            let _ = write!(line, ", {unannounced} cut unannounced");
        }
        lines.push(("Sessions", line));
    }
    lines.extend(status.drain.as_ref().map(|drain| ("Drain", drain_line(drain))));
    if let Some(verdict) = &status.verdict {
        lines.push(("Verdict", format!("{}: {}", verdict.result, verdict.message)));
    }
    for alert in &status.alerts {
        lines.push(("Alert", format!("{}: {}", alert.level, alert.message)));
    }
    if let Some(rejected) = &status.rejected {
        let images = rejected.images.join(", ");
        let (hash, message) = (&rejected.hash, &rejected.message);
        lines.push((
            "Rejected",
            format!("{hash} ({images}): {message}; `retry` tries it again"),
        ));
    }
    if let Some(request) = &status.last_request {
        let result = if request.accepted { "" } else { "refused, " };
        let ago = age(request.at, now);
        lines.push((
            "Last request",
            format!("{}, {ago} ago: {result}{}", request.verb, request.message),
        ));
    }
    lines
}

fn phase(status: &RolloutStatus, now: Timestamp) -> String {
    let mut line = status.phase.clone().unwrap_or_else(|| "unknown".to_owned());
    if let Some(step) = &status.step {
        let _ = write!(line, ", step {step}");
    }
    if let Some(state) = &status.state {
        let _ = write!(line, ", for {}", age(state.since(), now));
    }
    if let Some(State::Soaking(soaking)) = &status.state {
        let _ = write!(
            line,
            ", {} left in which `abort` still goes back",
            age(now, soaking.until)
        );
    }
    line
}

fn drain_line(drain: &DrainStatus) -> String {
    let DrainStatus {
        wave,
        total,
        notified,
        closed_clean,
        closed_forced,
        rate,
        eta_seconds,
        active_ms: _,
        pace,
        returned,
    } = drain;
    let mut line = format!(
        "wave {wave}: {total} to move, {notified} told, {closed_clean} closed, {closed_forced} forced, {rate:.1}/s"
    );
    if let Some(seconds) = eta_seconds {
        let _ = write!(line, ", done in {}", short(SignedDuration::from_secs(*seconds)));
    }
    if let Some(Pace {
        limit,
        reason: Some(reason),
        ..
    }) = pace
    {
        let _ = write!(line, "; held at {limit:.1}/s: {reason}");
    }
    if let Some(returned) = returned {
        let _ = write!(
            line,
            "; {} of {} came back, {} strays, {} missing",
            returned.back, returned.moved, returned.strays, returned.missing
        );
    }
    line
}

fn revisions(status: &RolloutStatus) -> Option<String> {
    if status.revisions.is_empty() {
        return None;
    }
    let heading = ["REVISION", "ROLE", "SLOT", "READY", "SESSIONS", "UNKNOWN PODS"]
        .map(str::to_owned)
        .to_vec();
    let rows = status.revisions.iter().map(|revision| {
        let slot = revision.slot.clone().unwrap_or_else(|| "-".to_owned());
        let ready = format!("{}/{}", revision.ready, revision.replicas);
        let (sessions, unknown) = (revision.sessions.to_string(), revision.unknown.to_string());
        vec![
            revision.hash.clone(),
            revision.role.clone(),
            slot,
            ready,
            sessions,
            unknown,
        ]
    });
    Some(table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()))
}

fn conditions(status: &RolloutStatus, now: Timestamp) -> Option<String> {
    if status.conditions.is_empty() {
        return None;
    }
    let heading = ["CONDITION", "STATUS", "FOR", "REASON", "MESSAGE"]
        .map(str::to_owned)
        .to_vec();
    let rows = status.conditions.iter().map(|condition| {
        let since = age(condition.last_transition_time.0, now);
        let (kind, value) = (condition.type_.clone(), condition.status.clone());
        vec![
            kind,
            value,
            since,
            condition.reason.clone(),
            condition.message.clone(),
        ]
    });
    Some(table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()))
}

fn age(from: Timestamp, to: Timestamp) -> String {
    short(to.duration_since(from))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn page(status: &Value) -> String {
        let rollout = serde_json::from_value(json!({
            "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
            "metadata": {"name": "chat", "namespace": "prod", "generation": 4},
            "spec": {"template": {}, "traffic": {"port": 8080, "routes": [{"name": "chat"}]}, "probes": {"url": "ws://x/ws"}},
            "status": status,
        }));
        render(&rollout.unwrap(), "2026-11-22T08:05:12Z".parse().unwrap())
    }

    #[test]
    fn a_release_in_the_middle_of_a_wave() {
        let page = page(&json!({
            "observedGeneration": 4, "phase": "Moving", "step": "2/3",
            "state": {"moving": {"step": 1, "since": "2026-11-22T08:02:00Z"}},
            "weight": {"desired": 50, "programmed": 10, "askedAt": "2026-11-22T08:02:00Z"},
            "sessions": 1000, "moved": "250/1000", "unannounced": 0,
            "drain": {"wave": 3, "total": 500, "notified": 260, "closedClean": 250, "closedForced": 0,
                "rate": 18.0, "etaSeconds": 74},
            "verdict": {"result": "Passed", "reason": "Rehearsal", "message": "20 of 20 sessions restored",
                "at": "2026-11-22T08:01:00Z"},
            "alerts": [{"reason": "ReconnectsFail", "level": "critical", "message": "70 of 100 probe reconnects restored",
                "since": "2026-11-22T08:01:00Z", "seenAt": "2026-11-22T08:02:00Z"}],
            "lastRequest": {"nonce": "n", "verb": "promote", "accepted": true, "message": "on to step 2",
                "at": "2026-11-22T08:02:00Z"},
            "revisions": [
                {"hash": "bcdfg24567", "role": "stable", "slot": "a", "replicas": 10, "ready": 10, "sessions": 750, "unknown": 0},
                {"hash": "xwvts98765", "role": "canary", "replicas": 5, "ready": 4, "sessions": 250, "unknown": 1},
            ],
            "conditions": [{"type": "Ready", "status": "False", "reason": "Moving", "message": "moving sessions",
                "lastTransitionTime": "2026-11-22T07:00:00Z"}],
        }));
        assert_eq!(
            page,
            "\
prod/chat
Phase        Moving, step 2/3, for 3m12s
Weight       10 % of new connections, 50 % asked for
Sessions     1000, 250/1000 moved, 0 cut unannounced
Drain        wave 3: 500 to move, 260 told, 250 closed, 0 forced, 18.0/s, done in 1m14s
Verdict      Passed: 20 of 20 sessions restored
Alert        critical: 70 of 100 probe reconnects restored
Last request promote, 3m12s ago: on to step 2

REVISION    ROLE    SLOT  READY  SESSIONS  UNKNOWN PODS
bcdfg24567  stable  a     10/10  750       0
xwvts98765  canary  -     4/5    250       1

CONDITION  STATUS  FOR   REASON  MESSAGE
Ready      False   1h5m  Moving  moving sessions
"
        );
    }

    #[test]
    fn a_rollback_says_why() {
        let page = page(&json!({
            "observedGeneration": 3, "phase": "RolledBack",
            "state": {"rolledBack": {"since": "2026-11-22T08:05:00Z", "reason": "StateLost", "message": "3 sessions lost state"}},
            "rejected": {"hash": "xwvts98765", "images": ["chat:3"], "message": "state lost", "at": "2026-11-22T08:05:00Z"},
        }));
        assert_eq!(
            page,
            "\
prod/chat
Phase        RolledBack, for 12s
             3 sessions lost state
Rejected     xwvts98765 (chat:3): state lost; `retry` tries it again

The operator has not seen the last change of the spec yet.
"
        );
    }

    #[test]
    fn nobody_has_seen_it() {
        assert!(page(&Value::Null).contains("No operator has seen it yet"));
    }

    #[test]
    fn ages_as_kubectl_shows_them() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_600, "1h"),
            (7_500, "2h5m"),
            (273_600, "3d4h"),
        ] {
            assert_eq!(short(SignedDuration::from_secs(seconds)), text);
        }
    }
}
