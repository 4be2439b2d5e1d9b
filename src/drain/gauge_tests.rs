use std::fmt::Write as _;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use proptest::prelude::*;

use super::*;

const PAGE: &str = r#"
# HELP ws_sessions Open sessions; a counter ws_sessions_total is another one.
# TYPE ws_sessions gauge
ws_sessions{room="a",note="b } 7 \" {"} 5
ws_sessions{room="c"} 2 1395066363000
ws_sessions 1
ws_sessions_total 900
ws_sessionsish 3
other{ws_sessions="1"} 9
"#;

#[test]
fn the_series_of_one_gauge_are_added_up() {
    assert_eq!(sum(PAGE, "ws_sessions"), Ok(8));
    assert_eq!(
        sum(PAGE, "ws_sessions_total"),
        Ok(900),
        "untyped is taken at its word"
    );
    assert_eq!(sum("a 0\n", "a"), Ok(0), "a zero that is said is a zero");
    assert_eq!(sum("a 0.2\n", "a"), Ok(1), "never fewer than there are");
    assert_eq!(sum("a{} 2.5e1 # {} 1\n", "a"), Ok(25));
}

#[rstest::rstest]
#[case("", Unreadable::Absent)]
#[case("# TYPE a gauge\n", Unreadable::Absent)]
#[case("b 1\n", Unreadable::Absent)]
#[case("a NaN\n", Unreadable::NoCount)]
#[case("a +Inf\n", Unreadable::NoCount)]
#[case("a -1\n", Unreadable::NoCount)]
#[case("a many\n", Unreadable::NoCount)]
#[case("a \n", Unreadable::NoCount)]
#[case("a{x=\"1\" 5\n", Unreadable::NoCount)]
#[case("a 4\na oops\n", Unreadable::NoCount)]
#[case("# TYPE a counter\na 4\n", Unreadable::NotAGauge("counter".into()))]
#[case("# TYPE a histogram\n", Unreadable::NotAGauge("histogram".into()))]
fn what_is_no_sum_is_unknown(#[case] page: &str, #[case] expected: Unreadable) {
    assert_eq!(sum(page, "a"), Err(expected));
}

proptest! {
    #[test]
    fn any_page_of_series_has_their_sum(
        series in prop::collection::vec((0_u32..10_000, "[ -~]{0,12}"), 1..20),
        others in prop::collection::vec("[b-z][a-z_]{0,8}", 0..10),
    ) {
        let mut page = String::new();
        let label = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        for (n, (value, text)) in series.iter().enumerate() {
            if let Some(other) = others.get(n) {
                writeln!(page, "{other}{{a=\"1\"}} 17").unwrap();
            }
            writeln!(page, "a{{text=\"{}\"}} {value}", label(text)).unwrap();
        }
        let expected: u64 = series.iter().map(|(value, _)| u64::from(*value)).sum();
        prop_assert_eq!(sum(&page, "a"), Ok(expected));
    }

    #[test]
    fn garbage_is_never_a_zero(page in "\\PC{0,200}") {
        prop_assume!(!page.contains("ws_sessions"));
        prop_assert_eq!(sum(&page, "ws_sessions"), Err(Unreadable::Absent));
    }

    #[test]
    fn a_page_that_was_cut_off_is_never_less_than_what_it_shows(cut in 0_usize..PAGE.len()) {
        // No panic on any prefix, and no series is read twice.
        if let Some(part) = PAGE.get(..cut) {
            prop_assert!(sum(part, "ws_sessions").is_err() || sum(part, "ws_sessions").unwrap() <= 8);
        }
    }
}

async fn pod(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn read(router: Router, path: &str) -> Result<u64, &'static str> {
    let client = GaugeClient::new(Duration::from_secs(5)).unwrap();
    client
        .read(pod(router).await, path, "ws_sessions")
        .await
        .map_err(|error| error.category())
}

#[tokio::test]
async fn a_pods_own_page_is_read_and_nothing_else() {
    let page = || Router::new().route("/metrics", get(|| async { PAGE }));
    assert_eq!(read(page(), "/metrics").await, Ok(8));
    assert_eq!(read(page(), "/metrics?all=1").await, Ok(8));
    assert_eq!(read(page(), "/elsewhere").await, Err("status"));
    assert_eq!(
        read(page(), "@example.com/metrics").await,
        Err("status"),
        "it stays a path"
    );
}

#[tokio::test]
async fn redirects_errors_and_endless_pages_are_unknown() {
    let redirect = get(|| async { (StatusCode::FOUND, [("location", "/metrics")]) });
    let router = Router::new()
        .route("/metrics", get(|| async { PAGE }))
        .route("/moved", redirect);
    assert_eq!(read(router, "/moved").await, Err("status"));
    let endless = Router::new().route("/metrics", get(|| async { "# x\n".repeat(MAX_PAGE / 4 + 1) }));
    assert_eq!(read(endless, "/metrics").await, Err("too_long"));
    let empty = Router::new().route("/metrics", get(|| async { "" }));
    assert_eq!(read(empty, "/metrics").await, Err("no_gauge"));
    let client = GaugeClient::new(Duration::from_millis(50)).unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = client
        .read(silent.local_addr().unwrap(), "/metrics", "a")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "unreachable");
}
