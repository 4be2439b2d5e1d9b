//! What the programs of the stacks tell, a line of JSON for each event.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// An event.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Told {
    /// A server listens.
    Ready,
    /// All that a client tries with one session went well.
    Checked,
    /// A session is open and has been answered.
    Open {
        /// Its number.
        session: u32,
        /// Of `socket.io`: with an id it did not have before.
        fresh: Option<bool>,
        /// Of `socket.io`: `polling` or `websocket`.
        transport: Option<String>,
    },
    /// It was closed.
    Closed {
        /// Its number.
        session: u32,
        /// The close code, where there was a WebSocket.
        code: Option<u16>,
    },
    /// A server's side of a session ended.
    Ended {
        /// The close code it got.
        code: Option<u16>,
    },
    /// Something was not as it has to be.
    Error {
        /// What.
        error: String,
    },
}

/// What became of one session, from the events in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Life {
    /// How often it was opened.
    pub opened: usize,
    /// How it was closed, each time.
    pub codes: Vec<Option<u16>>,
    /// The transports it was opened with.
    pub transports: Vec<String>,
    /// It came back as one that it had been already.
    pub stale: bool,
}

/// Reads all whole lines; fails on what is no event and on errors told.
pub fn read(output: &str) -> Result<Vec<Told>> {
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    whole
        .lines()
        .map(|line| {
            let told = serde_json::from_str(line).with_context(|| format!("unexpected: {output}"))?;
            if let Told::Error { error } = told {
                bail!("{error}");
            }
            Ok(told)
        })
        .collect()
}

/// The sessions' lives.
pub fn lives(events: &[Told]) -> BTreeMap<u32, Life> {
    let mut lives: BTreeMap<u32, Life> = BTreeMap::new();
    for event in events {
        match event {
            Told::Open {
                session,
                fresh,
                transport,
            } => {
                let life = lives.entry(*session).or_default();
                life.opened += 1;
                life.stale |= *fresh == Some(false);
                life.transports.extend(transport.clone());
            }
            Told::Closed { session, code } => lives.entry(*session).or_default().codes.push(*code),
            Told::Ready | Told::Checked | Told::Ended { .. } | Told::Error { .. } => {}
        }
    }
    lives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_what_was_told_in_order() {
        let told = "{\"event\":\"open\",\"session\":3}\n{\"event\":\"closed\",\"session\":3,\"code\":1012}\n\
                    {\"event\":\"open\",\"session\":3}\n{\"event\":\"op";
        let lives = lives(&read(told).unwrap());
        assert_eq!((lives[&3].opened, &lives[&3].codes[..]), (2, &[Some(1012)][..]));
    }

    #[test]
    fn errors_and_noise_fail() {
        assert!(read("{\"event\":\"error\",\"error\":\"the echo differs\"}\n").is_err());
        assert!(read("Traceback (most recent call last):\n").is_err());
    }
}
