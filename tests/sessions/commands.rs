//! `wsroll rehearse` against a process that it starts, stops and kills: this test program itself, as the example service.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use session_server::{Server, config::Config};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// Where the service listens, for [`serve`].
const LISTEN: &str = "WSROLL_TEST_LISTEN";
const KEY: &str = "test-key";

/// The service: ended by SIGTERM as in a pod, with its sessions in memory.
#[tokio::test]
#[ignore = "is a service: the other tests of this file start it"]
async fn serve() {
    let Ok(listen) = std::env::var(LISTEN) else {
        return;
    };
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let mut config = Config::local(KEY);
    config.listen = listen.parse().unwrap();
    let server = Server::start(config).await.unwrap();
    terminate.recv().await;
    server.shutdown().await;
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start_command(at: SocketAddr) -> String {
    let program = std::env::current_exe().unwrap();
    let program = program.display();
    format!("exec env {LISTEN}={at} {program} --ignored --exact commands::serve --nocapture")
}

async fn rehearse(at: SocketAddr, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsroll"));
    command
        .args(["rehearse", "--url", &format!("ws://{at}/ws"), "--clients", "5"])
        .args(["--token-key-env", "KEY", "--start-command", &start_command(at)])
        .args(flags)
        .env("KEY", KEY)
        .kill_on_drop(true);
    timeout(Duration::from_mins(3), command.output())
        .await
        .unwrap()
        .unwrap()
}

fn outcomes(report: &Value) -> Vec<(String, String)> {
    let scenarios = report["runs"][0]["scenarios"].as_array().unwrap();
    let outcome = |scenario: &Value| {
        let kind = scenario["outcome"]
            .as_object()
            .unwrap()
            .keys()
            .next()
            .unwrap()
            .clone();
        (scenario["scenario"].as_str().unwrap().to_owned(), kind)
    };
    scenarios.iter().map(outcome).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    list.iter().map(owned).collect()
}

#[tokio::test]
async fn a_service_of_any_protocol_is_rehearsed_by_commands() {
    let (at, second) = (free(), free());
    let (address, start) = (second.to_string(), start_command(second));
    let flags = ["--second-connect-to", &address, "--second-start-command", &start];
    let output = rehearse(at, &[&flags[..], &["--dialect", "ping", "-o", "json"]].concat()).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    let expected = pairs(&[
        ("HandOff", "passed"),
        ("StatePreservation", "skipped"),
        ("GracefulShutdown", "passed"),
        ("Crash", "passed"),
        ("BackOff", "passed"),
    ]);
    assert_eq!(outcomes(&report), expected, "{report:#}");
    for left in [at, second] {
        TcpStream::connect(left).unwrap_err();
    }
}

#[tokio::test]
async fn sessions_in_memory_do_not_survive_a_crash() {
    let at = free();
    let output = rehearse(
        at,
        &["--scenarios", "HandOff,StatePreservation,Crash", "-o", "junit"],
    )
    .await;
    let xml = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{xml}");
    assert!(xml.contains("tests=\"3\" failures=\"1\" skipped=\"1\""), "{xml}");
    assert!(
        xml.contains("name=\"Crash\"") && xml.contains("<failure type=\"stateEqual\""),
        "{xml}"
    );
    assert!(
        xml.contains("--second-connect-to"),
        "the missing flag is named: {xml}"
    );
    TcpStream::connect(at).unwrap_err();
}

#[tokio::test]
async fn a_cycle_plays_until_its_time_is_over_and_an_interrupt_leaves_nothing_behind() {
    let at = free();
    let flags = ["--scenarios", "StatePreservation", "--duration", "1h"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsroll"));
    let mut child = command
        .args(["rehearse", "--url", &format!("ws://{at}/ws"), "--clients", "2,3"])
        .args(["--token-key-env", "KEY", "--start-command", &start_command(at)])
        .args(flags)
        .env("KEY", KEY)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stderr.take().unwrap()));
    let third = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "3 played: 3 passed, 0 failed, 0 skipped" {
                return true;
            }
        }
        false
    };
    assert!(
        timeout(Duration::from_mins(2), third).await.unwrap(),
        "three turns"
    );
    let pid = child.id().unwrap().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let drain = async { while lines.next_line().await.unwrap().is_some() {} };
    let (output, ()) = tokio::join!(child.wait_with_output(), drain);
    assert!(!output.unwrap().status.success(), "interrupted");
    TcpStream::connect(at).unwrap_err();
}
