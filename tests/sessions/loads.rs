//! Loads: what hundreds of sessions go through when their pod is drained, or just ends.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use session_server::Server;
use wsroll::session::load::{Load, LoadConfig, Summary};

use crate::stage::{Stage, drain, eventually, token};

const SESSIONS: u32 = 200;

fn start(stage: &Stage, make_before_break: bool) -> Load {
    let mut session = stage.config();
    session.make_before_break = make_before_break;
    let config = LoadConfig {
        session: Arc::new(session),
        sessions: SESSIONS,
        say_every: Duration::from_millis(200),
        connect_rate: 400.0,
        token: Box::new(|place| Some(token(&format!("load-{place}")))),
    };
    Load::start(&config, Timestamp::UNIX_EPOCH)
}

/// All sessions open on the server.
async fn full(server: &Server) {
    eventually(|| (server.open() == SESSIONS as usize).then_some(())).await;
}

fn nothing_lost(summary: &Summary) {
    assert_eq!((summary.messages_lost, summary.state_lost), (0, 0), "{summary:?}");
    assert_eq!(summary.sessions_unanswered_at_end, 0, "{summary:?}");
    assert_eq!(summary.messages_received, summary.messages_sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paced_drain_moves_each_session_once_and_loses_nothing() {
    let stage = Stage::new().await;
    let (stable, canary) = stage.pair("").await;
    let load = start(&stage, false);
    full(&stable).await;
    drain(&stable, 100.0, Some("c")).await;
    full(&canary).await;
    assert_eq!(stable.open(), 0);
    let summary = load.stop().await;
    nothing_lost(&summary);
    assert_eq!(summary.unannounced_disconnects, 0, "{summary:?}");
    assert_eq!(summary.announced_disconnects, u64::from(SESSIONS));
    assert_eq!(summary.max_disconnects_per_session, 1);
    assert_eq!(summary.close_codes[&1012], u64::from(SESSIONS));
    assert_eq!(summary.reached["v2"], u64::from(SESSIONS));
    assert!(summary.peak_connects_per_s <= 110, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn make_before_break_disconnects_nobody() {
    let stage = Stage::new().await;
    let (stable, canary) = stage.pair("").await;
    let load = start(&stage, true);
    full(&stable).await;
    drain(&stable, 100.0, Some("c")).await;
    full(&canary).await;
    let summary = load.stop().await;
    nothing_lost(&summary);
    assert_eq!(summary.unannounced_disconnects, 0, "{summary:?}");
    assert_eq!(
        (summary.announced_disconnects, summary.peak_down),
        (0, 0),
        "{summary:?}"
    );
    assert_eq!(summary.reached["v2"], u64::from(SESSIONS));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_shutdown_is_told_apart() {
    let stage = Stage::new().await;
    let (stable, canary) = stage.pair("").await;
    let load = start(&stage, false);
    full(&stable).await;
    stage.router.route("", &canary);
    stable.shutdown().await;
    full(&canary).await;
    let summary = load.stop().await;
    assert_eq!(summary.unannounced_disconnects, u64::from(SESSIONS));
    assert_eq!(summary.close_codes[&1001], u64::from(SESSIONS));
    assert_eq!((summary.messages_lost, summary.state_lost), (0, 0), "{summary:?}");
    assert_eq!(summary.peak_down, SESSIONS);
}
