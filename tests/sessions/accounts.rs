//! Every drained session is accounted for: real servers tell who came and went, the operator's client reads it, and the
//! accounts say what became of each.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use session_server::Server;
use wsroll::api::status::Returned;
use wsroll::drain::accounting::{Accounts, Following, Outcome, Page, Setting};
use wsroll::drain::client::{DrainClient, Token as DrainToken};
use wsroll::session::load::{Load, LoadConfig};

use crate::stage::{DRAIN_TOKEN, Stage, drain_as, eventually, token};

const SESSIONS: u32 = 100;
/// As the operator names the orders of a release's waves.
const ORDER: &str = "release-w1-pod";

/// The accounts, and the pods that are read for them.
struct Book<'a> {
    accounts: Accounts,
    client: DrainClient,
    pods: Vec<(&'static str, &'static str, &'a Server)>,
    outcomes: Vec<Outcome>,
}

impl<'a> Book<'a> {
    fn new(pods: Vec<(&'static str, &'static str, &'a Server)>) -> Self {
        let mut accounts = Accounts::new(Timestamp::now());
        let setting = Setting {
            release: Some(Following {
                orders: "release-w".to_owned(),
                stable: "v1".to_owned(),
                canary: "v2".to_owned(),
                untargeted: None,
            }),
            stable: "v1".to_owned(),
            within: Duration::from_secs(30),
        };
        accounts.attend(setting, None);
        Self {
            accounts,
            client: DrainClient::new(Duration::from_secs(5)).unwrap(),
            pods,
            outcomes: Vec::new(),
        }
    }

    /// One round: every pod as far as it goes.
    async fn read(&mut self) -> Returned {
        let token = DrainToken::new(DRAIN_TOKEN);
        for (pod, revision, server) in &self.pods {
            let address = server.drain_addr().unwrap();
            loop {
                let after = self.accounts.cursor(pod);
                let page = self.client.events(address, &token, after).await.unwrap().unwrap();
                if self.accounts.read(pod, revision, &page, Timestamp::now()) == Page::Last {
                    break;
                }
            }
        }
        self.outcomes.extend(self.accounts.settle(Timestamp::now()));
        self.accounts.returned().unwrap()
    }

    /// Reads on until so many are back; at most 30 s.
    async fn until_back(&mut self, back: i64) -> Returned {
        for _ in 0..300 {
            let told = self.read().await;
            if told.back >= back {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not back within 30 s: {:?}", self.accounts.returned());
    }
}

fn load(stage: &Stage, make_before_break: bool) -> Load {
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

async fn full(server: &Server) {
    eventually(|| (server.open() == SESSIONS as usize).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moved_session_is_back_where_it_was_moved_to() {
    for make_before_break in [false, true] {
        let stage = Stage::new().await;
        let (stable, canary) = stage.pair("").await;
        let mut book = Book::new(vec![("b", "v2", &canary), ("a", "v1", &stable)]);
        let load = load(&stage, make_before_break);
        full(&stable).await;
        book.read().await;
        drain_as(ORDER, &stable, 100.0, Some("c")).await;
        let told = book.until_back(i64::from(SESSIONS)).await;
        let all = i64::from(SESSIONS);
        assert_eq!(
            (told.moved, told.back, told.on_target),
            (all, all, all),
            "{told:?}"
        );
        assert_eq!(
            (told.strays, told.missing, told.not_resumed),
            (0, 0, 0),
            "{told:?}"
        );
        assert_eq!((told.resumed, told.lost_events), (all, 0), "{told:?}");
        assert_eq!(book.outcomes.len(), SESSIONS as usize);
        assert!(!book.accounts.is_waiting());
        load.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_led_back_to_the_old_revision_is_a_stray() {
    let stage = Stage::new().await;
    let (stable, canary) = stage.pair("").await;
    let spare = stage.server("v1", "").await;
    let mut book = Book::new(vec![
        ("a", "v1", &stable),
        ("b", "v2", &canary),
        ("c", "v1", &spare),
    ]);
    let load = load(&stage, false);
    full(&stable).await;
    // Without a hint the route decides, and it leads to the old revision.
    stage.router.route("", &spare);
    drain_as(ORDER, &stable, 100.0, None).await;
    let told = book.until_back(i64::from(SESSIONS)).await;
    let all = i64::from(SESSIONS);
    assert_eq!((told.moved, told.back), (all, all), "{told:?}");
    assert_eq!(
        (told.strays, told.on_target, told.missing),
        (all, 0, 0),
        "{told:?}"
    );
    assert!(book.outcomes.iter().all(|o| matches!(o, Outcome::Stray(_))));
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgetful_revision_shows_in_the_account() {
    let stage = Stage::new().await;
    let (stable, canary) = stage.pair("forget").await;
    let mut book = Book::new(vec![("a", "v1", &stable), ("b", "v2", &canary)]);
    let load = load(&stage, false);
    full(&stable).await;
    drain_as(ORDER, &stable, 100.0, Some("c")).await;
    let told = book.until_back(i64::from(SESSIONS)).await;
    assert_eq!(
        (told.resumed, told.not_resumed),
        (0, i64::from(SESSIONS)),
        "{told:?}"
    );
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_operator_finds_the_same_account() {
    let stage = Stage::new().await;
    let (stable, canary) = stage.pair("").await;
    let mut book = Book::new(vec![("a", "v1", &stable), ("b", "v2", &canary)]);
    let load = load(&stage, false);
    full(&stable).await;
    drain_as(ORDER, &stable, 100.0, Some("c")).await;
    book.until_back(20).await;
    let mut next = Book::new(book.pods.clone());
    let told = next.until_back(i64::from(SESSIONS)).await;
    let all = i64::from(SESSIONS);
    assert_eq!(
        (told.moved, told.back, told.on_target),
        (all, all, all),
        "{told:?}"
    );
    assert!(
        next.outcomes.len() < SESSIONS as usize,
        "what was counted before is no news"
    );
    load.stop().await;
}
