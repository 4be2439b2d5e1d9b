//! One reconnect of a few sessions, for people who want to see whether their service resumes at all.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use super::job::{ProbeDial, RehearsalTimeouts};
use super::record::Recorder;
use super::together::Goals;
use super::walk::{Step, Walk};
use crate::engine::evidence::{ProbeFigures, RehearsalFailure};
use crate::session::{ConfigError, Pin, Session};

/// How often a session that stays says something.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Opens sessions, writes state, stays for a while with a message each second, lets go, resumes, and compares. The figures, and
/// the first check that did not hold.
pub async fn hold_and_reconnect(
    dial: &ProbeDial,
    pin: Option<Pin>,
    sessions: u32,
    hold: Duration,
    timeouts: RehearsalTimeouts,
) -> Result<(ProbeFigures, Option<RehearsalFailure>), ConfigError> {
    let mut config = dial.config("rehearsal")?;
    config.welcome_timeout = timeouts.restored;
    let goals = Goals {
        timeouts,
        close_code: config.ordered_code,
    };
    let config = Arc::new(config);
    let recorder = Recorder::new(Timestamp::UNIX_EPOCH);
    let mut walks: Vec<Walk> = (0..u64::from(sessions))
        .map(|place| {
            let session = Session::new(config.clone(), dial.token.clone(), pin.clone(), place);
            Walk::new(session, recorder.clone(), place)
        })
        .collect();
    let outcome = goals
        .all(&mut walks, |walk| open_and_return(walk, hold, timeouts))
        .await;
    join_all(walks.into_iter().map(|walk| walk.session.shutdown())).await;
    Ok((recorder.figures(), outcome.err()))
}

async fn open_and_return(walk: &mut Walk, hold: Duration, timeouts: RehearsalTimeouts) -> Step {
    walk.restored(timeouts.restored).await?;
    walk.write(timeouts.exchange).await?;
    walk.check_state(timeouts.exchange).await?;
    let until = Instant::now() + hold;
    while Instant::now() < until {
        walk.exchange(timeouts.exchange).await?;
        walk.quiet_until(until.min(Instant::now() + SAY_EVERY)).await?;
    }
    walk.hand_over(None, timeouts.restored).await?;
    walk.exchange(timeouts.exchange).await?;
    walk.check_state(timeouts.exchange).await
}
