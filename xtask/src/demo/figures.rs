//! What was measured, and whether the promises were held. Pure.

use serde::Serialize;

use super::{
    load::Summary,
    manifests::{RECONNECT_WINDOW_S, STEPS},
    narrate::grouped,
    setup::Size,
};

/// Weights are to be back this long after the verdict, in milliseconds.
const RESTORE_LIMIT_MS: i64 = 2000;

/// The figures of the run: what `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// wsroll's.
    pub wsroll: Side,
    /// The plain Deployment's.
    pub deployment: Side,
}

/// What v1 to v2 did to the sessions, one way of shipping it. `None` where a figure does not apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Side {
    /// Sessions held.
    pub sessions: u32,
    /// Sessions that were up and answered on the new version at the end.
    pub sessions_on_new_version: u32,
    /// Sockets that ended without an announcement.
    pub unannounced_disconnects: u64,
    /// Disconnects of the session that had most.
    pub max_disconnects_per_session: u32,
    /// Disconnects per session.
    pub mean_disconnects_per_session: f64,
    /// Messages said.
    pub messages_sent: u64,
    /// Messages never answered, and numbers that never came.
    pub messages_lost: u64,
    /// Sessions not found again, or whose state differed.
    pub state_lost: u64,
    /// Most first connects of disconnected or notified sessions in one second of the wall clock.
    pub peak_connects_per_s: u64,
    /// The most there may be.
    pub budget_per_s: Option<u32>,
    /// Most sessions down at one moment.
    pub peak_sessions_down: u32,
    /// Median time from losing a socket to the next answer, in milliseconds.
    pub downtime_ms_p50: u64,
    /// 99th percentile of the same.
    pub downtime_ms_p99: u64,
    /// Seconds in which sessions were being moved, or cut.
    pub drain_s: f64,
    /// The most it may be: 1.25 × sessions / budget, and each step's reconnect window and programming time.
    pub drain_bound_s: Option<f64>,
    /// Seconds from apply to the end of the release, pauses included.
    pub release_s: f64,
    /// Milliseconds from the verdict over a broken version to the weights' being back.
    pub verdict_to_weights_restored_ms: Option<i64>,
    /// Sessions that ever met the version that accepts and never answers.
    pub sessions_reached_by_broken: Option<u64>,
    /// What became of the versions that do not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

/// What the versions did that do not work, both of them with the same sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Broken {
    /// How the one ended that accepts and never answers.
    pub mute: Verdict,
    /// How the one ended that breaks only under load.
    pub under_load: Verdict,
    /// Sessions that met the one that breaks only under load.
    pub sessions_reached_under_load: u64,
    /// Seconds from the verdict over it until all sessions were back on the good version.
    pub all_back_s: f64,
    /// Disconnects of the session that had most.
    pub max_disconnects_per_session: u32,
    /// Messages lost.
    pub messages_lost: u64,
    /// Sessions whose state was lost.
    pub state_lost: u64,
    /// Sessions whose last message got no answer.
    pub unanswered: u64,
}

/// How a release ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `Completed`, `RolledBack`, `Superseded`.
    pub result: String,
    /// Why, in the operator's words.
    pub why: String,
}

/// A line of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What is compared.
    pub what: &'static str,
    /// wsroll's figure.
    pub wsroll: String,
    /// The Deployment's.
    pub deployment: String,
    /// What wsroll promises.
    pub promise: String,
    /// Whether it held that; `None` where nothing is promised.
    pub held: Option<bool>,
}

// === impl Side ===

impl Side {
    /// What the sessions say.
    pub fn of(summary: &Summary, on_new_version: u32) -> Self {
        Self {
            sessions: summary.sessions,
            sessions_on_new_version: on_new_version,
            unannounced_disconnects: summary.unannounced_disconnects,
            max_disconnects_per_session: summary.max_disconnects_per_session,
            mean_disconnects_per_session: summary.mean_disconnects_per_session,
            messages_sent: summary.messages_sent,
            messages_lost: summary.messages_lost,
            state_lost: summary.state_lost,
            peak_connects_per_s: summary.peak_connects_per_s,
            peak_sessions_down: summary.peak_down,
            downtime_ms_p50: summary.downtime_ms_p50,
            downtime_ms_p99: summary.downtime_ms_p99,
            drain_s: summary.seconds_of_moving(),
            ..Self::default()
        }
    }
}

/// The longest a drain may take, in seconds: 1.25 × sessions / budget, and for each step the window in which
/// clients come back and the time that the gateway takes to program a route.
pub fn drain_bound_s(size: Size, programming_ms: u64) -> f64 {
    let moving = 1.25 * f64::from(size.sessions) / f64::from(size.budget.max(1));
    let step = RECONNECT_WINDOW_S as f64 + programming_ms as f64 / 1000.0;
    moving + STEPS.len() as f64 * step
}

// === impl Figures ===

impl Figures {
    /// Both sides by side, with the promises.
    pub fn compare(&self) -> Vec<Comparison> {
        let Self { wsroll, deployment } = self;
        let mut lines = vec![
            both(self, "sessions on the new version", |side| {
                u64::from(side.sessions_on_new_version)
            })
            .promise("all", wsroll.sessions_on_new_version == wsroll.sessions),
            both(self, "unannounced disconnects", |side| {
                side.unannounced_disconnects
            })
            .promise("0", wsroll.unannounced_disconnects == 0),
            both(self, "disconnects of one session, most", |side| {
                u64::from(side.max_disconnects_per_session)
            })
            .promise("at most 1", wsroll.max_disconnects_per_session <= 1),
            text(
                "disconnects per session, mean",
                format!("{:.2}", wsroll.mean_disconnects_per_session),
                format!("{:.2}", deployment.mean_disconnects_per_session),
            ),
            both(self, "messages said", |side| side.messages_sent),
            both(self, "messages lost", |side| side.messages_lost).promise("0", wsroll.messages_lost == 0),
            both(self, "sessions whose state was lost", |side| side.state_lost)
                .promise("0", wsroll.state_lost == 0),
            both(self, "first connects in one second, most", |side| {
                side.peak_connects_per_s
            })
            .promise_at_most(wsroll.budget_per_s, wsroll.peak_connects_per_s),
            both(self, "sessions down at once, most", |side| {
                u64::from(side.peak_sessions_down)
            }),
            text(
                "downtime of a session, p50 / p99",
                format!("{} / {} ms", wsroll.downtime_ms_p50, wsroll.downtime_ms_p99),
                format!(
                    "{} / {} ms",
                    deployment.downtime_ms_p50, deployment.downtime_ms_p99
                ),
            ),
            text(
                "time in which sessions moved",
                format!("{:.1} s", wsroll.drain_s),
                format!("{:.1} s", deployment.drain_s),
            )
            .promise_seconds(wsroll.drain_bound_s, wsroll.drain_s),
            text(
                "from apply to the end, pauses included",
                format!("{:.0} s", wsroll.release_s),
                format!("{:.0} s", deployment.release_s),
            ),
        ];
        if let Some(broken) = &wsroll.broken {
            lines.extend(broken.compare(wsroll));
        }
        lines
    }
}

// === impl Broken ===

impl Broken {
    fn compare(&self, wsroll: &Side) -> Vec<Comparison> {
        let reached = wsroll.sessions_reached_by_broken.unwrap_or_default();
        let restored = wsroll.verdict_to_weights_restored_ms;
        let only = |what, figure: String| text(what, figure, "-".to_owned());
        let back = |verdict: &Verdict| verdict.result == "RolledBack";
        vec![
            only("mute version: ended", self.mute.result.clone()).promise("RolledBack", back(&self.mute)),
            only("mute version: sessions that met it", grouped(reached)).promise("0", reached == 0),
            only("breaks under load: ended", self.under_load.result.clone())
                .promise("RolledBack", back(&self.under_load)),
            only(
                "breaks under load: sessions that met it",
                grouped(self.sessions_reached_under_load),
            ),
            only(
                "breaks under load: verdict to weights back",
                restored.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
            )
            .promise(
                format!("at most {RESTORE_LIMIT_MS} ms"),
                restored.is_some_and(|ms| ms <= RESTORE_LIMIT_MS),
            ),
            only(
                "breaks under load: all sessions back",
                format!("{:.1} s", self.all_back_s),
            ),
            only(
                "both: disconnects of one session, most",
                self.max_disconnects_per_session.to_string(),
            )
            .promise("at most 2", self.max_disconnects_per_session <= 2),
            only(
                "both: messages, states lost",
                format!("{}, {}", self.messages_lost, self.state_lost),
            )
            .promise("0, 0", self.messages_lost == 0 && self.state_lost == 0),
            only("both: sessions unanswered at the end", grouped(self.unanswered))
                .promise("0", self.unanswered == 0),
        ]
    }
}

// === impl Comparison ===

impl Comparison {
    fn promise(self, promise: impl Into<String>, held: bool) -> Self {
        Self {
            promise: promise.into(),
            held: Some(held),
            ..self
        }
    }

    fn promise_at_most(self, limit: Option<u32>, measured: u64) -> Self {
        match limit {
            Some(limit) => self.promise(format!("at most {limit}"), measured <= u64::from(limit)),
            None => self,
        }
    }

    fn promise_seconds(self, limit: Option<f64>, measured: f64) -> Self {
        match limit {
            Some(limit) => self.promise(format!("at most {limit:.1} s"), measured <= limit),
            None => self,
        }
    }
}

fn both(figures: &Figures, what: &'static str, figure: impl Fn(&Side) -> u64) -> Comparison {
    text(
        what,
        grouped(figure(&figures.wsroll)),
        grouped(figure(&figures.deployment)),
    )
}

fn text(what: &'static str, wsroll: String, deployment: String) -> Comparison {
    Comparison {
        what,
        wsroll,
        deployment,
        promise: String::new(),
        held: None,
    }
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
