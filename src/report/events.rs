//! Kubernetes Events: published in the background, each finding once.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Events that wait to be published; more are dropped and counted.
const QUEUE: usize = 256;
/// The same finding is published again only after this.
const AGAIN_AFTER: Duration = Duration::from_mins(10);
/// How long publishing one Event may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Kubernetes' own limit of a note, bytes.
const MAX_NOTE: usize = 1024;

/// Takes findings and never waits. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: mpsc::Sender<Finding>,
    dropped: Counter,
}

/// Publishes what a [`Publisher`] takes; run it as a task. It ends with the last publisher.
pub struct Worker {
    queue: mpsc::Receiver<Finding>,
    client: Client,
    reporter: Reporter,
    told: HashMap<Key, Instant>,
}

/// One thing worth an Event.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The object it is about.
    pub about: ObjectReference,
    /// Whether somebody should look at it.
    pub warning: bool,
    /// Why, in `PascalCase`, of a closed set.
    pub reason: &'static str,
    /// What was being done, in `PascalCase`, of a closed set.
    pub action: &'static str,
    /// One or two sentences for people; cut at 1 KiB.
    pub note: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: Option<String>,
    reason: &'static str,
    note: String,
}

/// A publisher, and the worker that serves it. `instance` is the pod's name; `dropped` counts what did not fit.
pub fn publisher(client: Client, instance: Option<String>, dropped: Counter) -> (Publisher, Worker) {
    let (send, queue) = mpsc::channel(QUEUE);
    let reporter = Reporter {
        controller: "wsroll".to_owned(),
        instance,
    };
    (
        Publisher { queue: send, dropped },
        Worker {
            queue,
            client,
            reporter,
            told: HashMap::new(),
        },
    )
}

// === impl Publisher ===

impl Publisher {
    /// Queues a finding. Told already, or without room in the queue, it is not published.
    pub fn publish(&self, finding: Finding) {
        if self.queue.try_send(finding).is_err() {
            self.dropped.inc();
        }
    }
}

// === impl Worker ===

impl Worker {
    /// Publishes until the last publisher is gone. Failures are logged: an Event is news, not state.
    pub async fn run(mut self) {
        while let Some(finding) = self.queue.recv().await {
            if self.is_news(&finding, Instant::now()) {
                self.publish(finding).await;
            }
        }
    }

    fn is_news(&mut self, finding: &Finding, now: Instant) -> bool {
        self.told.retain(|_, told| now < *told + AGAIN_AFTER);
        let Finding {
            about,
            warning: _,
            reason,
            action: _,
            note,
        } = finding;
        let key = Key {
            uid: about.uid.clone(),
            reason,
            note: note.clone(),
        };
        // A finding that comes with every reconcile stays told; it does not come again as long as it lasts.
        self.told.insert(key, now).is_none()
    }

    async fn publish(&self, finding: Finding) {
        let Finding {
            about,
            warning,
            reason,
            action,
            note,
        } = finding;
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            note: Some(cut(note)),
            action: action.to_owned(),
            secondary: None,
        };
        // A recorder merges Events of one reason into a series under the note of the first, which hides that the
        // numbers changed. What repeats is held back above, so each one here is an Event of its own.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        match timeout(TIMEOUT, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    reason,
                    error = &error as &dyn std::error::Error,
                    "failed to publish an event"
                );
            }
            Err(_) => tracing::warn!(reason, "an event was not published in time"),
        }
    }
}

/// At most [`MAX_NOTE`] bytes, cut between characters.
fn cut(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE - '…'.len_utf8())
            .rev()
            .find(|end| note.is_char_boundary(*end))
            .unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;
    use tower_test::mock::{self, Handle};

    use super::*;

    fn finding(uid: &str, note: &str) -> Finding {
        Finding {
            about: ObjectReference {
                uid: Some(uid.into()),
                name: Some("chat".into()),
                namespace: Some("prod".into()),
                ..ObjectReference::default()
            },
            warning: false,
            reason: "WeightChanged",
            action: "Shift",
            note: note.into(),
        }
    }

    async fn published(server: &mut Handle<Request<Body>, Response<Body>>) -> Option<Value> {
        let (request, send) = timeout(Duration::from_secs(1), server.next_request())
            .await
            .ok()??;
        assert_eq!(request.method(), http::Method::POST);
        let body = request.into_body().collect_bytes().await.unwrap();
        send.send_response(
            Response::builder()
                .status(201)
                .body(Body::from(body.to_vec()))
                .unwrap(),
        );
        Some(serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_finding_is_told_once_and_again_when_it_comes_back() {
        let (service, mut server) = mock::pair();
        let (publisher, worker) = publisher(Client::new(service, "prod"), None, Counter::default());
        tokio::spawn(worker.run());

        publisher.publish(finding("u-1", "weight is 10"));
        publisher.publish(finding("u-1", "weight is 10"));
        publisher.publish(finding("u-1", "weight is 50"));
        publisher.publish(finding("u-2", "weight is 10"));
        let mut notes = Vec::new();
        while let Some(event) = published(&mut server).await {
            notes.push(event["note"].as_str().unwrap().to_owned());
        }
        assert_eq!(notes, ["weight is 10", "weight is 50", "weight is 10"]);

        tokio::time::sleep(AGAIN_AFTER).await;
        publisher.publish(finding("u-1", "weight is 10"));
        assert!(published(&mut server).await.is_some());
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let (service, _server) = mock::pair::<Request<Body>, Response<Body>>();
        let dropped = Counter::default();
        let (publisher, _worker) = publisher(Client::new(service, "prod"), None, dropped.clone());
        for n in 0..=QUEUE {
            publisher.publish(finding("u", &n.to_string()));
        }
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("kurz".into()), "kurz");
        let note = cut("ä".repeat(1000));
        assert!(note.len() <= MAX_NOTE && note.ends_with("ä…"));
    }
}
