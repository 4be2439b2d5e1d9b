//! What is spoken on a socket, translated into the frames of the session protocol, so that a session need not know.

mod memory;
mod pings;
mod speech;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::config::Dialect;
use super::ledger::Unsent;
use super::wire::ServerFrame;

pub(super) use memory::Remembered;
use pings::Pings;
use speech::Speech;

/// What is known of one socket's conversation.
#[derive(Debug)]
pub(super) enum Tongue {
    /// The session protocol: there is nothing to translate.
    Native,
    /// Pings and pongs.
    Pings(Pings),
    /// A script.
    Speech(Box<Speech>),
}

/// A step that did not come true in time: `exchange[1].expect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missed(pub(super) String);

// === impl Tongue ===

impl Tongue {
    /// For a new socket. `last` is the last number that the session has received on any socket.
    pub(super) fn new(
        dialect: Dialect,
        memory: Option<&Remembered>,
        revision: Option<String>,
        last: u64,
    ) -> Self {
        match (dialect, memory) {
            (Dialect::Session, _) | (Dialect::Script, None) => Self::Native,
            (Dialect::Ping, _) => Self::Pings(Pings::new(revision, last)),
            (Dialect::Script, Some(memory)) => {
                Self::Speech(Box::new(Speech::new(memory.clone(), revision, last)))
            }
        }
    }

    /// Queues a request.
    pub(super) fn ask(&mut self, request: Unsent, out: &mut VecDeque<Message>) {
        match self {
            Self::Native => out.push_back(Message::text(request.text)),
            Self::Pings(pings) => out.push_back(pings.ask(&request)),
            Self::Speech(speech) => speech.ask(&request),
        }
    }

    /// Says what can be said without hearing anything; a frame where that is all that was needed for it.
    pub(super) fn advance(&mut self, now: Instant, out: &mut VecDeque<Message>) -> Option<ServerFrame> {
        match self {
            Self::Native => None,
            Self::Pings(pings) => {
                out.extend(pings.hello());
                None
            }
            Self::Speech(speech) => speech.advance(now, out),
        }
    }

    /// Hears a message that is no close. What it means may come out of this, or of the next [`advance`](Self::advance).
    pub(super) fn hear(&mut self, message: &Message, out: &mut VecDeque<Message>) -> Option<ServerFrame> {
        match (self, message) {
            (Self::Native, Message::Text(text)) => Some(ServerFrame::parse(text)),
            (Self::Pings(pings), Message::Pong(payload)) => pings.answer(payload),
            (Self::Speech(speech), Message::Text(text)) => speech.hear_text(text, out),
            (Self::Speech(speech), Message::Binary(bytes)) => speech.hear_binary(bytes, out),
            (Self::Speech(speech), Message::Pong(payload)) => {
                speech.hear_pong(payload);
                None
            }
            _ => None,
        }
    }

    /// When the step that is waited for is overdue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Native | Self::Pings(_) => None,
            Self::Speech(speech) => speech.deadline(),
        }
    }

    /// The step that is overdue.
    pub(super) fn overdue(&self, now: Instant) -> Option<Missed> {
        match self {
            Self::Native | Self::Pings(_) => None,
            Self::Speech(speech) => speech.overdue(now),
        }
    }

    /// The socket ended before it was welcomed.
    pub(super) fn ended_early(&mut self) {
        if let Self::Speech(speech) = self {
            speech.ended_early();
        }
    }
}
