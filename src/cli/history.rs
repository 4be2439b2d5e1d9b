//! `wsroll history`: the last releases of a rollout, a line each.

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::cluster::Target;
use super::output::{self, Format, table};
use crate::api::WebSocketRollout;
use crate::report::story::page::{at, short};
use crate::report::story::{Stories, Story};

/// Which rollout's releases to show, and how.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    target: Target,
    /// Print the releases as
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

/// A release, in a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Number of the release.
    pub release: u64,
    /// The revision it shipped.
    pub revision: String,
    /// Its images, as far as they are known.
    pub images: Vec<String>,
    /// When it began.
    pub begun: Timestamp,
    /// Milliseconds from its beginning to its end, or to now.
    pub took_ms: i64,
    /// `Completed`, `RolledBack`, `Superseded`, `Withdrawn`; `Running`.
    pub outcome: String,
    /// Why, where it did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Sessions that were moved.
    pub moved: i64,
    /// Sessions that ended without an announcement; absent: nobody kept the release's story.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unannounced: Option<i64>,
}

impl HistoryArgs {
    /// Reads the releases and prints them.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { target, output } = self;
        let rollout = target.connect().await?;
        let live = rollout.get().await?;
        let stories = rollout.stories(&live).await;
        let rows = rows(&stories, &live, Timestamp::now());
        let text = match output {
            Some(format) => format.render(&rows)?,
            None => render(&rows, &live),
        };
        output::print(&text)
    }
}

/// The releases that are known, newest first: by their stories, and what the status tells of the others.
pub fn rows(stories: &Stories, live: &WebSocketRollout, now: Timestamp) -> Vec<Row> {
    let history = live.status.iter().flat_map(|s| &s.history);
    let bare: Vec<Story> = history
        .filter(|past| stories.get(past.number).is_none())
        .map(Story::of_past)
        .collect();
    let told = stories.0.iter().map(|story| row(story, true, now));
    let mut rows: Vec<Row> = told
        .chain(bare.iter().map(|story| row(story, false, now)))
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.release));
    rows
}

fn row(story: &Story, told: bool, now: Timestamp) -> Row {
    let end = story.ended.unwrap_or(now);
    let took = end.duration_since(story.begun).as_millis();
    Row {
        release: story.number,
        revision: story.to.clone(),
        images: story.images.clone(),
        begun: story.begun,
        took_ms: i64::try_from(took).unwrap_or(i64::MAX),
        outcome: story.outcome.clone().unwrap_or_else(|| "Running".to_owned()),
        reason: story.reason.clone().or_else(|| story.message.clone()),
        moved: story.moved(),
        unannounced: told.then_some(story.unannounced),
    }
}

/// A table of releases.
pub fn render(rows: &[Row], live: &WebSocketRollout) -> String {
    if rows.is_empty() {
        let name = live.metadata.name.as_deref().unwrap_or_default();
        return format!("{name} had no release yet: change spec.template to start one.\n");
    }
    let heading = [
        "RELEASE",
        "REVISION",
        "IMAGES",
        "BEGUN",
        "TOOK",
        "OUTCOME",
        "REASON",
        "MOVED",
        "UNANNOUNCED",
    ];
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let lines = rows.iter().map(|row| {
        vec![
            format!("#{}", row.release),
            row.revision.clone(),
            dash(row.images.join(",")),
            at(row.begun),
            short(SignedDuration::from_millis(row.took_ms)),
            row.outcome.clone(),
            dash(row.reason.clone().unwrap_or_default()),
            row.moved.to_string(),
            row.unannounced.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        ]
    });
    let heading = heading.map(str::to_owned).to_vec();
    table(&std::iter::once(heading).chain(lines).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live() -> WebSocketRollout {
        serde_json::from_value(json!({
            "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout", "metadata": {"name": "chat", "namespace": "prod"},
            "spec": {"template": {}, "traffic": {"port": 8080, "routes": [{"name": "chat"}]}, "probes": {"url": "ws://x/ws"}},
            "status": {"releases": 3, "history": [
                {"number": 2, "revision": "xwvts98765", "result": "RolledBack", "message": "state lost", "moved": 40,
                    "startedAt": "2026-11-21T08:00:00Z", "endedAt": "2026-11-21T08:10:00Z"},
                {"number": 1, "revision": "bcdfg24567", "result": "Completed", "moved": 900,
                    "startedAt": "2026-11-20T08:00:00Z", "endedAt": "2026-11-20T09:30:00Z"},
            ]},
        }))
        .unwrap()
    }

    fn story(value: serde_json::Value) -> Story {
        serde_json::from_value(value).unwrap()
    }

    fn stories() -> Stories {
        Stories(vec![
            story(
                json!({"v": 1, "number": 3, "id": "r3abcd", "from": "bcdfg24567", "to": "ghjkl13579", "images": ["chat:3"],
                "begun": "2026-11-22T08:00:00Z", "sessions": 1000, "drain": {"notified": 120, "closedClean": 100, "closedForced": 1}}),
            ),
            story(
                json!({"v": 1, "number": 2, "id": "r2abcd", "from": "bcdfg24567", "to": "xwvts98765", "images": ["chat:2"],
                "begun": "2026-11-21T08:00:00Z", "ended": "2026-11-21T08:10:00Z", "outcome": "RolledBack", "reason": "StateLoss",
                "sessions": 900, "unannounced": 2, "drain": {"notified": 40, "closedClean": 40, "closedForced": 0}}),
            ),
        ])
    }

    #[test]
    fn releases_with_and_without_a_story() {
        let live = live();
        let rows = rows(&stories(), &live, "2026-11-22T08:02:05Z".parse().unwrap());
        assert_eq!(
            render(&rows, &live),
            "\
RELEASE  REVISION    IMAGES  BEGUN                 TOOK   OUTCOME     REASON     MOVED  UNANNOUNCED
#3       ghjkl13579  chat:3  2026-11-22T08:00:00Z  2m5s   Running     -          101    0
#2       xwvts98765  chat:2  2026-11-21T08:00:00Z  10m    RolledBack  StateLoss  40     2
#1       bcdfg24567  -       2026-11-20T08:00:00Z  1h30m  Completed   -          900    -
"
        );
    }

    #[test]
    fn programs_read_the_same() {
        let rows = rows(&stories(), &live(), "2026-11-22T08:02:05Z".parse().unwrap());
        let told = serde_json::to_value(&rows[1]).unwrap();
        assert_eq!(
            told,
            json!({"release": 2, "revision": "xwvts98765", "images": ["chat:2"], "begun": "2026-11-21T08:00:00Z", "tookMs": 600_000,
                "outcome": "RolledBack", "reason": "StateLoss", "moved": 40, "unannounced": 2})
        );
    }

    #[test]
    fn no_release_yet() {
        let mut live = live();
        live.status = None;
        let text = render(&rows(&Stories::default(), &live, Timestamp::UNIX_EPOCH), &live);
        assert!(text.contains("no release yet"), "{text}");
    }
}
