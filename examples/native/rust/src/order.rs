//! What wsroll asks for. The whole order is checked before anything is begun: there is never a partial start.

use serde::Deserialize;

/// A drain order. Fields that are not known are ignored.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    pub id: String,
    #[serde(default = "rollout")]
    pub reason: String,
    #[serde(default = "all")]
    pub select: Select,
    #[serde(default)]
    pub mode: Mode,
    pub rate_per_second: f64,
    pub lease_seconds: u32,
    pub deadline_ms: Option<u64>,
    #[serde(default)]
    pub on_deadline: OnDeadline,
    #[serde(default)]
    pub reconnect: Reconnect,
    #[serde(default = "service_restart")]
    pub close_code: u16,
}

/// Which sessions.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Select {
    All {},
    Count(u64),
    Fraction(f64),
}

/// How they are asked. This service knows no busy sessions: `WhenIdle` is as `Ask`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    #[default]
    Ask,
    WhenIdle,
    Leave,
}

/// What happens to the rest at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnDeadline {
    #[default]
    Wait,
    Close,
}

/// When and how clients come back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reconnect {
    pub min_ms: u64,
    max_ms: Option<u64>,
    pub hint: Hint,
}

/// How a client names the revision that it should land on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Hint {
    pub query: Option<String>,
    pub path: Option<String>,
    pub header: Option<String>,
}

// === impl Order ===

impl Order {
    /// Reads and checks an order; the error is for the one who wrote it.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let order: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let is_safe = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        let id_fits = (1..=200).contains(&order.id.len()) && order.id.bytes().all(is_safe);
        let rate_fits = order.rate_per_second > 0.0 && order.rate_per_second <= 10_000.0;
        let share_fits = !matches!(order.select, Select::Fraction(share) if !(0.0..=1.0).contains(&share));
        let window_fits = order
            .reconnect
            .max_ms
            .is_none_or(|most| order.reconnect.min_ms <= most);
        let code_fits = matches!(order.close_code, 1001 | 1008 | 1011..=1013 | 3000..=4999);
        for (holds, otherwise) in [
            (id_fits, "id must be 1 to 200 of A-Z a-z 0-9 . _ -"),
            (rate_fits, "ratePerSecond must be above 0 and at most 10000"),
            (order.lease_seconds >= 1, "leaseSeconds must be at least 1"),
            (share_fits, "select.fraction must be between 0 and 1"),
            (window_fits, "reconnect.minMs must not be above reconnect.maxMs"),
            (code_fits, "closeCode must be one for a drain"),
        ] {
            if !holds {
                return Err(otherwise.to_owned());
            }
        }
        Ok(order)
    }

    /// From a session's notice to its turn, milliseconds.
    pub fn lead_ms(&self) -> u64 {
        let most = self.reconnect.max_ms.unwrap_or(5_000);
        most.min(2_000).max(self.reconnect.min_ms)
    }

    /// How many of so many sessions are meant.
    pub fn count_of(&self, open: usize) -> usize {
        match self.select {
            Select::All {} => open,
            Select::Count(count) => usize::try_from(count).unwrap_or(usize::MAX).min(open),
            Select::Fraction(share) => ((open as f64 * share).ceil() as usize).min(open),
        }
    }
}

fn rollout() -> String {
    "rollout".to_owned()
}

fn all() -> Select {
    Select::All {}
}

fn service_restart() -> u16 {
    1012
}
