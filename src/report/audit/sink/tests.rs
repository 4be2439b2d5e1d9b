//! Real files, and real HTTP servers: slow, in trouble, gone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, StatusCode};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::super::metrics::AuditMetrics;
use super::super::record::{AuditRecord, Event};
use super::super::scrub::Scrub;
use super::super::trail::Trail;
use super::*;

fn lines(texts: &[&str]) -> Vec<Line> {
    texts.iter().map(|text| Line::from(*text)).collect()
}

/// A directory of this test alone.
fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("wsroll-sink-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

// --- files ---

async fn file(path: &std::path::Path, max_bytes: u64, count: u32) -> FileSink {
    FileSink::open(path.to_owned(), FileSettings { max_bytes, count })
        .await
        .unwrap()
}

#[tokio::test]
async fn files_are_rotated_by_size_and_so_many_are_kept() {
    let directory = directory("rotate");
    let path = directory.join("audit.jsonl");
    let mut sink = file(&path, 10, 3).await;
    for n in 0..8 {
        sink.write(&format!("l{n}\nm{n}\n")).await.unwrap();
    }
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    assert_eq!(read("audit.jsonl"), "m7\n");
    assert_eq!(read("audit.jsonl.1"), "l6\nm6\nl7\n");
    assert_eq!(read("audit.jsonl.2"), "m4\nl5\nm5\n");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3);
    // A line longer than any file may be is not lost, and stays whole.
    sink.write("a line longer than ten\nx\n").await.unwrap();
    assert_eq!(read("audit.jsonl"), "x\n");
    assert_eq!(read("audit.jsonl.1"), "a line longer than ten\n");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_single_file_starts_anew_when_it_is_full() {
    let directory = directory("single");
    let path = directory.join("audit.jsonl");
    let mut sink = file(&path, 6, 1).await;
    sink.write("one\ntwo\n").await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_torn_line_stays_one_line_and_the_size_goes_on_from_what_is_there() {
    let directory = directory("torn");
    let path = directory.join("audit.jsonl");
    std::fs::write(&path, "whole\nto").unwrap();
    let mut sink = file(&path, 14, 2).await;
    sink.write("next\n").await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nto\nnext\n");
    sink.write("more\n").await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "more\n");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_said_at_the_start() {
    let sinks = Sinks {
        targets: vec!["file:/nowhere/at/all/audit.jsonl".parse().unwrap()],
        ..Sinks::default()
    };
    let error = sinks.open().await.unwrap_err();
    assert!(
        error.to_string().contains("name a directory that is there"),
        "{error}"
    );
}

// --- collectors ---

/// A batch as a collector got it: its key, its authorization, its body.
type Got = (String, Option<String>, String);

#[derive(Clone, Default)]
struct Collector {
    got: Arc<Mutex<Vec<Got>>>,
    /// What it answers to each call, in turn; 204 afterwards.
    answers: Arc<Mutex<Vec<u16>>>,
    /// Calls that it never answers.
    mute: Arc<Mutex<usize>>,
}

impl Collector {
    fn answering(answers: &[u16]) -> Self {
        let collector = Self::default();
        *collector.answers.lock().unwrap() = answers.to_vec();
        collector
    }

    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/in", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn bodies(&self) -> Vec<String> {
        self.got().into_iter().map(|(_, _, body)| body).collect()
    }
}

async fn take(
    State(collector): State<Collector>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, [(&'static str, &'static str); 1]) {
    let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(header("content-type").as_deref(), Some("application/x-ndjson"));
    let key = header("idempotency-key").unwrap();
    let got = (key, header("authorization"), body);
    collector.got.lock().unwrap().push(got);
    let mute = {
        let mut left = collector.mute.lock().unwrap();
        let mute = *left > 0;
        *left = left.saturating_sub(1);
        mute
    };
    if mute {
        std::future::pending::<()>().await;
    }
    let mut answers = collector.answers.lock().unwrap();
    let answer = if answers.is_empty() {
        204
    } else {
        answers.remove(0)
    };
    (
        StatusCode::from_u16(answer).unwrap(),
        [("location", "/elsewhere")],
    )
}

fn quick() -> HttpSettings {
    HttpSettings {
        header_file: None,
        timeout: Duration::from_millis(500),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        retries: 5,
    }
}

async fn sink(address: SocketAddr, settings: HttpSettings) -> HttpSink {
    let url = Url::parse(&format!("http://{address}/in")).unwrap();
    HttpSink::new(url, settings).await.unwrap()
}

#[tokio::test]
async fn a_batch_is_lines_and_comes_once() {
    let collector = Collector::default();
    let sink = sink(collector.serve().await, quick()).await;
    let mut sink = Sink::Http(Box::new(sink));
    sink.write(&lines(&["{\"n\":1}", "{\"n\":2}"])).await.unwrap();
    assert_eq!(collector.bodies(), ["{\"n\":1}\n{\"n\":2}\n"]);
}

#[tokio::test]
async fn a_collector_in_trouble_gets_the_same_batch_again_under_the_same_key() {
    let collector = Collector::answering(&[500, 503, 429, 401]);
    let mut sink = sink(collector.serve().await, quick()).await;
    sink.write("x\n".to_owned()).await.unwrap();
    let got = collector.got();
    assert_eq!(got.len(), 5);
    assert!(got.iter().all(|batch| *batch == got[0]), "{got:?}");
    sink.write("y\n".to_owned()).await.unwrap();
    assert_ne!(collector.got()[5].0, got[0].0, "another batch has another key");
}

#[tokio::test]
async fn a_collector_that_does_not_answer_is_called_again() {
    let collector = Collector::default();
    *collector.mute.lock().unwrap() = 1;
    let mut sink = sink(collector.serve().await, quick()).await;
    sink.write("x\n".to_owned()).await.unwrap();
    assert_eq!(collector.bodies(), ["x\n", "x\n"]);
}

#[tokio::test]
async fn a_batch_that_is_refused_for_good_is_dropped_at_once_and_no_redirect_is_followed() {
    for answer in [400, 404, 413, 307] {
        let collector = Collector::answering(&[answer]);
        let mut sink = sink(collector.serve().await, quick()).await;
        let refusal = sink.write("x\n".to_owned()).await.unwrap_err();
        assert!(
            matches!(refusal, Refusal::Refused(status) if status == answer),
            "{refusal}"
        );
        assert_eq!(collector.got().len(), 1);
    }
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_so_many_tries_and_the_batch() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut sink = sink(address, quick()).await;
    let refusal = sink.write("x\n".to_owned()).await.unwrap_err();
    assert_eq!(refusal.category(), "failed");
    assert!(refusal.to_string().contains("no connection"), "{refusal}");
}

#[tokio::test]
async fn headers_come_from_a_file_that_is_read_for_each_batch() {
    let directory = directory("headers");
    let path = directory.join("headers");
    std::fs::write(&path, "Authorization: Bearer one\n\n").unwrap();
    let settings = HttpSettings {
        header_file: Some(path.clone()),
        ..quick()
    };
    let collector = Collector::default();
    let mut sink = sink(collector.serve().await, settings.clone()).await;
    sink.write("x\n".to_owned()).await.unwrap();
    std::fs::write(&path, "Authorization: Bearer two\n").unwrap();
    sink.write("y\n".to_owned()).await.unwrap();
    let sent: Vec<_> = collector
        .got()
        .into_iter()
        .filter_map(|(_, header, _)| header)
        .collect();
    assert_eq!(sent, ["Bearer one", "Bearer two"]);
    // What is wrong is said without the value, and never in the clear to somebody far away.
    std::fs::write(&path, "s3cret without a name").unwrap();
    let local = Url::parse("http://127.0.0.1:1/in").unwrap();
    let error = HttpSink::new(local, settings.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 1 is no header") && !error.contains("s3cret"),
        "{error}"
    );
    let far = Url::parse("http://logs.example.com/in").unwrap();
    let error = HttpSink::new(far, settings).await.unwrap_err();
    assert!(matches!(error, Error::Plain(_)), "{error}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_slow_collector_never_holds_up_who_tells() {
    let collector = Collector::default();
    *collector.mute.lock().unwrap() = usize::MAX;
    let sink = Sink::Http(Box::new(
        sink(collector.serve().await, HttpSettings::default()).await,
    ));
    let mut registry = Registry::default();
    let metrics = AuditMetrics::register(&mut registry);
    let (trail, writers) = Trail::with_queue(vec![sink], &metrics, 8);
    let stop = CancellationToken::new();
    let running: Vec<_> = writers
        .into_iter()
        .map(|w| tokio::spawn(w.run(stop.clone())))
        .collect();
    let record = AuditRecord {
        event: Event::WeightAsked { percent: 10 },
        ..AuditRecord::lost(0, "2026-11-22T08:00:00Z".parse().unwrap())
    };
    // Nothing is awaited here: whoever tells does not even have the chance to wait.
    for _ in 0..1_000 {
        trail.tell(std::slice::from_ref(&record), &Scrub::default());
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("reason=\"full\"} 992"), "{text}");
    stop.cancel();
    for writer in running {
        // Bounded, although the collector never answers.
        tokio::time::timeout(Duration::from_secs(20), writer)
            .await
            .unwrap()
            .unwrap();
    }
}

#[test]
fn sinks_are_named_as_documented() {
    assert_eq!("stdout".parse(), Ok(Target::Stdout));
    assert_eq!(
        "file:/var/a.jsonl".parse(),
        Ok(Target::File("/var/a.jsonl".into()))
    );
    assert!(matches!(
        "https://logs.example.com/in".parse(),
        Ok(Target::Http(_))
    ));
    for wrong in [
        "",
        "stderr",
        "file:a.jsonl",
        "file:",
        "ftp://x/",
        "https://jane:s3cret@x/",
        "https://x/?token=s3cret",
        "https://x/#s3cret",
    ] {
        let error = wrong.parse::<Target>().unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
