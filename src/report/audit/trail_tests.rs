//! Bounds: what does not fit is dropped, counted and told, and nobody waits.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::super::record::Event;
use super::super::sink::{Sinks, Target};
use super::*;

fn record(percent: i32) -> AuditRecord {
    AuditRecord {
        event: Event::WeightAsked { percent },
        rollout: "chat".to_owned(),
        ..AuditRecord::lost(0, "2026-11-22T08:00:00Z".parse().unwrap())
    }
}

fn records(range: std::ops::Range<i32>) -> Vec<AuditRecord> {
    range.map(record).collect()
}

struct Scene {
    registry: Registry,
    path: std::path::PathBuf,
    trail: Trail,
    writer: Writer,
}

/// A trail to a file, whose queue holds so many lines and is not served yet.
async fn scene(name: &str, bound: usize) -> Scene {
    let path = std::env::temp_dir().join(format!("wsroll-trail-{name}-{}.jsonl", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut registry = Registry::default();
    let metrics = AuditMetrics::register(&mut registry);
    let sinks = Sinks {
        targets: vec![Target::File(path.clone())],
        ..Sinks::default()
    };
    let (trail, mut writers) = Trail::with_queue(sinks.open().await.unwrap(), &metrics, bound);
    Scene {
        registry,
        path,
        trail,
        writer: writers.remove(0),
    }
}

fn shown(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text
}

fn events(path: &std::path::Path) -> Vec<Event> {
    let text = std::fs::read_to_string(path).unwrap();
    let _ = std::fs::remove_file(path);
    text.lines()
        .map(|line| serde_json::from_str::<AuditRecord>(line).unwrap().event)
        .collect()
}

fn asked(percent: i32) -> Event {
    Event::WeightAsked { percent }
}

#[tokio::test]
async fn a_full_queue_drops_and_the_next_line_that_gets_through_says_how_many() {
    let mut scene = scene("full", 4).await;
    scene.trail.tell(&records(0..10), &Scrub::default());
    assert!(shown(&scene.registry).contains("dropped_total{sink=\"file\",reason=\"full\"} 6"));
    // Two are taken: there is room for the count of the lost, and for one more.
    for _ in 0..2 {
        scene.writer.queue.recv().await.unwrap();
    }
    scene.trail.tell(&records(10..11), &Scrub::default());
    let stop = CancellationToken::new();
    stop.cancel();
    scene.writer.run(stop).await;
    assert_eq!(
        events(&scene.path),
        [asked(2), asked(3), Event::Lost { records: 6 }, asked(10)]
    );
    assert!(shown(&scene.registry).contains("records_total{sink=\"file\"} 4"));
}

#[tokio::test]
async fn what_waits_is_written_at_shutdown() {
    let scene = scene("flush", 10_000).await;
    scene.trail.tell(&records(0..2_000), &Scrub::default());
    let stop = CancellationToken::new();
    stop.cancel();
    scene.writer.run(stop).await;
    assert_eq!(events(&scene.path).len(), 2_000);
    // Nobody is there any more to take it: it is dropped, and nobody waits for it.
    scene.trail.tell(&records(0..1), &Scrub::default());
}

#[tokio::test]
async fn a_trail_to_nowhere_costs_nothing() {
    let trail = Trail::default();
    assert!(!trail.is_on());
    trail.tell(&records(0..3), &Scrub::default());
}
