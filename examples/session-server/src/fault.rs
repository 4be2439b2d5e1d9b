//! Faults that can be switched on, so that rollouts of broken versions can be tried.
//!
//! `FAULT` holds a comma list: `mute`, `mute-above=N`, `slow=MS`, `refuse=30%`, `crash=N`, `forget`, `lie`.

use std::{str::FromStr, time::Duration};

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
}

/// A fault list that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown or incomplete fault {0:?}: expected mute, mute-above=N, slow=MS, refuse=N%, crash=N, forget or lie"
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
                _ => return Err(bad()),
            }
        }
        Ok(faults)
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
        let faults: Faults = "mute, mute-above=40,slow=250,refuse=30%,crash=7,forget,lie"
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
        ] {
            assert_eq!(bad.parse::<Faults>(), Err(FaultError(bad.to_owned())));
        }
    }

    #[test]
    fn muting_under_load_spares_the_first_sockets() {
        let faults: Faults = "mute-above=2".parse().unwrap();
        assert_eq!([1, 2, 3].map(|open| faults.mutes(open)), [false, false, true]);
    }
}
