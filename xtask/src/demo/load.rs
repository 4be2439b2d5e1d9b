//! The users: `wsroll load` as a child process, read line by line.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{narrate::say, setup::Stage};
use crate::{
    interrupt, shell,
    wait::{self, Stopwatch},
};

/// Sessions opened per second.
const CONNECT_RATE: u32 = 100;

/// How long the users may take to say their last and hear the answers.
const FAREWELL: Duration = Duration::from_secs(120);

/// One second of the load.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Line {
    /// Sessions on an open socket.
    pub open: u32,
    /// Sessions that were open before and are not now.
    pub down: u32,
    /// Open sessions by the revision that welcomed them.
    pub revisions: BTreeMap<String, u32>,
    /// Sessions that came back in this second.
    pub reconnects: u64,
    /// Attempts that failed in this second.
    #[serde(default)]
    pub failures: u64,
}

/// What became of all sessions; `session::load` of wsroll says what each means.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Sessions held.
    pub sessions: u32,
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
    /// Sessions not found again, or whose state differed at the end.
    pub state_lost: u64,
    /// Most first connects after a loss or notice in one second of the wall clock.
    pub peak_connects_per_s: u64,
    /// Most sessions down at one moment.
    pub peak_down: u32,
    /// Median of the time from losing a socket to the next answer, in milliseconds.
    pub downtime_ms_p50: u64,
    /// 99th percentile of the same.
    pub downtime_ms_p99: u64,
    /// Sessions whose last message got no answer.
    pub sessions_unanswered_at_end: u64,
    /// Sessions that each revision ever accepted.
    pub reached: BTreeMap<String, u64>,
    /// First connects after a loss or notice, by second of the wall clock.
    pub connects_by_second: Vec<(i64, u64)>,
}

/// The users of one act. Dropping it ends them without a word.
#[derive(Debug)]
pub struct Load {
    child: Child,
    complaints: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    line: Line,
    summary: Option<Summary>,
    unreadable: Option<String>,
}

/// What the load writes.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Message {
    End { summary: Summary },
    Line(Line),
}

// === impl Summary ===

impl Summary {
    /// Sessions that a revision ever accepted.
    pub fn reached(&self, revision: &str) -> u64 {
        self.reached.get(revision).copied().unwrap_or(0)
    }

    /// Seconds from the first session that had to come back to the last one.
    pub fn seconds_of_moving(&self) -> f64 {
        match (self.connects_by_second.first(), self.connects_by_second.last()) {
            (Some((first, _)), Some((last, _))) => (last - first + 1) as f64,
            _ => 0.0,
        }
    }
}

// === impl Load ===

impl Load {
    /// Lets the users of a service come, and waits until all are there.
    pub fn arrive(stage: &Stage, service: &str) -> Result<Self> {
        let complaints = stage.work.join(format!("load-{service}.log"));
        let log = fs::File::create(&complaints)
            .with_context(|| format!("failed to create {}", complaints.display()))?;
        let mut child = shell::command(&stage.wsroll)
            .args(["load", "--output", "json", "--say-every", "1s"])
            .args(["--url", &stage.url(service)])
            .args(["--connect-to", &stage.cluster.gateway_host])
            .args(["--sessions", &stage.size.sessions.to_string()])
            .args(["--connect-rate", &CONNECT_RATE.to_string()])
            // A limit of last resort: they are told to stop.
            .args(["--duration", "1h", "--token-key-env", "SESSION_KEY"])
            .env("SESSION_KEY", &stage.key)
            .env(
                "WSROLL_LOG",
                std::env::var("WSROLL_LOG").unwrap_or_else(|_| "warn".to_owned()),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {}", stage.wsroll.display()))?;
        let output = child.stdout.take().context("the load has no output")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                take(&mut lock(&shared), &line);
            }
        });
        let mut load = Self {
            child,
            complaints,
            seen,
        };
        load.await_all(stage)?;
        Ok(load)
    }

    /// The last second.
    pub fn now(&mut self) -> Result<Line> {
        interrupt::check()?;
        if let Some(status) = self.child.try_wait().context("failed to look after the load")? {
            bail!("the load ended early ({status}): {}", self.complaints());
        }
        let seen = lock(&self.seen);
        if let Some(line) = &seen.unreadable {
            bail!("the load wrote what cannot be read: {line}");
        }
        Ok(seen.line.clone())
    }

    /// Tells them to stop, and gives what became of them.
    pub fn leave(mut self) -> Result<Summary> {
        if let Some(mut input) = self.child.stdin.take() {
            writeln!(input, "stop").context("failed to stop the load")?;
        }
        let watch = Stopwatch::start();
        while self
            .child
            .try_wait()
            .context("failed to wait for the load")?
            .is_none()
        {
            interrupt::check()?;
            ensure!(watch.elapsed() < FAREWELL, "the load does not stop");
            wait::sleep(Duration::from_millis(100));
        }
        wait::until("the load's summary", Duration::from_secs(5), || {
            let summary = lock(&self.seen).summary.clone();
            summary.with_context(|| format!("it ended without one: {}", self.complaints()))
        })
    }

    fn await_all(&mut self, stage: &Stage) -> Result<()> {
        let sessions = stage.size.sessions;
        let watch = Stopwatch::start();
        let limit = Duration::from_secs(60 + u64::from(4 * sessions / CONNECT_RATE));
        loop {
            let line = self.now()?;
            if line.open >= sessions {
                let took = watch.elapsed().as_secs();
                say(&format!("{sessions} sessions are open after {took} s"));
                return Ok(());
            }
            ensure!(
                watch.elapsed() < limit,
                "only {} of {sessions} sessions could be opened: {}",
                line.open,
                self.complaints()
            );
            wait::sleep(Duration::from_millis(200));
        }
    }

    fn complaints(&self) -> String {
        let said = fs::read_to_string(&self.complaints).unwrap_or_default();
        shell::tail(&said, 5)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn take(seen: &mut Seen, line: &str) {
    match serde_json::from_str(line) {
        Ok(Message::End { summary }) => seen.summary = Some(summary),
        Ok(Message::Line(line)) => seen.line = line,
        Err(error) => seen.unreadable = Some(format!("{error}: {line}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every line is taken whole, so what is there is whole even after a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_the_summary_are_told_apart() {
        let mut seen = Seen::default();
        take(
            &mut seen,
            r#"{"t_ms":2000,"open":9,"down":1,"revisions":{"bcd":9},"connects":4,"reconnects":3,"notices":3,
                "failures":0,"messages_sent":10,"messages_received":10}"#,
        );
        assert_eq!((seen.line.open, seen.line.revisions["bcd"]), (9, 9));
        assert!(seen.summary.is_none());
        take(
            &mut seen,
            r#"{"summary":{"sessions":10,"unannounced_disconnects":2,"reached":{"bcd":10},
                "close_codes":{"1012":9},"connects_by_second":[[100,4],[104,5]]}}"#,
        );
        let summary = seen.summary.unwrap();
        assert_eq!(summary.unannounced_disconnects, 2);
        assert_eq!((summary.reached("bcd"), summary.reached("fgh")), (10, 0));
        assert!((summary.seconds_of_moving() - 5.0).abs() < 1e-9);
        assert!(seen.unreadable.is_none());
    }

    #[test]
    fn what_cannot_be_read_is_kept() {
        let mut seen = Seen::default();
        take(&mut seen, "panicked");
        assert!(seen.unreadable.unwrap().ends_with("panicked"));
    }
}
