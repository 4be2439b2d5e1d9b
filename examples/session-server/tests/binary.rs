//! The binary as Kubernetes runs it: environment, signals, exit codes; and what it costs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Output},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use support::{Backend, DRAIN_TOKEN, Dial, KEY, answers, eventually, free_port, request};
use tokio::time::{Instant, interval_at};
use tokio_tungstenite::tungstenite::Message;

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-server");

/// The program, ended when dropped.
struct Process {
    child: Child,
    traffic: SocketAddr,
    drain: SocketAddr,
    token_file: std::path::PathBuf,
}

impl Process {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let (traffic, drain) = (free_port(), free_port());
        let token_file =
            std::env::temp_dir().join(format!("session-server-test-{}-{traffic}", std::process::id()));
        fs::write(&token_file, format!("{DRAIN_TOKEN}\n")).unwrap();
        let mut child = Command::new(PROGRAM)
            .env("SESSION_KEY", KEY)
            .env("LISTEN", format!("127.0.0.1:{traffic}"))
            .env("WSROLL_PORT", drain.to_string())
            .env("WSROLL_TOKEN_FILE", &token_file)
            .env("VERSION", "v1")
            .env("RUST_LOG", "warn")
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        assert!(answers(traffic, &mut child).await, "the server did not start");
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            child,
            traffic: local(traffic),
            drain: local(drain),
            token_file,
        }
    }

    fn terminate(&self) {
        let kill = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
    }

    async fn exit(&mut self) -> ExitStatus {
        eventually("the process ends", async || {
            self.child.try_wait().unwrap().is_some()
        })
        .await;
        self.child.wait().unwrap()
    }

    /// Resident memory in KiB, and CPU time used so far.
    fn cost(&self) -> (u64, Duration) {
        let read = |file| fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let status = read("status");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let resident = resident.trim().trim_end_matches(" kB").parse().unwrap();
        // Fields 14 and 15, counted behind the name: user and system time in ticks of 10 ms.
        let stat = read("stat");
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        (resident, Duration::from_millis(ticks * 10))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.token_file);
    }
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn the_token_command_signs_what_the_server_accepts() {
    let output = run(
        &["token", "--user", "ann", "--tier", "gold"],
        &[("SESSION_KEY", KEY)],
    );
    let token = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        token.trim(),
        session_server::token::SessionKey::new(KEY)
            .sign("ann", "gold")
            .unwrap()
    );
    let less = run(
        &["token", "--user", "ann", "--permissions", "say-state"],
        &[("SESSION_KEY", KEY)],
    );
    assert!(
        String::from_utf8(less.stdout)
            .unwrap()
            .starts_with("ann.free.say-state.0.")
    );
    assert!(
        !run(&["token", "--user", "a.b"], &[("SESSION_KEY", KEY)])
            .status
            .success()
    );
    assert!(!run(&["token", "--user", "ann"], &[]).status.success());
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    for (environment, word) in [
        (vec![], "SESSION_KEY"),
        (vec![("SESSION_KEY", KEY), ("FAULT", "mut")], "mut"),
        (vec![("SESSION_KEY", KEY), ("STORE", "mysql://x")], "STORE"),
        (
            vec![("SESSION_KEY", KEY), ("STORE", "postgres://x:port/y")],
            "STORE",
        ),
        (
            vec![("SESSION_KEY", KEY), ("STATE_KEY_FILE", "/nonexistent")],
            "STATE_KEY_FILE",
        ),
        (
            vec![("SESSION_KEY", KEY), ("STATE_KEY_FILE", "/dev/null")],
            "no key",
        ),
        (
            vec![("SESSION_KEY", KEY), ("WSROLL_TOKEN_FILE", "/dev/null")],
            "token",
        ),
    ] {
        let output = run(&[], &environment);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && message.contains(word),
            "{environment:?}: {message}"
        );
    }
}

#[tokio::test]
async fn sigterm_ends_it_politely_and_drain_orders_are_served() {
    let mut process = Process::start(&[("WSROLL_REVISION", "7f9c")]).await;
    let mut client = Dial::user("ann").connect_at(process.traffic).await;
    assert_eq!(client.revision, "7f9c");
    let report = request(
        process.drain,
        "GET",
        "/wsroll/v1/sessions",
        Some(DRAIN_TOKEN),
        None,
    )
    .await;
    assert_eq!(
        (report.0, &report.1["open"], &report.1["revision"]),
        (200, &json!(1), &json!("7f9c"))
    );
    process.terminate();
    assert_eq!(client.until_closed().await.1, 1001);
    assert_eq!(process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn without_a_revision_the_version_is_shown_and_a_crash_exits_like_a_panic() {
    let mut process = Process::start(&[("FAULT", "crash=2"), ("WSROLL_REVISION", "")]).await;
    let mut client = Dial::user("ann").connect_at(process.traffic).await;
    assert_eq!(client.revision, "v1");
    client.say("c-1", "x").await;
    client
        .send(json!({"type": "say", "id": "c-2", "text": "x"}))
        .await;
    assert_eq!(client.until_closed().await.1, 1006);
    assert_eq!(process.exit().await.code(), Some(101));
}

/// 1,000 sockets that say something every second, for 15 s, on a Redis if there is one.
#[tokio::test]
#[ignore = "takes 20 s and prints figures instead of checking them"]
async fn what_a_thousand_sessions_cost() {
    const SOCKETS: u32 = 1000;
    const ROUNDS: u32 = 15;
    let backend = Backend::redis().await.unwrap_or_else(Backend::memory);
    let process = Process::start(&[("STORE", &backend.url)]).await;
    let (empty, _) = process.cost();
    let mut sockets = Vec::new();
    for n in 0..SOCKETS {
        sockets.push(
            Dial::user(&format!("user-{n}"))
                .open_at(process.traffic)
                .await
                .unwrap(),
        );
    }
    let (idle, cpu_before) = process.cost();
    let start = Instant::now();
    let talkers = sockets.into_iter().zip(0u32..).map(|(mut ws, n)| {
        let mut beat = interval_at(start + Duration::from_millis(u64::from(n)), Duration::from_secs(1));
        tokio::spawn(async move {
            let mut late = Duration::ZERO;
            ws.next().await.unwrap().unwrap();
            for round in 1..=ROUNDS {
                beat.tick().await;
                let said = Instant::now();
                let say = json!({"type": "say", "id": format!("c-{round}"), "text": "hello there", "ack": round - 1});
                ws.send(Message::text(say.to_string())).await.unwrap();
                let reply = ws.next().await.unwrap().unwrap();
                assert!(reply.to_text().unwrap().contains(&format!("\"seq\":{round},")));
                late = late.max(said.elapsed());
            }
            late
        })
    });
    let mut worst = Duration::ZERO;
    for talker in talkers.collect::<Vec<_>>() {
        worst = worst.max(talker.await.unwrap());
    }
    let took = start.elapsed();
    let (busy, cpu_after) = process.cost();
    let cpu = cpu_after.checked_sub(cpu_before).unwrap();
    println!(
        "{SOCKETS} sockets, store {}: {empty} KiB empty, {idle} KiB with idle sockets, {busy} KiB after {ROUNDS} messages \
         each; {:.1} % of one core over {took:?}; slowest answer {worst:?}",
        backend.url,
        100.0 * cpu.as_secs_f64() / took.as_secs_f64(),
    );
}
