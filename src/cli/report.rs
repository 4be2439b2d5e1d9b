//! `wsroll report`: the story of one release on one page: a timeline, figures, verdicts, what to look at. From what the operator
//! keeps in the cluster, or from the audit trail, which has every event.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::cluster::Target;
use super::output::{self, Format, table};
use crate::report::audit::AuditRecord;
use crate::report::story::page::{Block, Page, at, page};
use crate::report::story::{Read, Stories, Story, from_records};

/// Which release to report, from where, and how.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    target: Target,
    /// The release's number [default: the one that runs, or the last]
    #[arg(long, value_name = "N")]
    release: Option<u64>,
    /// Read this audit trail (JSON lines) instead of the cluster, and list every event; no cluster is asked
    #[arg(long, value_name = "FILE")]
    audit_file: Option<PathBuf>,
    /// Print the report as
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Form,
}

/// A form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For a terminal.
    #[default]
    Text,
    /// For a ticket or a page.
    Markdown,
    /// For programs: the story, and with --audit-file the events.
    Json,
}

impl ReportArgs {
    /// Reads the story and prints it.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            target,
            release,
            audit_file,
            output,
        } = self;
        let now = Timestamp::now();
        let text = match audit_file {
            Some(file) => {
                let file = read(&file, &target.name, target.namespace.as_deref())?;
                from_file(file, &target.name, release, output, now)?
            }
            None => from_cluster(target, release, output, now).await?,
        };
        output::print(&text)
    }
}

async fn from_cluster(
    target: Target,
    release: Option<u64>,
    form: Form,
    now: Timestamp,
) -> anyhow::Result<String> {
    let rollout = target.connect().await?;
    let live = rollout.get().await?;
    let mut stories = rollout.stories(&live).await;
    if let Some(status) = &live.status {
        add_bare(&mut stories, status.history.iter().map(Story::of_past));
    }
    let name = live.metadata.name.as_deref().unwrap_or_default();
    let namespace = live.metadata.namespace.as_deref().unwrap_or_default();
    let story = choose(&stories, release, name)?;
    render(&page(namespace, name, story, now), &json!({"story": story}), form)
}

/// Releases whose stories nobody kept, as far as the status tells them.
fn add_bare(stories: &mut Stories, past: impl Iterator<Item = Story>) {
    let missing: Vec<Story> = past.filter(|s| stories.get(s.number).is_none()).collect();
    stories.0.extend(missing);
    stories.0.sort_by_key(|story| std::cmp::Reverse(story.number));
}

fn choose<'a>(stories: &'a Stories, release: Option<u64>, name: &str) -> anyhow::Result<&'a Story> {
    let Some(last) = stories.0.first() else {
        bail!("{name} had no release yet: change spec.template to start one");
    };
    let Some(number) = release else { return Ok(last) };
    stories.get(number).with_context(|| {
        let known: Vec<String> = stories.0.iter().map(|s| s.number.to_string()).collect();
        format!(
            "the story of release {number} of {name} is not kept: {} are; older ones are in the audit trail, --audit-file",
            known.join(", ")
        )
    })
}

fn read(file: &Path, name: &str, namespace: Option<&str>) -> anyhow::Result<Read> {
    let lines = File::open(file).with_context(|| format!("failed to open {}", file.display()))?;
    Read::of(BufReader::new(lines), name, namespace)
        .with_context(|| format!("failed to read {}", file.display()))
}

/// The report from an audit trail.
pub fn from_file(
    mut read: Read,
    name: &str,
    release: Option<u64>,
    form: Form,
    now: Timestamp,
) -> anyhow::Result<String> {
    let found: Vec<&str> = read.records.iter().map(|r| r.namespace.as_str()).collect();
    let Some(namespace) = found.first().map(ToString::to_string) else {
        let elsewhere: Vec<_> = read.namespaces.iter().cloned().collect();
        match elsewhere.as_slice() {
            [] => bail!("no record in it is of a rollout {name}"),
            some => bail!(
                "the records of {name} are of namespace {}: name it with --namespace",
                some.join(", ")
            ),
        }
    };
    if found.iter().any(|other| *other != namespace) {
        let all: Vec<_> = read.namespaces.iter().cloned().collect();
        bail!(
            "there is a {name} in several namespaces: choose one with --namespace, {}",
            all.join(" or ")
        );
    }
    let Some(number) = release.or_else(|| read.last()) else {
        bail!("no record of {name} is of a release");
    };
    read.keep(number);
    let Some(story) = from_records(&read.records) else {
        bail!("no record of {name} is of release {number}");
    };
    let mut page = page(&namespace, name, &story, now);
    page.blocks.push(Block::Heading("Events"));
    page.blocks.push(Block::Text(completeness(&read)));
    page.blocks.push(events(&read.records));
    let value = json!({"story": story, "lost": read.lost, "skipped": read.skipped, "events": read.records});
    render(&page, &value, form)
}

fn completeness(read: &Read) -> String {
    let mut text = format!("{} events.", read.records.len());
    if read.lost > 0 {
        let _ = write!(
            text,
            " {} records, of any rollout, were dropped by the sink.",
            read.lost
        );
    }
    if read.skipped > 0 {
        let _ = write!(
            text,
            " {} lines were left out: they are no records that this version knows.",
            read.skipped
        );
    }
    text
}

fn events(records: &[AuditRecord]) -> Block {
    let rows = records.iter().map(|record| {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let kind: &'static str = (&record.event).into();
        vec![
            at(record.time),
            kind.to_owned(),
            dash(&record.revision),
            dash(&record.pod),
            details(record),
        ]
    });
    Block::Table(vec!["TIME", "EVENT", "REVISION", "POD", "DATA"], rows.collect())
}

/// The event's data as `name=value`, in the format's own names.
fn details(record: &AuditRecord) -> String {
    let event = serde_json::to_value(&record.event).unwrap_or_default();
    let data = event.as_object().and_then(|event| event.values().next()).cloned();
    let Some(Value::Object(data)) = data else {
        return String::new();
    };
    let parts = data.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    parts.collect::<Vec<_>>().join(" ")
}

fn render(page: &Page, value: &Value, form: Form) -> anyhow::Result<String> {
    match form {
        Form::Text => Ok(page.text(table)),
        Form::Markdown => Ok(page.markdown()),
        Form::Json => Format::Json.render(value),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
