use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::routing::{get, post};
use rstest::rstest;
use serde_json::{Value, json};

use super::condition::holds;
use super::source::{Answer, Error};
use super::*;

/// A server on this host; its address.
async fn serve(router: Router) -> String {
    // Who else runs in this process may have installed one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

fn subject() -> Subject {
    Subject {
        namespace: "shop".to_owned(),
        name: "chat".to_owned(),
        release: 7,
        revision: "bbb".to_owned(),
        stable: "aaa".to_owned(),
        step: 1,
    }
}

fn analysis(value: Value) -> Analysis {
    let mut whole = json!({"name": "errors", "condition": "result < 0.05", "interval": "1s"});
    json_patch::merge(&mut whole, &value);
    serde_json::from_value(whole).unwrap()
}

/// Sources of tests run on this machine.
fn local() -> crate::outbound::Policy {
    crate::outbound::Policy::new(vec!["127.0.0.0/8".parse().unwrap()])
}

async fn asked(analysis: &Analysis) -> Result<Answer, Error> {
    let client = source::client(std::sync::Arc::new(local())).unwrap();
    source::ask(&client, analysis, &subject()).await
}

fn prometheus(body: String) -> Router {
    Router::new().route("/api/v1/query", get(move || async move { body }))
}

fn vector(values: &[&str]) -> String {
    let series: Vec<Value> = values
        .iter()
        .map(|v| json!({"metric": {}, "value": [1.5, v]}))
        .collect();
    json!({"status": "success", "data": {"resultType": "vector", "result": series}}).to_string()
}

#[rstest]
#[case(vector(&["0.03"]), "0.03")]
#[case(json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "7"]}}).to_string(), "7")]
#[case(vector(&[]), "the query found nothing")]
#[case(vector(&["NaN"]), "the query found nothing")]
#[case(vector(&["1", "2", "3"]), "the query found 3 series: aggregate them to one")]
#[case("hello".to_owned(), "its answer cannot be read: it is not an answer of Prometheus")]
#[case("x".repeat(100_000), "its answer is longer than 64 KiB")]
#[tokio::test]
async fn a_query_is_one_number_or_no_answer(#[case] body: String, #[case] expected: &str) {
    let address = serve(prometheus(body)).await;
    let analysis = analysis(json!({"prometheus": {"address": address, "query": "up"}}));
    let said = match asked(&analysis).await {
        Ok(Answer::Number(number)) => number.to_string(),
        Ok(other) => panic!("{other:?}"),
        Err(error) => error.to_string(),
    };
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_query_has_its_placeholders_filled_in() {
    let echo = |RawQuery(query): RawQuery| async move {
        assert_eq!(
            query.as_deref(),
            Some("query=rate%28x%7Bns%3D%22shop%22%2Cr%3D%22bbb%22%7D%5B1m%5D%29%2Faaa%2Fchat")
        );
        vector(&["1"])
    };
    let address = serve(Router::new().route("/api/v1/query", get(echo))).await;
    let query = r#"rate(x{ns="${namespace}",r="${revision}"}[1m])/${stable}/${name}"#;
    let analysis = analysis(json!({"prometheus": {"address": address, "query": query}}));
    assert!(asked(&analysis).await.is_ok());
}

#[tokio::test]
async fn a_webhook_is_told_what_it_is_asked_about() {
    let judge = |body: String| async move {
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&told["revision"], &told["release"], &told["step"]),
            (&json!("bbb"), &json!(7), &json!(1))
        );
        r#"{"ok": true, "errors": 3}"#
    };
    let address = serve(Router::new().route("/judge", post(judge))).await;
    let analysis = analysis(json!({"webhook": {"url": format!("{address}/judge")}}));
    let answer = asked(&analysis).await.unwrap();
    assert!(holds("body.ok && body.errors < 5", answer.clone()).unwrap().holds);
    assert!(!holds("body.errors < 3", answer.clone()).unwrap().holds);
    let error = holds("body.missing > 3", answer).unwrap_err();
    assert_eq!(error.category(), "Condition");
}

#[rstest]
#[case("result < 0.05", 0.03, Some(true))]
#[case("result < 0.05", 0.07, Some(false))]
#[case("result < 1", 0.5, Some(true))]
#[case("result >= 1 && result <= 2", 2.0, Some(true))]
#[case("result + 1.0", 0.0, None)]
#[case("other > 1", 0.0, None)]
#[case("result <", 0.0, None)]
fn a_condition_holds_or_does_not_or_is_no_answer(
    #[case] condition: &str,
    #[case] number: f64,
    #[case] expected: Option<bool>,
) {
    let held = holds(condition, Answer::Number(number))
        .ok()
        .map(|held| held.holds);
    assert_eq!(held, expected);
}

#[rstest]
#[case(StatusCode::FOUND, "it answered with status 302")]
#[case(StatusCode::SERVICE_UNAVAILABLE, "it answered with status 503")]
#[tokio::test]
async fn redirects_are_not_followed_and_refusals_are_no_answer(
    #[case] status: StatusCode,
    #[case] expected: &str,
) {
    let elsewhere = move || async move { (status, [("location", "http://127.0.0.1:1/")]) };
    let address = serve(Router::new().route("/", post(elsewhere))).await;
    let analysis = analysis(json!({"webhook": {"url": format!("{address}/")}}));
    assert_eq!(asked(&analysis).await.unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn nobody_there_is_no_answer() {
    let analysis = analysis(json!({"webhook": {"url": "http://127.0.0.1:1/"}}));
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    assert_eq!(asked(&analysis).await.unwrap_err().category(), "Unreachable");
}

/// Asks until a condition on what is known holds.
async fn until(
    gatherer: &Gatherer,
    wanted: &[Analysis],
    run: &str,
    done: impl Fn(&MetricView) -> bool,
) -> MetricView {
    let subject = subject();
    let watch = async {
        loop {
            let views = gatherer.observe("shop/chat", Some((run, wanted, &subject)));
            if let Some(view) = views.first().filter(|view| done(view)) {
                return view.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), watch)
        .await
        .unwrap()
}

#[tokio::test]
async fn answers_are_counted_in_the_background_and_another_run_begins_from_nothing() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let answer = move || {
        // Held, broken, broken, no answer, broken …
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => vector(&["0.01"]),
                3 => vector(&[]),
                _ => vector(&["0.5"]),
            }
        }
    };
    let address = serve(Router::new().route("/api/v1/query", get(answer))).await;
    let wanted = [analysis(
        json!({"interval": "1ms", "prometheus": {"address": address, "query": "up"}}),
    )];
    let gatherer = Gatherer::new(std::sync::Arc::new(local()));
    let view = until(&gatherer, &wanted, "one", |v| v.broken_in_a_row == 3).await;
    assert!(view.samples >= 4, "no answer breaks no row: {view:?}");
    assert_eq!(view.last.as_deref(), Some("result is 0.5"));
    let fresh = gatherer.observe("shop/chat", Some(("two", &wanted, &subject())));
    assert_eq!((fresh[0].samples, fresh[0].broken_in_a_row), (0, 0));
    assert!(gatherer.observe("shop/chat", None).is_empty());
}
