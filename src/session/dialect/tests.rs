use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::{Remembered, Tongue};
use crate::api::script::{ProbeScript, Ready, Script, ready};
use crate::session::config::Dialect;
use crate::session::ledger::Unsent;
use crate::session::token::Token;
use crate::session::wire::ServerFrame;

/// One session that speaks a script, played by hand.
struct Play {
    memory: Remembered,
    tongue: Tongue,
    out: VecDeque<Message>,
}

impl Play {
    fn new(script: Arc<Script>) -> Self {
        let memory = Remembered::new(script, Some(Token::new("secret")), 7);
        Self {
            tongue: Tongue::new(Dialect::Script, Some(&memory), None, 0),
            memory,
            out: VecDeque::new(),
        }
    }

    fn of(script: Value) -> Self {
        let script: ProbeScript = serde_json::from_value(script).unwrap();
        Self::new(Arc::new(Script::compile(&script).unwrap()))
    }

    /// A new socket of the same session.
    fn socket(&mut self) {
        self.tongue = Tongue::new(Dialect::Script, Some(&self.memory), None, 0);
        self.out.clear();
    }

    fn go(&mut self) -> Option<ServerFrame> {
        self.tongue.advance(Instant::now(), &mut self.out)
    }

    fn hear(&mut self, text: &str) -> Option<ServerFrame> {
        let heard = self.tongue.hear(&Message::text(text), &mut self.out);
        heard.or_else(|| self.go())
    }

    fn ask(&mut self, id: &str, reads: bool) {
        let request = Unsent {
            id: id.to_owned(),
            reads,
            text: String::new(),
        };
        self.tongue.ask(request, &mut self.out);
    }

    fn said(&mut self) -> String {
        match self.out.pop_front() {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("a text was expected, not {other:?}"),
        }
    }

    fn pong(&mut self) -> Option<ServerFrame> {
        let Some(Message::Ping(payload)) = self.out.pop_front() else {
            panic!("a ping was expected");
        };
        let _ = self.tongue.hear(&Message::Pong(payload), &mut self.out);
        self.go()
    }
}

fn resumed(frame: Option<ServerFrame>) -> bool {
    match frame {
        Some(ServerFrame::Welcome { resumed, .. }) => resumed,
        other => panic!("a welcome was expected, not {other:?}"),
    }
}

#[test]
fn socket_io_opens_pings_and_comes_back_with_pid_and_offset() {
    let mut play = Play::new(ready(Ready::SocketIo).unwrap());
    assert_eq!(play.go(), None);
    assert!(play.out.is_empty(), "the server speaks first");
    assert_eq!(play.hear(r#"0{"sid":"e1","pingInterval":25000}"#), None);
    assert_eq!(play.said(), r#"40{"token":"secret"}"#);
    assert!(resumed(play.hear(r#"40{"sid":"s1","pid":"p1"}"#)));
    play.ask("c-1", false);
    assert_eq!(play.go(), None);
    assert_eq!(play.hear("2"), None);
    let Some(ServerFrame::Message { seq: 1, id }) = play.pong() else {
        panic!("the exchange is answered");
    };
    assert_eq!(id.as_deref(), Some("c-1"));
    assert_eq!(play.said(), "3");

    // Without an offset there is nothing that the server could restore from.
    play.socket();
    play.hear(r#"0{"sid":"e2"}"#);
    assert_eq!(play.said(), r#"40{"token":"secret"}"#);
    assert!(resumed(play.hear(r#"40{"sid":"s2","pid":"p2"}"#)));
    play.hear(r#"42["news",{"a":1},"offset-9"]"#);

    play.socket();
    play.hear(r#"0{"sid":"e3"}"#);
    let connect: Value = serde_json::from_str(play.said().strip_prefix("40").unwrap()).unwrap();
    assert_eq!(
        connect,
        json!({"token": "secret", "pid": "p2", "offset": "offset-9"})
    );
    assert!(resumed(play.hear(r#"40{"sid":"s2","pid":"p2"}"#)));

    play.socket();
    play.hear(r#"0{"sid":"e4"}"#);
    assert!(
        !resumed(play.hear(r#"40{"sid":"other","pid":"p9"}"#)),
        "another sid is another session"
    );
}

#[test]
fn graphql_sends_the_token_and_answers_pings() {
    let mut play = Play::new(ready(Ready::GraphqlTransportWs).unwrap());
    play.go();
    let init: Value = serde_json::from_str(&play.said()).unwrap();
    assert_eq!(
        init,
        json!({"type": "connection_init", "payload": {"Authorization": "Bearer secret"}})
    );
    assert!(resumed(play.hear(r#"{"type":"connection_ack"}"#)));
    play.hear(r#"{"type":"ping"}"#);
    assert_eq!(play.said(), r#"{"type":"pong"}"#);
    play.ask("c-1", true);
    play.go();
    assert_eq!(play.said(), r#"{"type":"ping"}"#);
    assert!(matches!(
        play.hear(r#"{"type":"pong"}"#),
        Some(ServerFrame::State { .. })
    ));
}

#[test]
fn stomp_waits_for_its_own_receipt() {
    let mut play = Play::new(ready(Ready::Stomp).unwrap());
    play.go();
    assert!(play.said().contains("\nAuthorization:Bearer secret\n"));
    assert!(resumed(play.hear("CONNECTED\nversion:1.2\n\n\0")));
    play.ask("c-1", false);
    play.go();
    let begin = play.said();
    let nonce = begin
        .lines()
        .nth(1)
        .unwrap()
        .strip_prefix("transaction:")
        .unwrap()
        .to_owned();
    assert_eq!(play.hear("RECEIPT\nreceipt-id:other\n\n\0"), None);
    assert!(play.hear(&format!("RECEIPT\nreceipt-id:{nonce}\n\n\0")).is_some());
    assert!(play.said().starts_with("ABORT\n"));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_is_overdue_and_named() {
    let mut play = Play::of(json!({
        "open": [{"send": {"text": "hello"}}, {"expect": {"that": "text == 'welcome'", "within": "2s"}}],
        "exchange": [{"ping": {}}],
    }));
    play.go();
    let begun = Instant::now();
    assert_eq!(play.tongue.deadline(), Some(begun + Duration::from_secs(2)));
    play.hear("something else");
    assert_eq!(
        play.tongue.deadline(),
        Some(begun + Duration::from_secs(2)),
        "others buy no time"
    );
    assert_eq!(play.tongue.overdue(begun), None);
    let missed = play.tongue.overdue(begun + Duration::from_secs(2)).unwrap();
    assert_eq!(missed.0, "open[1].expect");
    assert!(resumed(play.hear("welcome")));
    assert_eq!(
        play.tongue.deadline(),
        None,
        "nothing is waited for between exchanges"
    );
}

#[test]
fn a_resume_that_is_refused_twice_is_a_lost_session() {
    let mut play = Play::of(json!({
        "open": [{"send": {"text": "new"}}, {"expect": {"that": "text.startsWith('id ')", "save": {"session": "text.after('id ')"}}}],
        "resume": [{"send": {"text": "back ${session}"}}, {"expect": {"that": "text == 'ok'"}}],
        "exchange": [{"ping": {}}],
    }));
    play.go();
    play.said();
    let Some(ServerFrame::Welcome {
        session,
        resumed: true,
        ..
    }) = play.hear("id 42")
    else {
        panic!("welcomed");
    };
    assert_eq!(session, "42");
    for _ in 0..2 {
        play.socket();
        play.go();
        assert_eq!(play.said(), "back 42");
        play.tongue.ended_early();
    }
    play.socket();
    play.go();
    assert_eq!(play.said(), "new");
    assert!(!resumed(play.hear("id 43")));
    play.socket();
    play.go();
    assert_eq!(play.said(), "back 43");
    assert!(resumed(play.hear("ok")));
}

#[test]
fn a_state_is_kept_from_the_first_reading_and_a_loss_is_told_twice() {
    let mut play = Play::of(json!({
        "exchange": [{"ping": {}}],
        "state": [{"send": {"text": "get"}}, {"expect": {"that": "json.history.size() >= 0", "save": {"state": "json.history"}}}],
    }));
    assert!(resumed(play.go()), "an empty open is welcomed with the upgrade");
    let mut read = |text: &str| {
        play.ask("c-1", true);
        play.go();
        match play.hear(text) {
            Some(ServerFrame::State { state, .. }) => state == Value::Bool(true),
            other => panic!("a state was expected, not {other:?}"),
        }
    };
    assert!(read(r#"{"history":["a","b"]}"#));
    assert!(read(r#"{ "history": ["a", "b"] }"#));
    assert!(!read(r#"{"history":["a"]}"#));
    assert!(
        read(r#"{"history":["a","b"]}"#),
        "a second reading may set it right"
    );
    assert!(!read(r#"{"history":[]}"#));
    assert!(!read(r#"{"history":[]}"#), "and may confirm it");
    assert!(read(r#"{"history":[]}"#), "then it is counted once");
}

#[test]
fn a_notice_is_understood_in_every_dialect() {
    let mut play = Play::of(json!({"exchange": [{"ping": {}}]}));
    play.go();
    let notice = play.hear(r#"{"type":"wsroll.notice","id":"o1"}"#);
    assert!(matches!(notice, Some(ServerFrame::Notice(_))));
}

#[test]
fn nothing_of_a_session_is_shown() {
    let play = Play::new(ready(Ready::Echo).unwrap());
    let shown = format!("{:?}", play.tongue);
    assert!(!shown.contains("secret"), "{shown}");
}

proptest! {
    /// Whatever a service says, in whatever order, a script neither panics nor grows its queues.
    #[test]
    fn arbitrary_messages_are_borne(which in 0..4_usize, heard in proptest::collection::vec(
        prop_oneof![
            any::<String>().prop_map(Message::text),
            any::<Vec<u8>>().prop_map(Message::binary),
            any::<[u8; 8]>().prop_map(|payload| Message::Pong(payload.to_vec().into())),
            prop::sample::select(vec!["0{}", "40{}", "40{\"sid\":1}", "42[", "42[]", "{\"type\":\"ping\"}", "CONNECTED\n", "RECEIPT\n", "2"])
                .prop_map(Message::text),
        ], 0..40))
    {
        let mut play = Play::new(ready(Ready::ALL[which]).unwrap());
        for (number, message) in heard.iter().enumerate() {
            play.ask(&format!("c-{number}"), number % 2 == 0);
            let _ = play.tongue.hear(message, &mut play.out);
            let _ = play.go();
            prop_assert!(play.out.len() <= 4);
            play.out.clear();
        }
    }
}
