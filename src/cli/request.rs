//! `wsroll promote|pause|resume|abort|retry`: asks the operator by an annotation, and waits for its answer.

use std::time::Duration;

use clap::Args;
use rand::Rng as _;
use tokio::time::{Instant, sleep};

use super::cluster::{self, Rollout, Target};
use super::output::{self, Format};
use crate::api::WebSocketRollout;
use crate::api::status::{Request, RequestResult, State, Verb};

/// How often the status is read while waiting.
const POLL: Duration = Duration::from_millis(250);

/// Which rollout to ask, and how long to wait for the answer.
#[derive(Clone, Debug, Args)]
pub struct RequestArgs {
    #[command(flatten)]
    target: Target,
    /// How long to wait for the operator's answer; 0s does not wait
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = super::duration)]
    wait: Duration,
    /// Print the answer as
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster or the rollout.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// It makes no sense now.
    #[error("{0}")]
    Pointless(String),
    /// The operator said no.
    #[error("{verb} was refused: {message}")]
    Refused {
        /// What was asked.
        verb: String,
        /// The operator's reason.
        message: String,
    },
    /// The operator said nothing.
    #[error(
        "the operator did not answer within {0:?}: check that it runs (`kubectl get pods -A -l app.kubernetes.io/name=wsroll`); the request stays and is carried out when it does"
    )]
    NoAnswer(Duration),
}

impl RequestArgs {
    /// Asks for `verb`, and prints what came of it.
    pub async fn run(self, verb: Verb) -> anyhow::Result<()> {
        let Self { target, wait, output } = self;
        let name = target.name.clone();
        let rollout = target.connect().await?;
        let by = rollout.user().await;
        let answer = ask(&rollout, verb, by.as_deref(), wait).await?;
        let text = match (output, answer) {
            (Some(format), answer) => format.render(&answer)?,
            (None, Some(answer)) => format!("{name}: {verb}: {}\n", answer.message),
            (None, None) => format!("{name}: {verb} asked for\n"),
        };
        output::print(&text)
    }
}

/// Asks for `verb` and waits for the answer, at most `wait`; `None` when `wait` is zero. `by` is who asks, where that is known.
pub async fn ask(
    rollout: &Rollout,
    verb: Verb,
    by: Option<&str>,
    wait: Duration,
) -> Result<Option<RequestResult>, Error> {
    let present = rollout.get().await?;
    if let Some(reason) = pointless(&present, verb) {
        return Err(Error::Pointless(reason));
    }
    let request = Request {
        verb,
        release: release_number(&present),
        nonce: nonce(),
    };
    rollout.ask(&request, by).await?;
    if wait.is_zero() {
        return Ok(None);
    }
    let deadline = Instant::now() + wait;
    loop {
        let answer = rollout.get().await?.status.and_then(|status| status.last_request);
        match answer.filter(|answer| answer.nonce == request.nonce) {
            Some(answer) if answer.accepted => return Ok(Some(answer)),
            Some(RequestResult { verb, message, .. }) => return Err(Error::Refused { verb, message }),
            None if Instant::now() >= deadline => return Err(Error::NoAnswer(wait)),
            None => sleep(POLL).await,
        }
    }
}

/// Why a request can only be refused, as far as the status says. The operator decides all the same.
fn pointless(rollout: &WebSocketRollout, verb: Verb) -> Option<String> {
    let name = rollout.metadata.name.as_deref().unwrap_or_default();
    let Some(status) = &rollout.status else {
        return Some(format!(
            "no operator has seen {name} yet: check that one runs and watches its namespace"
        ));
    };
    let releasing = !matches!(
        status.state,
        None | Some(State::Initializing(_) | State::Healthy(_) | State::Soaking(_) | State::RolledBack(_))
    );
    let backwards = matches!(status.state, Some(State::RollingBack(_)));
    let soaking = matches!(status.state, Some(State::Soaking(_)));
    let phase = status.phase.as_deref().unwrap_or("new");
    match verb {
        Verb::Promote | Verb::Pause | Verb::Resume if !releasing || backwards => Some(format!(
            "there is nothing to {verb}: {name} is {phase}, no release is going forward; change spec.template to start one"
        )),
        Verb::Abort if backwards => Some(format!(
            "{name} is going back already: see `wsroll status {name}`"
        )),
        Verb::Abort if !releasing && !soaking => Some(format!(
            "there is nothing to abort: {name} is {phase}; to ship another version change spec.template"
        )),
        Verb::Retry if status.rejected.is_none() => Some(format!(
            "there is nothing to retry: no template of {name} was rejected"
        )),
        _ => None,
    }
}

fn release_number(rollout: &WebSocketRollout) -> Option<u64> {
    Some(rollout.status.as_ref()?.release.as_ref()?.number)
}

fn nonce() -> String {
    let mut bytes = [0_u8; 8];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
