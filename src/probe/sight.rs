//! A look at who answers: fresh sessions that report the revision that welcomed them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::job::ProbeDial;
use crate::session::{ConfigError, Event, Failure, Pin, Session};

/// Looks taken at the same time at most.
const MAX_LOOKS: usize = 64;

/// Who welcomed a fresh session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The revision.
    pub revision: String,
    /// The pod.
    pub pod: String,
}

/// Opens `count` (at most 64) fresh sessions, pinned or not, and says who welcomed each, or why nobody did. One attempt
/// each; all of it ends within `limit`, a polite close of at most two seconds apart.
pub async fn sight(
    dial: &ProbeDial,
    pin: Option<&Pin>,
    count: usize,
    limit: Duration,
) -> Result<Vec<Result<Sight, Failure>>, ConfigError> {
    let mut config = dial.config()?;
    config.declare_notice = false;
    config.welcome_timeout = limit;
    let config = Arc::new(config);
    let looks = (0..count.min(MAX_LOOKS)).map(|place| {
        let session = Session::new(config.clone(), dial.token.clone(), pin.cloned(), place as u64);
        look(session, limit)
    });
    Ok(join_all(looks).await)
}

async fn look(mut session: Session, limit: Duration) -> Result<Sight, Failure> {
    let mut accepted = false;
    let seen = timeout(limit, async {
        loop {
            match session.next().await {
                Event::Accepted { .. } => accepted = true,
                Event::Welcomed(welcomed) => {
                    return Ok(Sight {
                        revision: welcomed.revision,
                        pod: welcomed.pod,
                    });
                }
                Event::AttemptFailed(failure) => return Err(failure),
                _ => {}
            }
        }
    })
    .await;
    session.shutdown().await;
    seen.unwrap_or(Err(if accepted { Failure::Mute } else { Failure::Timeout }))
}
