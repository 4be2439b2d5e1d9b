//! Sessions that are held while a release goes on: a real `wsroll load`, beside the test, as users are beside the operator.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};

use super::Case;
use super::app::SESSION_KEY;

/// How long the load may take to count up: it waits 10 s for late answers.
const COUNTING: Duration = Duration::from_secs(40);

/// One second of the load.
#[expect(dead_code, reason = "people read all of it when a test fails")]
#[derive(Debug, Clone, Deserialize)]
pub struct Tick {
    /// Sessions with an open socket.
    pub open: u64,
    /// Sessions without.
    pub down: u64,
    /// Sessions by the revision that welcomed them.
    #[serde(default)]
    pub revisions: BTreeMap<String, u64>,
}

/// What became of the sessions.
#[expect(dead_code, reason = "people read all of it when a test fails")]
#[derive(Debug, Clone, Deserialize)]
pub struct Summary {
    /// Sessions that were held.
    pub sessions: u64,
    /// Ends of sockets that nobody announced.
    pub unannounced_disconnects: u64,
    /// Ends of sockets after a notice, or with the ordered code.
    pub announced_disconnects: u64,
    /// The most ends of sockets of one session.
    pub max_disconnects_per_session: u64,
    /// Messages without an answer, and gaps in the numbers.
    pub messages_lost: u64,
    /// Sessions whose state was not found, or differed at the end.
    pub state_lost: u64,
    /// The most first connects in one second of the clock.
    pub peak_connects_per_s: u64,
    /// Sessions whose last message was not answered.
    #[serde(default)]
    pub sessions_unanswered_at_end: u64,
    /// Sessions by every revision that ever had one of their sockets.
    #[serde(default)]
    pub reached: BTreeMap<String, u64>,
    /// The most ends of sockets in one second of the clock, where the program tells.
    #[serde(default)]
    pub peak_closes_per_s: u64,
    /// Messages that were on their way when a socket was closed, where the program tells.
    #[serde(default)]
    pub messages_in_flight_at_close: u64,
    /// Ends of sockets by close code.
    #[serde(default)]
    pub close_codes: BTreeMap<String, u64>,
}

/// A running load.
pub struct Load {
    child: Child,
    ticks: watch::Receiver<Vec<Tick>>,
    summary: oneshot::Receiver<Summary>,
    sessions: u64,
}

impl Case {
    /// Opens so many sessions and waits until all of them are.
    pub async fn load(&self, sessions: u64) -> Result<Load> {
        let mut program = Command::new(&self.settings.wsroll);
        program
            .args(["load", "--url", &format!("ws://{}/ws", self.host)])
            .args(["--connect-to", &self.settings.gateway])
            .args(["--sessions", &sessions.to_string()])
            .args(["--say-every", "1s", "--duration", "600s", "--connect-rate", "100"])
            .args(["--token-key-env", "SESSION_KEY", "-o", "json"])
            .env("SESSION_KEY", SESSION_KEY);
        self.held(program, sessions).await
    }

    /// Runs a program that holds sessions and waits until all of them are open.
    pub(super) async fn held(&self, mut program: Command, sessions: u64) -> Result<Load> {
        let log = std::env::temp_dir().join(format!("wsroll-{}-load.log", self.namespace));
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).context("failed to create the load's log")?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {}", program.as_std().get_program().display()))?;
        let (ticks, summary) = read(child.stdout.take().context("no output")?);
        let mut load = Load {
            child,
            ticks,
            summary,
            sessions,
        };
        load.until("all sessions to be open", Duration::from_secs(60), |tick, all| {
            tick.open == all
        })
        .await
        .with_context(|| format!("see {}", log.display()))?;
        Ok(load)
    }
}

impl Load {
    /// Waits for a second in which it holds; `expected` is given the number of sessions as well.
    pub async fn until(
        &mut self,
        what: &str,
        within: Duration,
        expected: impl Fn(&Tick, u64) -> bool,
    ) -> Result<()> {
        let end = tokio::time::Instant::now() + within;
        loop {
            let last = self.ticks.borrow_and_update().last().cloned();
            if last.as_ref().is_some_and(|tick| expected(tick, self.sessions)) {
                return Ok(());
            }
            if !matches!(
                tokio::time::timeout_at(end, self.ticks.changed()).await,
                Ok(Ok(()))
            ) {
                bail!("the load waited {within:?} for {what}; the last second: {last:?}");
            }
        }
    }

    /// Waits until every session is open and on this revision.
    pub async fn until_all_on(&mut self, revision: &str, within: Duration) -> Result<()> {
        self.until(
            &format!("all sessions to be on {revision}"),
            within,
            |tick, all| tick.open == all && tick.revisions.get(revision) == Some(&all),
        )
        .await
    }

    /// Waits until no session has changed its revision for so long.
    pub async fn until_quiet(&mut self, quiet: Duration, within: Duration) -> Result<()> {
        let seconds = quiet.as_secs() as usize + 1;
        // What was quiet before says nothing of who is on the way now.
        let begin = self.ticks.borrow().len();
        let end = tokio::time::Instant::now() + within;
        loop {
            let still = {
                let ticks = self.ticks.borrow_and_update();
                let last = &ticks[ticks.len().saturating_sub(seconds).max(begin)..];
                last.len() == seconds && last.windows(2).all(|pair| pair[0].revisions == pair[1].revisions)
            };
            if still {
                return Ok(());
            }
            if !matches!(
                tokio::time::timeout_at(end, self.ticks.changed()).await,
                Ok(Ok(()))
            ) {
                bail!("sessions still move after {within:?}: {:?}", self.now());
            }
        }
    }

    /// The last second.
    pub fn now(&self) -> Option<Tick> {
        self.ticks.borrow().last().cloned()
    }

    /// Lets go of the sessions, and counts.
    pub async fn stop(mut self) -> Result<Summary> {
        if let Some(mut stdin) = self.child.stdin.take() {
            stdin.write_all(b"stop\n").await.context("the load has ended")?;
            stdin.flush().await?;
            // Kept open: an end of input is no request.
            let summary = tokio::time::timeout(COUNTING, &mut self.summary).await;
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
            let summary = summary
                .context("the load did not count up in time")?
                .context("the load ended without a summary")?;
            ensure!(
                summary.sessions == self.sessions,
                "sessions are missing: {summary:?}"
            );
            return Ok(summary);
        }
        bail!("the load was stopped before")
    }
}

impl Summary {
    /// No session was cut or lost anything; each was disconnected at most so often.
    pub fn unharmed(&self, disconnects: u64) -> Result<()> {
        ensure!(
            self.unannounced_disconnects == 0
                && self.messages_lost == 0
                && self.state_lost == 0
                && self.sessions_unanswered_at_end == 0
                && self.max_disconnects_per_session <= disconnects,
            "sessions were harmed (at most {disconnects} disconnects each were allowed): {self:?}"
        );
        Ok(())
    }

    /// No session was touched at all.
    pub fn untouched(&self) -> Result<()> {
        self.unharmed(0)
    }
}

/// Takes the load's lines apart, in the background.
fn read(output: tokio::process::ChildStdout) -> (watch::Receiver<Vec<Tick>>, oneshot::Receiver<Summary>) {
    #[derive(Deserialize)]
    struct Last {
        summary: Summary,
    }
    let (tick, ticks) = watch::channel(Vec::new());
    let (send, summary) = oneshot::channel();
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(second) = serde_json::from_str::<Tick>(&line) {
                tick.send_modify(|all| all.push(second));
            } else if let Ok(last) = serde_json::from_str::<Last>(&line) {
                let _ = send.send(last.summary);
                return;
            } else {
                eprintln!("load: {line}");
            }
        }
    });
    (ticks, summary)
}
