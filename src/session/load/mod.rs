//! Many sessions at once, as users would hold them, and what became of them.

mod member;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::member::Member;
use self::tally::Tally;
pub use self::tally::{Line, Summary};
use super::config::SessionConfig;
use super::token::Token;

/// What to hold.
pub struct LoadConfig {
    /// Settings of all sessions.
    pub session: Arc<SessionConfig>,
    /// How many.
    pub sessions: u32,
    /// How often each says something.
    pub say_every: Duration,
    /// Sessions opened in each second.
    pub connect_rate: f64,
    /// The token of each session, by its place.
    pub token: Box<dyn Fn(u32) -> Option<Token> + Send>,
}

/// Sessions held until they are stopped. Dropping it stops them without a word.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Tally>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Load {
    /// Begins to open sessions. `now` is the wall time, for seconds that line up with other clocks.
    pub fn start(config: &LoadConfig, now: Timestamp) -> Self {
        let tally = Arc::new(Tally::new(config.sessions, now, Instant::now()));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let begun = Instant::now();
        for place in 0..config.sessions {
            let wait = f64::from(place) / config.connect_rate.max(0.001);
            let member = Member {
                config: config.session.clone(),
                token: (config.token)(place),
                place,
                opens_at: begun + Duration::from_secs_f64(wait),
                say_every: config.say_every,
                tally: tally.clone(),
            };
            tasks.spawn(member.run(stop.clone()));
        }
        tasks.close();
        Self { tally, stop, tasks }
    }

    /// The state now, and what happened since the last call.
    pub fn line(&self) -> Line {
        self.tally.line(Instant::now())
    }

    /// Stops saying, waits for the last answers, reads every session's state and closes.
    pub async fn stop(self) -> Summary {
        self.stop.cancel();
        self.tasks.wait().await;
        self.tally.summary()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
