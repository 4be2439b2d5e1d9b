//! One shutdown tree: readiness off → intake stops → tasks end → the lease is vacated. A second signal aborts.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::web::Readiness;

/// How long vacating the lease may take.
const VACATE: Duration = Duration::from_secs(5);

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything ended in order.
    Clean,
    /// Tasks were still running when the grace period was over.
    TimedOut,
    /// A second signal came.
    Aborted,
}

/// The tree. Clone its tokens into the tasks, then [`Shutdown::run`] it.
#[derive(Debug)]
pub struct Shutdown {
    readiness: Readiness,
    grace: Duration,
    begin: CancellationToken,
    stop: CancellationToken,
    lease: CancellationToken,
    tasks: TaskTracker,
    lease_tasks: TaskTracker,
}

// === impl Shutdown ===

impl Shutdown {
    /// A tree whose tasks have `grace` to end once they were told.
    pub fn new(readiness: Readiness, grace: Duration) -> Self {
        Self {
            readiness,
            grace,
            begin: CancellationToken::new(),
            stop: CancellationToken::new(),
            lease: CancellationToken::new(),
            tasks: TaskTracker::new(),
            lease_tasks: TaskTracker::new(),
        }
    }

    /// Cancel this to shut down without a signal, for instance when a task ended that should not have.
    pub fn begin(&self) -> CancellationToken {
        self.begin.clone()
    }

    /// Cancelled when tasks shall take nothing new and end.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when the tasks have ended: the elector's own `stop`.
    pub fn lease(&self) -> CancellationToken {
        self.lease.clone()
    }

    /// Tasks that end on [`Shutdown::stop`].
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Tasks that end on [`Shutdown::lease`].
    pub fn lease_tasks(&self) -> &TaskTracker {
        &self.lease_tasks
    }

    /// Waits for the first of `signals` (or [`Shutdown::begin`]) and shuts down; the next one aborts.
    pub async fn run(self, mut signals: mpsc::Receiver<()>) -> Outcome {
        tokio::select! {
            Some(()) = signals.recv() => {}
            () = self.begin.cancelled() => {}
        }
        tracing::info!("shutting down");
        tokio::select! {
            biased;
            Some(()) = signals.recv() => Outcome::Aborted,
            outcome = self.in_order() => outcome,
        }
    }

    async fn in_order(&self) -> Outcome {
        self.readiness.set(false);
        self.stop.cancel();
        self.tasks.close();
        let ended = timeout(self.grace, self.tasks.wait()).await.is_ok();
        // Vacated even when a task hangs: its guard lapses with the lease, so it cannot write any more.
        self.lease.cancel();
        self.lease_tasks.close();
        let vacated = timeout(VACATE, self.lease_tasks.wait()).await.is_ok();
        if ended && vacated {
            Outcome::Clean
        } else {
            Outcome::TimedOut
        }
    }
}

/// SIGTERM and SIGINT, as they come. Has to be called within a runtime.
pub fn signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = terminate.recv() => {}
                Some(()) = interrupt.recv() => {}
                else => return,
            }
            if send.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Scene {
        readiness: Readiness,
        send: mpsc::Sender<()>,
        log: Arc<Mutex<Vec<&'static str>>>,
        run: tokio::task::JoinHandle<Outcome>,
    }

    fn scene(task_takes: Duration) -> Scene {
        let readiness = Readiness::default();
        readiness.set(true);
        let tree = Shutdown::new(readiness.clone(), Duration::from_secs(10));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stop, lease) = (tree.stop(), tree.lease());
        let (first, second) = (Arc::clone(&log), Arc::clone(&log));
        tree.tasks().spawn(async move {
            stop.cancelled().await;
            tokio::time::sleep(task_takes).await;
            first.lock().unwrap().push("task");
        });
        tree.lease_tasks().spawn(async move {
            lease.cancelled().await;
            second.lock().unwrap().push("lease");
        });
        let (send, receive) = mpsc::channel(4);
        Scene {
            readiness,
            send,
            log,
            run: tokio::spawn(tree.run(receive)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_end_before_the_lease_is_vacated() {
        let scene = scene(Duration::from_secs(3));
        scene.send.send(()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!scene.readiness.get(), "readiness goes first");
        assert_eq!(scene.run.await.unwrap(), Outcome::Clean);
        assert_eq!(*scene.log.lock().unwrap(), ["task", "lease"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_hangs_does_not_hold_the_lease() {
        let scene = scene(Duration::from_hours(1));
        scene.send.send(()).await.unwrap();
        assert_eq!(scene.run.await.unwrap(), Outcome::TimedOut);
        assert_eq!(*scene.log.lock().unwrap(), ["lease"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_aborts() {
        let scene = scene(Duration::from_hours(1));
        scene.send.send(()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.send.send(()).await.unwrap();
        assert_eq!(scene.run.await.unwrap(), Outcome::Aborted);
    }
}
