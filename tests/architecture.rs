//! Who may know whom: data flows one way, and the rooms that decide know nothing of the rooms that act.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::path::{Path, PathBuf};

/// The rooms of `src`.
const ROOMS: [&str; 16] = [
    "analysis",
    "api",
    "cli",
    "conformance",
    "drain",
    "engine",
    "lint",
    "operator",
    "outbound",
    "probe",
    "proxy",
    "report",
    "session",
    "traffic",
    "web",
    "workload",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below a path, with its text without comments.
fn files(path: &Path) -> Vec<(PathBuf, String)> {
    if path.is_file() {
        let text = std::fs::read_to_string(path).expect("a source file");
        let code: Vec<&str> = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect();
        return vec![(path.to_owned(), code.join("\n"))];
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    entries.sort();
    entries
        .iter()
        .filter(|p| p.is_dir() || p.extension().is_some_and(|e| e == "rs"))
        .flat_map(|p| files(p))
        .collect()
}

/// Whether `code` names `word`, not as a part of a longer name.
fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn forbid(path: &str, words: &[String]) {
    let found: Vec<String> = files(&source().join(path))
        .iter()
        .flat_map(|(file, code)| {
            words
                .iter()
                .filter(|word| names(code, word))
                .map(move |word| format!("{}: {word}", file.display()))
        })
        .collect();
    assert!(found.is_empty(), "{path} knows what it must not: {found:#?}");
}

/// The rooms that `path` may not name: all but these.
fn rooms_but(known: &[&str]) -> Vec<String> {
    ROOMS
        .iter()
        .filter(|room| !known.contains(room))
        .flat_map(|room| [format!("crate::{room}"), format!("wsroll::{room}")])
        .collect()
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Whatever talks to the world, waits, or reads a clock.
const OUTSIDE: [&str; 12] = [
    "tokio",
    "reqwest",
    "hyper",
    "axum",
    "std::net",
    "std::fs",
    "std::process",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
    "std::env",
];

/// The same, where addresses are data.
const OUTSIDE_PURE: [&str; 6] = ["tokio", "reqwest", "hyper", "std::fs", "Instant", "std::env"];

#[test]
fn the_engine_decides_from_what_it_is_shown() {
    forbid("engine", &rooms_but(&["engine", "api"]));
    forbid("engine", &words(&OUTSIDE));
    forbid("engine", &words(&["kube", "k8s_openapi", "rand"]));
}

#[test]
fn the_resource_is_data() {
    forbid("api", &rooms_but(&["api"]));
    forbid("api", &words(&OUTSIDE));
    forbid(
        "api",
        &words(&[
            "kube::Client",
            "kube::client",
            "kube::runtime",
            "kube::Api",
            "kube::api",
        ]),
    );
}

#[test]
fn the_drain_protocol_is_wire_types() {
    forbid("drain/protocol.rs", &rooms_but(&[]));
    forbid("drain/protocol.rs", &words(&OUTSIDE));
    forbid(
        "drain/protocol.rs",
        &words(&["kube", "k8s_openapi", "super::client"]),
    );
}

/// What is wrong with manifests is told from the manifests.
#[test]
fn lint_reads_and_asks_nobody() {
    forbid(
        "lint",
        &rooms_but(&["lint", "api", "drain", "traffic", "workload"]),
    );
    forbid("lint", &words(&OUTSIDE));
    forbid("lint", &words(&["kube::Client", "kube::Api"]));
}

/// Who may be dialled is decided without knowing who asks.
#[test]
fn the_outbound_policy_knows_nobody() {
    forbid("outbound", &rooms_but(&["outbound"]));
    forbid("outbound/policy.rs", &words(&OUTSIDE_PURE));
}

#[test]
fn only_the_operator_and_the_command_line_know_the_operator() {
    for room in ROOMS.iter().filter(|room| !matches!(**room, "operator" | "cli")) {
        forbid(room, &words(&["crate::operator"]));
    }
}

#[test]
fn the_conformance_check_knows_the_protocol_and_a_client_and_nothing_else() {
    forbid("conformance", &rooms_but(&["conformance", "drain", "session"]));
    // It has to be freer than the operator's own client is.
    forbid("conformance", &words(&["DrainClient"]));
}

/// It asks other systems, and judges nothing.
#[test]
fn analysis_knows_the_spec_what_the_engine_is_shown_and_where_it_may_call() {
    forbid("analysis", &rooms_but(&["analysis", "api", "engine", "outbound"]));
}

#[test]
fn every_room_is_listed() {
    let listed: Vec<String> = ROOMS.iter().map(ToString::to_string).collect();
    let mut there: Vec<String> = std::fs::read_dir(source())
        .expect("the sources")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.is_dir())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    there.sort();
    assert_eq!(there, listed);
}
