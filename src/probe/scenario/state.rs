//! Complete state preservation: what was written is there after every move, soon, as it was written, and for nobody else.

use std::time::Duration;

use super::{Ending, Passed, Played, Scene};
use crate::engine::evidence::RehearsalFailure;
use crate::probe::stage::{Stage, Way};
use crate::probe::walk::{Step, Walk};
use crate::session::{DialError, Endpoint, Pin, Resume, Token, dial};

/// Answers other than a clear yes or no to a foreign token are asked for again this often.
const ISOLATION_TRIES: u32 = 3;
/// Moves of each session; before every one its state changes, so that an old copy is no good.
const MOVES: u64 = 2;

impl<S: Stage> Scene<'_, S> {
    pub(super) async fn state_preservation(&self, walks: &mut Vec<Walk>) -> Played<Passed> {
        if !self.set.config.knows_state() {
            let reason = "the dialect of the probes knows no state: with the dialect Session, or a script that reads state, it is played";
            return Err(Ending::Skipped(reason.to_owned()));
        }
        self.opened(walks, Way::New).await?;
        let times = self.goals.all(walks, |walk| self.move_about(walk)).await?;
        self.floor(&self.recorder)?;
        let pin = self.stage.lead(Way::New).await?;
        if let Some(id) = walks
            .first()
            .and_then(|walk| walk.session.id())
            .map(str::to_owned)
        {
            self.others_kept_out(&id, pin.as_ref()).await?;
        }
        let samples = times.len() as u32 * MOVES as u32;
        let sum: Duration = times.into_iter().sum();
        Ok(Passed {
            message: format!(
                "history, context, tools and preferences of {} sessions were the same after {MOVES} moves, and nobody else's \
                 token got at them",
                walks.len()
            ),
            mean: sum.checked_div(samples),
        })
    }

    /// The time until its state was there, over all moves.
    async fn move_about(&self, walk: &mut Walk) -> Step<Duration> {
        let timeouts = self.set.timeouts;
        let mut sum = Duration::ZERO;
        for _ in 0..MOVES {
            walk.write_again(timeouts.exchange).await?;
            sum += walk.hand_over(None, timeouts.restored).await?.state_after;
            walk.exchange(timeouts.exchange).await?;
            walk.check_state(timeouts.exchange).await?;
        }
        Ok(sum)
    }

    /// Neither a forged token nor another user's may resume a session.
    async fn others_kept_out(&self, id: &str, pin: Option<&Pin>) -> Played<()> {
        let forged = self.set.token.as_ref().map(Token::tampered);
        let intruders = [
            ("a forged token", forged.as_ref()),
            ("another user's token", self.set.other_token.as_ref()),
        ];
        for (who, token) in intruders {
            let Some(token) = token else { continue };
            if let Err(detail) = refused(&self.set.config.endpoint, id, token, pin).await {
                return Err(Ending::Failed(RehearsalFailure {
                    check: "isolation".to_owned(),
                    message: format!("a resume with {who} was not refused: {detail}"),
                }));
            }
        }
        Ok(())
    }
}

async fn refused(endpoint: &Endpoint, id: &str, token: &Token, pin: Option<&Pin>) -> Result<(), String> {
    let resume = Resume {
        session: Some((id, 0)),
        ..Resume::default()
    };
    let mut last = String::new();
    for _ in 0..ISOLATION_TRIES {
        match dial(endpoint, resume, Some(token), pin).await {
            Err(DialError::Refused(401 | 403)) => return Ok(()),
            Err(other) => last = other.failure().to_string(),
            Ok(_) => return Err("the upgrade was accepted".to_owned()),
        }
    }
    Err(last)
}
