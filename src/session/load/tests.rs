//! Loads of one session against a service played by hand.

use serde_json::json;

use super::*;
use crate::session::testkit::{Peer, Service};

fn start(service: &Service) -> Load {
    let mut session = service.config();
    session.answer_timeout = None;
    let config = LoadConfig {
        session: Arc::new(session),
        sessions: 1,
        say_every: Duration::from_millis(50),
        connect_rate: 100.0,
        token: Box::new(|_| None),
    };
    Load::start(&config, Timestamp::UNIX_EPOCH)
}

/// Answers everything until the socket ends or `limit` messages were answered; the texts heard.
async fn answer(peer: &mut Peer, heard: &mut Vec<String>, limit: usize) {
    for _ in 0..limit {
        let Some(frame) = peer.receive().await else {
            return;
        };
        let id = frame["id"].as_str().unwrap().to_owned();
        if frame["type"] == "state" {
            let history: Vec<_> = heard.iter().map(|text| json!({"text": text})).collect();
            peer.send(json!({"type": "state", "id": id, "state": {"history": history}}))
                .await;
        } else {
            heard.push(frame["text"].as_str().unwrap().to_owned());
            peer.message(heard.len() as u64, Some(&id)).await;
        }
    }
}

#[tokio::test]
async fn a_moved_session_is_counted_once_and_loses_nothing() {
    let service = Service::start().await;
    let load = start(&service);
    let mut heard = Vec::new();
    let mut peer = service.accept().await;
    peer.welcome(1, false, 0).await;
    answer(&mut peer, &mut heard, 3).await;
    peer.notice(0, false).await;
    peer.close(1012).await;
    let mut peer = service.accept().await;
    peer.welcome(2, true, heard.len() as u64).await;
    answer(&mut peer, &mut heard, 2).await;
    let line = load.line();
    assert_eq!((line.open, line.down, line.notices), (1, 0, 1));
    assert_eq!(line.revisions["v1"], 1);
    let (summary, ()) = tokio::join!(load.stop(), answer(&mut peer, &mut heard, 1_000));
    assert_eq!(summary.announced_disconnects, 1);
    assert_eq!(summary.unannounced_disconnects, 0);
    assert_eq!(summary.max_disconnects_per_session, 1);
    assert_eq!(summary.close_codes[&1012], 1);
    assert_eq!((summary.messages_lost, summary.state_lost), (0, 0));
    assert_eq!(summary.sessions_unanswered_at_end, 0);
    assert_eq!(summary.messages_sent, heard.len() as u64);
    assert_eq!(summary.messages_received, heard.len() as u64);
    assert_eq!((summary.peak_connects_per_s, summary.peak_down), (1, 1));
    assert_eq!(summary.reached["v1"], 1);
}

#[tokio::test(start_paused = true)]
async fn silence_and_lost_state_are_counted() {
    let service = Service::start().await;
    let load = start(&service);
    let mut peer = service.accept().await;
    peer.welcome(1, false, 0).await;
    drop(peer);
    let mut peer = service.accept().await;
    // Not found, and from here on nothing is answered.
    peer.welcome(1, false, 0).await;
    peer.receive().await.unwrap();
    let summary = load.stop().await;
    assert_eq!(summary.unannounced_disconnects, 1);
    assert_eq!(summary.close_codes[&1006], 1);
    assert_eq!((summary.state_lost, summary.sessions_unanswered_at_end), (1, 1));
    assert_eq!(summary.messages_lost, summary.messages_sent);
}
