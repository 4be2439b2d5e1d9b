//! Sessions against a service played by hand, over real sockets. Time runs by itself where nothing waits for it.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::session::config::Endpoint;
use crate::session::event::{End, Failure, Restored, Welcomed};
use crate::session::testkit::{Peer, Service};

fn session(config: SessionConfig) -> Session {
    Session::new(Arc::new(config), None, None, 7)
}

/// Drives the session until an event fits.
async fn until<T>(session: &mut Session, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
    timeout(Duration::from_mins(1), async {
        loop {
            let event = session.next().await;
            if let Some(picked) = pick(&event) {
                return picked;
            }
        }
    })
    .await
    .expect("the event")
}

async fn welcomed(session: &mut Session) -> Welcomed {
    until(session, |event| match event {
        Event::Welcomed(welcomed) => Some(welcomed.clone()),
        _ => None,
    })
    .await
}

async fn restored(session: &mut Session) -> Restored {
    until(session, |event| match event {
        Event::Restored(restored) => Some(restored.clone()),
        _ => None,
    })
    .await
}

async fn disconnected(session: &mut Session) -> (End, bool) {
    until(session, |event| match event {
        Event::Disconnected { end, announced } => Some((*end, *announced)),
        _ => None,
    })
    .await
}

/// A session that is open and restored, with number 1 received.
async fn open(service: &Service, config: SessionConfig) -> (Session, Peer) {
    let mut session = session(config);
    let serve = async {
        let mut peer = service.accept().await;
        peer.welcome(1, false, 0).await;
        peer.message(1, None).await;
        peer
    };
    let (peer, restored) = tokio::join!(serve, restored(&mut session));
    assert_eq!(restored.cause, Cause::First);
    (session, peer)
}

#[tokio::test]
async fn a_cut_session_resumes_and_repeats_what_was_not_answered() {
    let service = Service::start().await;
    let (mut session, mut peer) = open(&service, service.config()).await;
    session.say("hello");
    let serve = async {
        assert_eq!(peer.receive().await.unwrap()["id"], "c-1");
        drop(peer);
        let mut peer = service.accept().await;
        assert_eq!(peer.target, "/ws?session=s-1&last=1&notice=wsroll.v1");
        peer.welcome(2, true, 2).await;
        // The answer that was lost comes as a replay, and once more to the repeated request.
        peer.message(2, Some("c-1")).await;
        assert_eq!(peer.receive().await.unwrap()["id"], "c-1");
        peer.message(2, Some("c-1")).await;
        peer
    };
    let drive = async {
        assert_eq!(disconnected(&mut session).await, (End::Cut, false));
        let back = restored(&mut session).await;
        assert_eq!(back.cause, Cause::Unannounced);
        assert!(
            back.downtime >= Duration::from_millis(250),
            "emergency waits first"
        );
        until(&mut session, |e| (*e == Event::Duplicate).then_some(())).await;
        assert_eq!(session.pending(), 0);
        assert_eq!(session.last_seq(), 2);
    };
    let (_peer, ()) = tokio::join!(serve, drive);
}

#[tokio::test]
async fn an_announced_session_waits_for_its_close_and_comes_back_at_once_with_the_hint() {
    let service = Service::start().await;
    let (mut session, mut peer) = open(&service, service.config()).await;
    let serve = async {
        peer.notice(50, true).await;
        assert_eq!(
            peer.receive().await.unwrap(),
            json!({"type": "wsroll.ack", "id": "order-1"})
        );
        peer.close(1012).await;
        let mut peer = service.accept().await;
        assert!(peer.target.ends_with("&wsroll=hint"), "{}", peer.target);
        peer.welcome(2, true, 1).await;
        peer.message(2, None).await;
        peer
    };
    let drive = async {
        let end = disconnected(&mut session).await;
        assert_eq!(end, (End::Closed { code: 1012 }, true));
        let back = restored(&mut session).await;
        assert_eq!(back.cause, Cause::Announced);
        assert_eq!(back.attempts, 1);
        assert!(back.downtime < Duration::from_millis(900), "{back:?}");
    };
    let (_peer, ()) = tokio::join!(serve, drive);
}

#[tokio::test]
async fn make_before_break_leaves_no_gap() {
    let service = Service::start().await;
    let mut config = service.config();
    config.make_before_break = true;
    let (mut session, mut old) = open(&service, config).await;
    let serve = async {
        old.notice(20, true).await;
        old.receive().await.unwrap();
        let mut new = service.accept().await;
        // The old owner still delivers while the new socket is being made.
        old.message(2, None).await;
        new.welcome(2, true, 2).await;
        new.message(2, None).await;
        new.message(3, None).await;
        old.close(1012).await;
        new.message(4, None).await;
        new
    };
    let drive = async {
        let mut fresh = 0;
        let mut back = None;
        while session.last_seq() < 4 || back.is_none() {
            match session.next().await {
                Event::Message { .. } => fresh += 1,
                Event::Restored(restored) => back = Some(restored),
                Event::Disconnected { end, .. } => panic!("disconnected: {end:?}"),
                Event::Gap { missing } => panic!("{missing} missing"),
                _ => {}
            }
        }
        assert_eq!(fresh, 3);
        let back = back.unwrap();
        assert_eq!((back.cause, back.downtime), (Cause::Handover, Duration::ZERO));
    };
    let (_new, ()) = tokio::join!(serve, drive);
}

#[tokio::test]
async fn an_old_owner_that_leaves_before_the_new_welcome_is_no_disconnect() {
    let service = Service::start().await;
    for fails in [false, true] {
        let mut config = service.config();
        config.make_before_break = true;
        let (mut session, mut old) = open(&service, config).await;
        let serve = async {
            old.notice(0, true).await;
            old.receive().await.unwrap();
            let mut new = service.accept().await;
            // Time for the client to see its upgrade before the old socket closes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            old.close(1012).await;
            if fails {
                new.close(1011).await;
                new = service.accept().await;
            }
            new.welcome(2, true, 1).await;
            new.message(2, None).await;
            new
        };
        let drive = async {
            let mut disconnects = 0;
            loop {
                match session.next().await {
                    Event::Disconnected { .. } => disconnects += 1,
                    Event::Restored(_) => return disconnects,
                    _ => {}
                }
            }
        };
        let (_new, disconnects) = tokio::join!(serve, drive);
        assert_eq!(disconnects, u32::from(fails));
    }
}

#[tokio::test]
async fn a_close_by_nobodys_order_is_unannounced() {
    let service = Service::start().await;
    for (code, announced) in [(1001, false), (1000, false), (4409, false), (1012, true)] {
        let (mut session, peer) = open(&service, service.config()).await;
        let ((), end) = tokio::join!(peer.close(code), disconnected(&mut session));
        assert_eq!(end, (End::Closed { code }, announced));
    }
}

#[tokio::test]
async fn a_notice_does_not_excuse_a_cut() {
    let service = Service::start().await;
    let (mut session, mut peer) = open(&service, service.config()).await;
    let serve = async {
        peer.notice(5_000, false).await;
        peer.receive().await.unwrap();
        drop(peer);
    };
    let ((), end) = tokio::join!(serve, disconnected(&mut session));
    assert_eq!(end, (End::Cut, false));
}

#[tokio::test]
async fn a_session_that_is_not_found_has_lost_its_state() {
    let service = Service::start().await;
    for (resumed, seq, lost) in [(false, 0, true), (true, 0, true), (true, 1, false)] {
        let (mut session, _peer) = open(&service, service.config()).await;
        session.hand_off(None);
        let serve = async {
            let mut peer = service.accept().await;
            peer.welcome(2, resumed, seq).await;
            peer
        };
        let (_peer, welcomed) = tokio::join!(serve, welcomed(&mut session));
        assert_eq!(welcomed.state_lost, lost);
        assert_eq!(welcomed.cause, Cause::Requested);
    }
}

#[tokio::test]
async fn missing_numbers_are_told() {
    let service = Service::start().await;
    let (mut session, mut peer) = open(&service, service.config()).await;
    peer.message(5, None).await;
    let missing = until(&mut session, |event| match event {
        Event::Gap { missing } => Some(*missing),
        _ => None,
    });
    assert_eq!(missing.await, 3);
}

#[tokio::test]
async fn a_socket_that_answers_nothing_is_given_up() {
    let service = Service::start().await;
    let mut config = service.config();
    config.answer_timeout = Some(Duration::from_millis(100));
    let (mut session, _peer) = open(&service, config).await;
    session.say("anybody?");
    assert_eq!(disconnected(&mut session).await, (End::Unanswered, false));
}

/// The store is away for the first message: it is said again on the same socket, and before what was said after it.
#[tokio::test]
async fn what_a_store_was_away_for_is_said_again_in_its_order() {
    let service = Service::start().await;
    let (mut session, mut peer) = open(&service, service.config()).await;
    session.say("first");
    let refusing = async {
        let first = peer.receive().await.unwrap();
        let refusal = serde_json::json!({"type": "error", "id": first["id"], "code": "unavailable"});
        peer.send(refusal).await;
        // Said while the store is away: it has to wait for the first.
        (peer.receive().await.unwrap(), peer.receive().await.unwrap())
    };
    let driven = async {
        let mut said = false;
        loop {
            let waits = tokio::time::timeout(Duration::from_millis(100), session.next()).await;
            assert!(
                !matches!(waits, Ok(Event::Disconnected { .. } | Event::Refused { .. })),
                "{waits:?}"
            );
            if !std::mem::replace(&mut said, true) {
                session.say("second");
            }
        }
    };
    let (first, second) = tokio::select! {
        again = refusing => again,
        () = driven => unreachable!("it drives for ever"),
    };
    assert_eq!(
        (&first["text"], &second["text"]),
        (&"first".into(), &"second".into())
    );
}

#[tokio::test]
async fn a_mute_service_fails_the_attempt() {
    let service = Service::start().await;
    let mut config = service.config();
    config.welcome_timeout = Duration::from_millis(100);
    let mut session = session(config);
    let failed = until(&mut session, |event| match event {
        Event::AttemptFailed(failure) => Some(failure.clone()),
        _ => None,
    });
    let (_peer, failure) = tokio::join!(service.accept(), failed);
    assert_eq!(failure, Failure::Mute);
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_after_twenty_attempts_and_starts_again_when_asked() {
    // A port on which nobody listens any more.
    let address = Service::start().await.address();
    let endpoint = Endpoint::new(&format!("ws://{address}/ws"), "t").unwrap();
    let mut session = session(SessionConfig::new(endpoint));
    let begun = Instant::now();
    let mut attempts = 0;
    loop {
        match session.next().await {
            Event::AttemptFailed(failure) => {
                assert_eq!(failure, Failure::Connect);
                attempts += 1;
            }
            Event::GaveUp => break,
            _ => {}
        }
    }
    assert_eq!(attempts, super::super::MAX_ATTEMPTS);
    // Graceful: 1 + 2 + 4 + 16 × 8 seconds, of which jitter leaves at least half.
    let waited = begun.elapsed().as_secs();
    assert!((67..=140).contains(&waited), "{waited} s");
    session.recover();
    until(&mut session, |e| {
        matches!(e, Event::Dialing { attempt: 1, .. }).then_some(())
    })
    .await;
}

#[tokio::test]
async fn failed_attempts_are_repeated_and_counted() {
    let service = Service::start().await;
    let mut session = session(service.config());
    let serve = async {
        service.cut().await;
        let mut peer = service.accept().await;
        peer.welcome(1, false, 0).await;
        peer.message(1, None).await;
        peer
    };
    let (_peer, back) = tokio::join!(serve, restored(&mut session));
    assert_eq!(back.attempts, 2);
    assert!(
        back.since_dial >= Duration::from_millis(500),
        "the failed attempt counts"
    );
}

#[tokio::test]
async fn shutdown_says_goodbye() {
    let service = Service::start().await;
    let (session, mut peer) = open(&service, service.config()).await;
    let ((), last) = tokio::join!(session.shutdown(), async {
        let last = peer.receive().await;
        drop(peer);
        last
    });
    assert_eq!(last, None);
}

#[tokio::test]
async fn a_service_that_speaks_nothing_but_websocket_is_known_by_its_pongs() {
    let service = Service::start().await;
    let mut config = service.config();
    config.dialect = Dialect::Ping;
    let mut session = session(config);
    let serve = async {
        let peer = service.accept().await;
        assert_eq!(peer.target, "/ws", "nothing is added to a foreign service's URL");
        // Pings are answered while it is read.
        peer.read_to_end().await
    };
    let walk = async {
        assert!(welcomed(&mut session).await.resumed);
        session.ask_state();
        restored(&mut session).await;
        let asked = session.say("hello").unwrap();
        let answered = until(&mut session, |event| match event {
            Event::Answered { request, .. } => Some(*request),
            _ => None,
        })
        .await;
        assert_eq!(answered, asked);
        session.shutdown().await;
    };
    let (texts, ()) = tokio::join!(serve, walk);
    assert_eq!(texts, 0, "nothing is said to a foreign service");
}

#[tokio::test]
async fn a_script_lets_go_of_its_socket_before_it_comes_back() {
    let service = Service::start().await;
    let mut config = service.config();
    let script = serde_json::from_value(json!({"exchange": [{"ping": {}}]})).unwrap();
    config.dialect = Dialect::Script;
    config.script = Some(Arc::new(crate::api::script::Script::compile(&script).unwrap()));
    let mut session = session(config);
    let serve = async {
        let leaving = service.accept().await.read_to_end();
        tokio::select! {
            biased;
            _ = leaving => {}
            _ = service.accept() => panic!("it came back before it was gone"),
        }
        service.accept().await.read_to_end().await
    };
    let walk = async {
        welcomed(&mut session).await;
        session.hand_off(None);
        welcomed(&mut session).await;
        session.shutdown().await;
    };
    tokio::join!(serve, walk);
}
