//! What verbs print on stdout.

use std::io::{ErrorKind, Write as _};

use clap::ValueEnum;
use serde::Serialize;

/// A form that programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON, indented.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// The value in this form, with a line break at the end.
    pub fn render(self, value: &impl Serialize) -> anyhow::Result<String> {
        let mut text = match self {
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Yaml => serde_saphyr::to_string(value)?,
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }
}

/// Writes to stdout. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// An error with its causes, a line each; causes that an outer error repeats already are left out.
pub fn explain<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut told: Vec<String> = Vec::new();
    for error in chain.map(ToString::to_string) {
        if !told.iter().any(|outer| outer.contains(&error)) {
            told.push(error);
        }
    }
    let lines = told.iter().enumerate();
    lines
        .map(|(n, line)| {
            if n == 0 {
                format!("error: {line}\n")
            } else {
                format!("  because: {line}\n")
            }
        })
        .collect()
}

/// Lines up a table: two spaces between columns, no trailing ones. The first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|c| c.chars().count())
            .max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Text as XML 1.0 takes it, in attributes too; characters that it has no way to write are left out.
pub fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' => escaped.push(c),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [["NAME", "N"], ["ä", "10"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME  N\nä     10\n");
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file")
            .context("failed to read: no such file")
            .context("no cluster");
        assert_eq!(
            explain(error.chain()),
            "error: no cluster\n  because: failed to read: no such file\n"
        );
    }

    #[test]
    fn both_forms_say_the_same() {
        let value = serde_json::json!({"message": "yes: no", "on": "1.0", "list": [1, null], "text": "a\nb"});
        let json: serde_json::Value = serde_json::from_str(&Format::Json.render(&value).unwrap()).unwrap();
        let yaml: serde_json::Value = serde_saphyr::from_str(&Format::Yaml.render(&value).unwrap()).unwrap();
        assert_eq!((json, yaml), (value.clone(), value));
    }
}
