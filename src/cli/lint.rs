//! `wsroll lint`: what will go wrong, from the manifests alone.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::output;
use crate::lint::{Finding, Objects, Severity, check};

/// What the manifests are checked with.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// YAML files with rollouts and whatever is applied beside them (Services, routes, autoscalers …); `-` is stdin
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How findings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One JSON object
    Json,
}

impl LintArgs {
    /// Prints what is found; an error where anything of it is one.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { files, output: form } = self;
        let mut objects = Objects::default();
        for file in &files {
            let text = if file.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                text
            } else {
                std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?
            };
            objects.read(&text).with_context(|| file.display().to_string())?;
        }
        if objects.of("WebSocketRollout").next().is_none() {
            bail!("there is no WebSocketRollout in these files");
        }
        let found = check(&objects);
        output::print(&match form {
            Output::Text => text(&found),
            Output::Json => serde_json::to_string_pretty(&json!({"findings": found}))? + "\n",
        })?;
        match count(&found, Severity::Error) {
            0 => Ok(()),
            1 => bail!("1 finding is an error"),
            errors => bail!("{errors} findings are errors"),
        }
    }
}

fn text(found: &[Finding]) -> String {
    let mut text = String::new();
    for Finding {
        severity,
        object,
        rule,
        field,
        problem,
        remedy,
    } in found
    {
        let severity = severity.to_string().to_lowercase();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{severity}: {object}: {field} ({rule})\n  {problem}\n  remedy: {remedy}"
        );
    }
    let (errors, warnings) = (count(found, Severity::Error), count(found, Severity::Warning));
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let _ = writeln!(
        text,
        "{errors} error{}, {warnings} warning{}",
        s(errors),
        s(warnings)
    );
    text
}

fn count(found: &[Finding], severity: Severity) -> usize {
    found.iter().filter(|f| f.severity == severity).count()
}
