//! A look at who answers: fresh sessions that report the revision that welcomed them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::job::ProbeDial;
use crate::session::{ConfigError, Event, Failure, Pin, Session};

/// Looks taken at the same time at most.
const MAX_LOOKS: usize = 64;
/// How long a first message is waited for where the upgrade's response named no revision: the service may be a stranger, who
/// never sends one that is understood here.
const FIRST_MESSAGE: Duration = Duration::from_secs(1);

/// Who took a fresh session in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The revision, as the upgrade's response or the first message names it; empty where neither does.
    pub revision: String,
}

/// Opens `count` (at most 64) fresh sessions, pinned or not, and says who took each in, or why nobody did. Where they lead is
/// all that is asked: whether the revision is well is for rehearsal and fleet to say. One attempt each; all of it ends within
/// `limit`, a polite close of at most two seconds apart.
pub async fn sight(
    dial: &ProbeDial,
    pin: Option<&Pin>,
    count: usize,
    limit: Duration,
) -> Result<Vec<Result<Sight, Failure>>, ConfigError> {
    let mut config = dial.config("look")?;
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
    let seen = match timeout(limit, taken_in(&mut session)).await {
        Ok(Ok(Some(revision))) => Ok(Sight { revision }),
        Ok(Ok(None)) => {
            let named = timeout(FIRST_MESSAGE, welcomed(&mut session)).await;
            named
                .unwrap_or_else(|_| Ok(String::new()))
                .map(|revision| Sight { revision })
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::Timeout),
    };
    session.shutdown().await;
    seen
}

/// The revision that the upgrade's response names, if it does.
async fn taken_in(session: &mut Session) -> Result<Option<String>, Failure> {
    loop {
        match session.next().await {
            Event::Accepted { revision } => return Ok(revision),
            Event::AttemptFailed(failure) => return Err(failure),
            _ => {}
        }
    }
}

/// The revision that the first message names.
async fn welcomed(session: &mut Session) -> Result<String, Failure> {
    loop {
        match session.next().await {
            Event::Welcomed(welcomed) => return Ok(welcomed.revision),
            Event::AttemptFailed(failure) => return Err(failure),
            _ => {}
        }
    }
}
