//! Pods that lie, babble, drip and flood: read within limits of size and time, believed or *unknown*, never a panic.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::accounting::{Accounts, Following, Page, Setting};
use super::client::{DrainClient, MAX_ANSWER, MAX_EVENTS_ANSWER, Token};
use super::gauge::{self, GaugeClient, Unreadable};
use super::protocol::{
    DrainOrder, DrainProgress, EventsReport, MAX_EVENTS, Notice, ReleasedHow, SessionEvent, SessionEventKind,
    SessionsReport,
};
use crate::hostile::{any_json, deep, spoilt};

/// Longer than any call may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Answers every connection with these bytes, and then with `more` without end.
async fn pod(head: String, more: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head.clone();
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while !more.is_empty() && stream.write_all(more).await.is_ok() {}
                wait_for_the_end(stream).await;
            });
        }
    });
    address
}

async fn wait_for_the_end(mut stream: TcpStream) {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn client() -> DrainClient {
    DrainClient::new(Duration::from_millis(300)).unwrap()
}

/// The category of the error that reading a pod's sessions ends with.
async fn read(address: SocketAddr) -> &'static str {
    let call = client().sessions(address, &Token::new("t")).await;
    call.map_or_else(|error| error.category(), |_| "believed")
}

fn report() -> Value {
    json!({"instance": "i", "revision": "r", "open": 12, "dormant": 1, "oldestMs": 5, "accepting": true,
        "totals": {"accepted": 1, "refused": 0, "resumed": 1, "resumeFailed": 0, "stateLost": 0, "closed": {"1012": 3}},
        "drain": {"id": "o", "state": "active", "eligible": 3, "notified": 1, "acked": 1, "closedClean": 1,
            "closedForced": 0, "busy": 0, "dormant": 0, "ratePerSecond": 4.5, "leaseExpiresMs": 30}})
}

#[rstest]
#[case::more_sessions_than_there_are(json!({"open": u64::MAX}), "bad_answer")]
#[case::a_negative_count(json!({"open": -1}), "bad_answer")]
#[case::a_fraction(json!({"open": 1.5}), "bad_answer")]
#[case::a_text(json!({"open": "12"}), "bad_answer")]
#[case::a_list(json!([12]), "bad_answer")]
#[case::null(json!(null), "bad_answer")]
#[case::a_counter_that_turns_sums_over(json!({"open": 1, "totals": {"refused": u64::MAX}}), "bad_answer")]
#[case::a_name_without_end(json!({"open": 1, "instance": "x".repeat(300)}), "bad_answer")]
#[case::an_order_without_end(json!({"open": 1, "drain": {"id": "x".repeat(300), "state": "active"}}), "bad_answer")]
#[case::a_rate_below_zero(json!({"open": 1, "drain": {"id": "x", "state": "active", "ratePerSecond": -1}}), "bad_answer")]
#[case::unknown_fields(json!({"open": 1, "fromTheFuture": {"a": [1, 2]}}), "believed")]
#[tokio::test]
async fn what_a_report_says_is_checked(#[case] body: Value, #[case] told: &str) {
    assert_eq!(read(pod(answer(&body.to_string()), b"").await).await, told);
}

#[rstest]
#[case::the_same_key_twice(r#"{"open":1,"open":0}"#.to_owned())]
#[case::no_json("open: 12".to_owned())]
#[case::half_of_it(r#"{"open":12"#.to_owned())]
#[case::a_number_beyond_numbers(r#"{"open":1e999}"#.to_owned())]
#[case::nothing(String::new())]
#[case::nested_without_end(deep(5_000))]
#[case::too_long(" ".repeat(MAX_ANSWER + 1))]
#[case::nested_where_a_number_is(format!("{{\"open\":{}}}", deep(5_000)))]
#[tokio::test]
async fn what_is_no_report_is_a_bad_answer(#[case] body: String) {
    assert_eq!(read(pod(answer(&body), b"").await).await, "bad_answer");
}

/// What nobody knows is skipped without being built, however deep it is.
#[tokio::test]
async fn an_unknown_field_is_skipped_however_deep() {
    let body = format!("{{\"open\":1,\"x\":{}}}", deep(5_000));
    assert_eq!(read(pod(answer(&body), b"").await).await, "believed");
}

/// Neither an endless body nor one that never ends takes more than its share of memory and time.
#[tokio::test]
async fn floods_and_drips_are_cut_off() {
    let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let zeros = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let zeros: &'static [u8] = Box::leak(zeros.into_bytes().into_boxed_slice());
    let flooding = pod(endless.to_owned(), zeros).await;
    assert_eq!(timeout(LIMIT, read(flooding)).await.unwrap(), "bad_answer");
    let (client, token) = (client(), Token::new("t"));
    let events = client.events(flooding, &token, 0);
    let error = timeout(LIMIT, events).await.unwrap().unwrap_err().to_string();
    assert!(error.contains(&MAX_EVENTS_ANSWER.to_string()), "{error}");
    let page = GaugeClient::new(Duration::from_secs(5)).unwrap();
    let error = timeout(LIMIT, page.read(flooding, "/metrics", "open"))
        .await
        .unwrap();
    assert_eq!(error.unwrap_err().category(), "too_long");

    let promised = pod("HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n{".to_owned(), b"").await;
    assert_eq!(timeout(LIMIT, read(promised)).await.unwrap(), "unreachable");
    let headless = pod("HTTP/1.1 200 OK\r\nx: ".to_owned(), b"").await;
    assert_eq!(timeout(LIMIT, read(headless)).await.unwrap(), "unreachable");
    let silent = pod(String::new(), b"").await;
    assert_eq!(timeout(LIMIT, read(silent)).await.unwrap(), "unreachable");
    let headers = pod(
        "HTTP/1.1 200 OK\r\n".to_owned(),
        b"x-a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n",
    )
    .await;
    assert_eq!(timeout(LIMIT, read(headers)).await.unwrap(), "unreachable");
    let binary = pod("\u{0}\u{1}SSH-2.0-hello\r\n".to_owned(), b"").await;
    assert_eq!(timeout(LIMIT, read(binary)).await.unwrap(), "unreachable");
}

/// One byte at a time, for ever: the time is for the whole call.
#[tokio::test]
async fn a_drip_does_not_lengthen_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n")
            .await;
        let mut drip = tokio::time::interval(Duration::from_millis(20));
        while stream.write_all(b" ").await.is_ok() {
            drip.tick().await;
        }
    });
    assert_eq!(timeout(LIMIT, read(address)).await.unwrap(), "unreachable");
}

#[test]
fn metrics_that_add_up_to_no_count_are_unknown() {
    let many = "open{a=\"b\"} 100000000\n".repeat(40_000);
    assert_eq!(
        gauge::sum(&many, "open"),
        Err(Unreadable::NoCount),
        "the sum has a bound too"
    );
    for value in ["-1", "NaN", "+Inf", "1e300", "0x10", "1_000", "--1", "1e", ""] {
        let page = format!("open {value}\n");
        assert_eq!(gauge::sum(&page, "open"), Err(Unreadable::NoCount), "{value}");
    }
    assert_eq!(gauge::sum("open{a=\"}\n", "open"), Err(Unreadable::NoCount));
    let labels = format!("open{{a=\"{}\"}} 3\n", "\\\"}".repeat(300_000));
    assert_eq!(gauge::sum(&labels, "open"), Ok(3));
}

fn following() -> Setting {
    Setting {
        release: Some(Following {
            orders: "r1-w".to_owned(),
            stable: "v1".to_owned(),
            canary: "v2".to_owned(),
            untargeted: None,
        }),
        stable: "v1".to_owned(),
        within: Duration::from_mins(10),
    }
}

fn accounts() -> Accounts {
    let mut accounts = Accounts::with_limit(Timestamp::UNIX_EPOCH, 1_000);
    accounts.attend(following(), None);
    accounts
}

fn events(from: u64, kind: SessionEventKind, session: impl Fn(u64) -> u64) -> EventsReport {
    let event = |n: u64| SessionEvent {
        n,
        kind,
        session: format!("{:016x}", session(n)),
        ago_ms: 0,
        order: Some("r1-w1-u".to_owned()),
        how: Some(ReleasedHow::Moved),
        resumed: None,
    };
    let next = from + MAX_EVENTS as u64;
    EventsReport {
        instance: Some("i".to_owned()),
        next: next - 1,
        lost: u64::MAX,
        events: (from..next).map(event).collect(),
    }
}

/// A million events in all: of one session, of sessions that no sampling thins out, and of ever new ones.
#[test]
fn a_pod_that_floods_events_is_followed_within_the_bound() {
    for session in [
        |_| 0,
        |n: u64| n << 40,
        |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    ] {
        let mut accounts = accounts();
        for page in 0..340_u64 {
            let kind = match page % 2 {
                0 => SessionEventKind::Arrived,
                _ => SessionEventKind::Released,
            };
            let now = Timestamp::from_millisecond(page as i64).unwrap();
            let report = events(page * MAX_EVENTS as u64 + 1, kind, session);
            assert_eq!(accounts.read("pod", "v1", &report, now), Page::More);
            if page % 4 == 3 {
                accounts.settle(now);
                assert!(accounts.followed() <= 2_000, "{}", accounts.followed());
            }
        }
        let returned = accounts.returned().unwrap();
        assert!(returned.lost_events > 0);
    }
}

#[test]
fn times_before_time_began_do_not_turn_over() {
    let mut accounts = accounts();
    let report = |n: u64, kind: &str, ago: u64| {
        let event = json!({"n": n, "kind": kind, "session": "00000000000000aa", "agoMs": ago, "order": "r1-w1-u",
            "how": "moved"});
        serde_json::from_value::<EventsReport>(json!({"next": n, "events": [event]})).unwrap()
    };
    let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    accounts.read("a", "v1", &report(1, "released", u64::MAX), at(0));
    // Read in one round, so that one time is reckoned with the other.
    accounts.read("b", "v2", &report(1, "arrived", 0), at(1));
    accounts.settle(at(1));
    accounts.read("c", "v2", &report(u64::MAX, "arrived", u64::MAX), at(2));
    accounts.settle(at(2));
    assert!(accounts.returned().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_answer_is_read_or_refused(value in any_json()) {
        let _ = serde_json::from_value::<SessionsReport>(value.clone());
        let _ = serde_json::from_value::<DrainProgress>(value.clone());
        let _ = serde_json::from_value::<EventsReport>(value.clone());
        let _ = serde_json::from_value::<Notice>(value.clone());
        if let Ok(order) = serde_json::from_value::<DrainOrder>(value) {
            let _ = order.check();
        }
    }

    /// What is believed can be added up: over ten thousand pods, without turning over.
    #[test]
    fn a_spoilt_report_is_believed_only_within_bounds(value in spoilt(report())) {
        if let Ok(report) = serde_json::from_value::<SessionsReport>(value)
            && super::client::check_report(&report).is_ok()
        {
            prop_assert!(report.open.checked_mul(10_000).is_some_and(|sum| i64::try_from(sum).is_ok()));
        }
    }

    #[test]
    fn any_page_of_metrics_is_a_count_or_none(page in "(open|#|\\{|\\}|\"|\\\\| |\n|[0-9.eE+-]|[a-z]|[^a]){0,80}") {
        if let Ok(sum) = gauge::sum(&page, "open") {
            prop_assert!(sum <= super::protocol::MAX_SESSIONS);
        }
    }

    #[test]
    fn any_events_are_accounted_for_or_left(pages in prop::collection::vec(
        spoilt(json!({"instance": "i", "next": 3, "lost": 1, "events": [
            {"n": 1, "kind": "released", "session": "00000000000000aa", "agoMs": 5, "order": "r1-w1-u", "how": "moved"},
            {"n": 2, "kind": "arrived", "session": "00000000000000aa", "agoMs": 1, "resumed": true},
            {"n": 3, "kind": "released", "session": "00000000000000ab", "agoMs": 0, "how": "left"}]})), 1..6)) {
        let mut accounts = accounts();
        for (second, page) in (0..).zip(pages) {
            let Ok(report) = serde_json::from_value::<EventsReport>(page) else { continue };
            let now = Timestamp::from_second(1_800_000_000 + second).unwrap();
            accounts.read(["a", "b"][second as usize % 2], ["v1", "v2"][second as usize % 2], &report, now);
            accounts.settle(now);
        }
        let _ = accounts.returned();
    }
}
