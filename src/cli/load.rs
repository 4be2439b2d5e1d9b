//! `wsroll load`: holds sessions as users would and says what became of them.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::duration;
use super::service::ServiceArgs;
use crate::session::SessionConfig;
use crate::session::load::{Line, Load, LoadConfig, Summary};

const USER_AGENT: &str = concat!("wsroll-load/", env!("CARGO_PKG_VERSION"));

/// Hold WebSocket sessions, move with their service, and count what gets lost
#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Sessions to hold
    #[arg(long, default_value_t = 100)]
    sessions: u32,
    /// How often each session says something
    #[arg(long, default_value = "1s", value_parser = duration)]
    say_every: Duration,
    /// How long to hold them; a signal, or a line "stop" on standard input, ends it earlier
    #[arg(long, default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// Sessions to open per second
    #[arg(long, default_value_t = 100.0)]
    connect_rate: f64,
    /// Open the new socket before leaving the old one, where a notice allows it
    #[arg(long)]
    make_before_break: bool,
    /// Do not tell the service that notices are understood
    #[arg(long)]
    no_notice: bool,
    /// A message without an answer for this long makes the session reconnect
    #[arg(long, default_value = "15s", value_parser = duration)]
    answer_timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Serialize)]
struct Last<'a> {
    summary: &'a Summary,
}

// === impl LoadArgs ===

impl LoadArgs {
    /// Runs the load to its end.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            service,
            sessions,
            say_every,
            duration,
            connect_rate,
            make_before_break,
            no_notice,
            answer_timeout,
            output,
        } = self;
        anyhow::ensure!(!say_every.is_zero(), "--say-every: must be above 0");
        anyhow::ensure!(connect_rate > 0.0, "--connect-rate: must be above 0");
        let mut session = SessionConfig::new(service.endpoint(USER_AGENT)?);
        session.dialect = service.dialect()?;
        session.script = service.compiled()?;
        session.declare_notice = !no_notice;
        session.make_before_break = make_before_break;
        session.answer_timeout = Some(answer_timeout);
        let (signer, own) = (service.signer()?, service.token("load")?);
        let config = LoadConfig {
            session: Arc::new(session),
            sessions,
            say_every,
            connect_rate,
            token: Box::new(move |place| match &signer {
                Some(signer) => signer.sign(&format!("load-{place}")),
                None => own.clone(),
            }),
        };

        let load = Load::start(&config, Timestamp::now());
        let second = Duration::from_secs(1);
        let mut tick = interval_at(Instant::now() + second, second);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = std::pin::pin!(stopped(duration)?);
        loop {
            tokio::select! {
                _ = tick.tick() => if print(output, &load.line(), line_text).is_err() {
                    break; // nobody reads any more
                },
                () = &mut stop => break,
            }
        }
        let summary = load.stop().await;
        match output {
            Output::Json => print(output, &Last { summary: &summary }, |_| String::new())?,
            Output::Text => print(output, &summary, summary_text)?,
        }
        Ok(())
    }
}

/// Ends at the limit, at a signal, or at a line `stop` on standard input.
fn stopped(limit: Duration) -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
    let (said_stop, mut told_stop) = mpsc::channel(1);
    // A thread of its own, since a blocked read would keep the runtime from ending.
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lines().map_while(Result::ok);
        if lines.any(|line| line.trim() == "stop") {
            // Nobody listens once the load has ended by itself.
            let _ = said_stop.blocking_send(());
        }
    });
    Ok(async move {
        tokio::select! {
            () = sleep(limit) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            Some(()) = told_stop.recv() => {}
        }
    })
}

fn print<T: Serialize>(output: Output, value: &T, text: impl Fn(&T) -> String) -> anyhow::Result<()> {
    let line = match output {
        Output::Json => serde_json::to_string(value)?,
        Output::Text => text(value),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())?;
    Ok(())
}

fn line_text(line: &Line) -> String {
    let Line {
        t_ms,
        open,
        down,
        revisions,
        connects,
        reconnects,
        notices,
        failures,
        messages_sent,
        messages_received,
    } = line;
    let revisions: Vec<String> = revisions
        .iter()
        .map(|(revision, count)| format!("{revision}: {count}"))
        .collect();
    format!(
        "{:>5} s  open {open:>5}  down {down:>4}  [{}]  connects {connects}  back {reconnects}  notices {notices}  \
         failures {failures}  sent {messages_sent}  received {messages_received}",
        t_ms / 1000,
        revisions.join(", "),
    )
}

fn summary_text(summary: &Summary) -> String {
    let Summary {
        sessions,
        unannounced_disconnects,
        announced_disconnects,
        max_disconnects_per_session,
        mean_disconnects_per_session,
        messages_sent,
        messages_received,
        messages_lost,
        duplicates_dropped,
        state_lost,
        peak_connects_per_s,
        peak_down,
        downtime_ms_p50,
        downtime_ms_p99,
        sessions_unanswered_at_end,
        reached,
        close_codes,
        connects_by_second: _, // for machines
    } = summary;
    format!(
        "sessions              {sessions}, reached {reached:?}\n\
         disconnects           {unannounced_disconnects} unannounced, {announced_disconnects} announced, \
         per session {mean_disconnects_per_session:.2} (at most {max_disconnects_per_session}), codes {close_codes:?}\n\
         messages              {messages_sent} sent, {messages_received} received, {messages_lost} lost, \
         {duplicates_dropped} duplicates dropped\n\
         state lost            {state_lost}\n\
         most at once          {peak_connects_per_s} connects in one second, {peak_down} down\n\
         downtime              p50 {downtime_ms_p50} ms, p99 {downtime_ms_p99} ms\n\
         unanswered at the end {sessions_unanswered_at_end}"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        load: LoadArgs,
    }

    #[test]
    fn defaults_need_only_a_url() {
        let Cli { load } = Cli::parse_from(["load", "--url", "ws://chat/ws"]);
        assert_eq!(load.sessions, 100);
        assert_eq!(load.say_every, Duration::from_secs(1));
        assert_eq!(load.output, Output::Text);
    }

    #[test]
    fn the_summary_has_the_fields_that_others_read() {
        let json = serde_json::to_value(Summary::default()).unwrap();
        for field in [
            "unannounced_disconnects",
            "messages_lost",
            "peak_connects_per_s",
            "close_codes",
            "connects_by_second",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
