//! Faults that can be switched on, so that rollouts of broken versions can be tried.
//!
//! `FAULT` holds a comma list: `mute`, `mute-above=N`, `slow=MS`, `refuse=30%`, `crash=N`, `forget`, `lie`,
//! `restore-per-second=N`.

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Restores that may wait for their turn: what so many seconds of full work would bring.
const QUEUE: Duration = Duration::from_secs(5);

/// The switched-on faults; the default is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Sockets are accepted, then nothing is ever said on them.
    pub mute: bool,
    /// New sockets are mute while more than this many sockets are open: breaks only under load.
    pub mute_above: Option<usize>,
    /// Every answer is late by this much.
    pub slow: Option<Duration>,
    /// The share of upgrades that is answered with 503, 0.0 to 1.0.
    pub refuse: f64,
    /// The process ends with code 101 after this many messages from clients in all.
    pub crash: Option<u64>,
    /// A resume finds no state: it is wiped.
    pub forget: bool,
    /// The drain port reports no open sessions.
    pub lie: bool,
    /// So many sessions are restored in a second. More of them wait, and reconnects get slow; past a bound they are
    /// refused: a server that slows down when reconnects exceed what it can do.
    pub restore_per_second: Option<f64>,
}

/// The turns of sessions that come back, under [`Faults::restore_per_second`].
#[derive(Debug)]
pub(crate) struct Restores {
    interval: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

/// Too many wait already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// A fault list that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown or incomplete fault {0:?}: expected mute, mute-above=N, slow=MS, refuse=N%, crash=N, forget, lie or restore-per-second=N"
)]
pub struct FaultError(String);

// === impl Faults ===

impl Faults {
    /// Whether a socket is mute that makes `open` sockets, itself included.
    pub fn mutes(&self, open: usize) -> bool {
        self.mute || self.mute_above.is_some_and(|above| open > above)
    }

    /// Whether to refuse an upgrade; `dice` is uniform in 0.0..1.0.
    pub fn refuses(&self, dice: f64) -> bool {
        dice < self.refuse
    }

    /// A rate that can be worked at.
    pub(crate) fn rate(per_second: f64) -> Option<f64> {
        (per_second > 0.0 && per_second <= 1e6).then_some(per_second)
    }

    /// Whether the process ends at message number `count`, counted from 1.
    pub fn crashes(&self, count: u64) -> bool {
        self.crash.is_some_and(|after| count >= after)
    }
}

impl FromStr for Faults {
    type Err = FaultError;

    fn from_str(list: &str) -> Result<Self, FaultError> {
        let mut faults = Self::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let bad = || FaultError(entry.to_owned());
            let (name, value) = match entry.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (entry, None),
            };
            match (name, value) {
                ("mute", None) => faults.mute = true,
                ("mute-above", Some(n)) => faults.mute_above = Some(n.parse().map_err(|_| bad())?),
                ("slow", Some(ms)) => {
                    faults.slow = Some(Duration::from_millis(ms.parse().map_err(|_| bad())?));
                }
                ("refuse", Some(share)) => faults.refuse = percent(share).ok_or_else(bad)?,
                ("crash", Some(n)) => faults.crash = Some(n.parse().map_err(|_| bad())?),
                ("forget", None) => faults.forget = true,
                ("lie", None) => faults.lie = true,
                ("restore-per-second", Some(n)) => {
                    let rate = n.parse().ok().and_then(Self::rate).ok_or_else(bad)?;
                    faults.restore_per_second = Some(rate);
                }
                _ => return Err(bad()),
            }
        }
        Ok(faults)
    }
}

// === impl Restores ===

impl Restores {
    pub(crate) fn new(per_second: Option<f64>) -> Self {
        Self {
            interval: per_second.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: Mutex::default(),
        }
    }

    /// The turn of one more session; none where everybody is restored at once.
    pub(crate) fn turn(&self, now: Instant) -> Result<Option<Instant>, TooMany> {
        let Some(interval) = self.interval else {
            return Ok(None);
        };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // Each takes its share of a second, and is restored at the end of it.
        let turn = next.map_or(now, |next| next.max(now)) + interval;
        if turn.saturating_duration_since(now) > QUEUE + interval {
            return Err(TooMany);
        }
        *next = Some(turn);
        Ok(Some(turn))
    }
}

fn percent(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_is_read() {
        let faults: Faults =
            "mute, mute-above=40,slow=250,refuse=30%,crash=7,forget,lie,restore-per-second=2.5"
                .parse()
                .unwrap();
        assert_eq!(
            faults,
            Faults {
                mute: true,
                mute_above: Some(40),
                slow: Some(Duration::from_millis(250)),
                refuse: 0.3,
                crash: Some(7),
                forget: true,
                lie: true,
                restore_per_second: Some(2.5),
            }
        );
        assert_eq!("".parse::<Faults>().unwrap(), Faults::default());
    }

    #[test]
    fn typing_errors_are_named() {
        for bad in [
            "mut",
            "mute=1",
            "slow",
            "slow=x",
            "refuse=30",
            "refuse=130%",
            "crash",
            "lie=0",
            "restore-per-second=0",
        ] {
            assert_eq!(bad.parse::<Faults>(), Err(FaultError(bad.to_owned())));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn restores_queue_up_and_are_refused_past_the_bound() {
        let restores = Restores::new(Some(10.0));
        let start = Instant::now();
        let turns: Vec<_> = (0..60).map(|_| restores.turn(start)).collect();
        for (n, turn) in (1..).zip(&turns[..51]) {
            assert_eq!(*turn, Ok(Some(start + Duration::from_millis(100) * n)));
        }
        assert!(turns[51..].iter().all(|turn| *turn == Err(TooMany)));
        // Who was refused takes nobody's turn.
        let later = start + Duration::from_secs(1);
        assert_eq!(
            restores.turn(later),
            Ok(Some(start + Duration::from_millis(5_200)))
        );
        assert_eq!(Restores::new(None).turn(start), Ok(None));
    }

    #[test]
    fn muting_under_load_spares_the_first_sockets() {
        let faults: Faults = "mute-above=2".parse().unwrap();
        assert_eq!([1, 2, 3].map(|open| faults.mutes(open)), [false, false, true]);
    }
}
