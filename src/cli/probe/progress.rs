//! A line on a terminal that says how far the probe is; nothing where nobody looks.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::session::Times;

/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(200);
/// How wide the bar is.
const WIDTH: usize = 30;

/// The line, while it is shown.
pub(super) struct Shown(Option<JoinHandle<()>>);

/// Shows the line, if stderr is a terminal.
pub(super) fn show(times: Times, sessions: u64) -> Shown {
    if !std::io::stderr().is_terminal() {
        return Shown(None);
    }
    Shown(Some(tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            // Each session is restored twice: opened, and reconnected.
            let _ = write!(std::io::stderr(), "\r{}", line(times.count(), 2 * sessions));
        }
    })))
}

impl Shown {
    /// Takes the line away.
    pub(super) fn finish(self) {
        if let Some(shown) = self.0 {
            shown.abort();
            let _ = write!(std::io::stderr(), "\r{:1$}\r", "", WIDTH + 40);
        }
    }
}

fn line(done: u64, all: u64) -> String {
    let filled = (done.min(all) as usize * WIDTH) / all.max(1) as usize;
    let bar = "#".repeat(filled) + &" ".repeat(WIDTH - filled);
    format!("[{bar}] {done} of {all} connects restored")
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn the_bar_is_never_longer_than_itself() {
        assert_eq!(
            line(0, 2),
            format!("[{}] 0 of 2 connects restored", " ".repeat(30))
        );
        assert_eq!(
            line(1, 2),
            format!("[{}{}] 1 of 2 connects restored", "#".repeat(15), " ".repeat(15))
        );
        assert_eq!(
            line(3, 2),
            format!("[{}] 3 of 2 connects restored", "#".repeat(30))
        );
        assert_eq!(line(0, 0).len(), line(0, 9).len());
    }
}
