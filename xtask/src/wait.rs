//! Waiting for the world outside. The tasks drive other programs and have no runtime whose workers a
//! sleep could block, so this is the one place that may sleep and read the clock.

#![expect(
    clippy::disallowed_types,
    reason = "no runtime here whose time a test could pause"
)]

use std::time::Duration;

use anyhow::{Result, bail};

use crate::interrupt;

/// Time since it was made.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    started: std::time::Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            started: std::time::Instant::now(),
        }
    }

    /// How long ago it was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Sleeps on the calling thread.
#[expect(
    clippy::disallowed_methods,
    reason = "no runtime here whose worker would be blocked"
)]
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Asks `look` every 100 ms until it gives something; fails with `what` and the last reason after `limit`.
///
/// An `Err` of `look` counts as "not yet": its text is the reason shown should it never come.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        interrupt::check()?;
        match look() {
            Ok(found) => return Ok(found),
            Err(reason) if watch.elapsed() >= limit => {
                bail!("{what} did not happen within {} s: {reason:#}", limit.as_secs())
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_until_it_is_there() {
        let mut left = 3;
        let found = until("zero", Duration::from_secs(5), || {
            left -= 1;
            if left == 0 {
                Ok("there")
            } else {
                bail!("{left} left")
            }
        });
        assert_eq!(found.unwrap(), "there");
    }

    #[test]
    fn says_what_was_missing() {
        let error = until::<()>("a miracle", Duration::ZERO, || bail!("not today")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a miracle did not happen within 0 s: not today"
        );
    }
}
