//! The end of the demo: both ways side by side, and every promise that was not held.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    figures::{Comparison, Figures},
    narrate::{Voice, say},
};

/// Prints the comparison. Gives what was promised and not held.
pub fn print(voice: Voice, figures: &Figures) -> Vec<String> {
    let lines = figures.compare();
    let (table, marks) = (render(&lines), lines.iter().map(|line| line.held));
    for (text, held) in table.iter().zip(std::iter::once(None).chain(marks)) {
        match held {
            Some(held) => say(&format!("{text}  {}", voice.mark(held))),
            None => say(text),
        }
    }
    lines
        .into_iter()
        .filter(|line| line.held == Some(false))
        .map(|line| format!("{}: {}, promised: {}", line.what, line.wsroll, line.promise))
        .collect()
}

/// Writes the figures as one JSON object.
pub fn write(figures: &Figures, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(figures).context("failed to render the figures")?;
    fs::write(file, text + "\n").with_context(|| format!("failed to write {}", file.display()))
}

/// Aligned columns under a heading.
fn render(lines: &[Comparison]) -> Vec<String> {
    let heading = ["", "wsroll", "Deployment", "promised"];
    let rows: Vec<[&str; 4]> = std::iter::once(heading)
        .chain(
            lines
                .iter()
                .map(|line| [line.what, &line.wsroll, &line.deployment, &line.promise]),
        )
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let render = |(place, row): (usize, &[&str; 4])| {
        let [what, wsroll, deployment, promise] = row;
        let text = format!(
            "{what:<0$}  {wsroll:>1$}  {deployment:>2$}  {promise:<3$}",
            widths[0], widths[1], widths[2], widths[3]
        );
        // A mark follows where something is promised.
        if place == 0 || promise.is_empty() {
            text.trim_end().to_owned()
        } else {
            text
        }
    };
    rows.iter().enumerate().map(render).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let line = |what, wsroll: &str, promise: &str| Comparison {
            what,
            wsroll: wsroll.to_owned(),
            deployment: "1,400".to_owned(),
            promise: promise.to_owned(),
            held: (!promise.is_empty()).then_some(true),
        };
        let shown = render(&[line("unannounced", "0", "0"), line("said", "12,345", "")]);
        assert_eq!(
            shown,
            [
                "             wsroll  Deployment  promised",
                "unannounced       0       1,400  0       ",
                "said         12,345       1,400",
            ]
        );
    }

    #[test]
    fn what_was_not_held_is_told() {
        let mut figures = Figures {
            wsroll: super::super::figures::Side::default(),
            deployment: super::super::figures::Side::default(),
        };
        assert!(print(Voice { terminal: false }, &figures).is_empty());
        figures.wsroll.messages_lost = 3;
        assert_eq!(
            print(Voice { terminal: false }, &figures),
            ["messages lost: 3, promised: 0"]
        );
    }
}
