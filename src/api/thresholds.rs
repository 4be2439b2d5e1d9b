//! `spec.thresholds`: what makes a release go on, wait, or go back.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Span;

/// What makes a release go back. Small samples decide nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Thresholds {
    /// Reconnect success of the probes on the new revision.
    #[serde(default)]
    pub reconnect_success: SuccessThreshold,
    /// Reconnect time of the probes on the new revision, against the baseline from the rehearsal's hand-over and the probes on stable.
    #[serde(default)]
    pub reconnect_time: TimeThreshold,
    /// Reconnects that failed in a row.
    #[serde(default = "default_emergencies")]
    pub failures_in_a_row: CountThreshold,
    /// Sessions whose state was not restored: the probes', and the users' as the pods report them.
    #[serde(default = "default_state_loss")]
    pub state_loss: CountThreshold,
    /// Sessions of users that came back after they were moved, against how many come back on the old revision: phones sleep, so by default it only warns.
    #[serde(default)]
    pub users_return: ReturnThreshold,
    /// Probe sessions on the new revision that were cut without any announcement.
    #[serde(default = "default_emergencies")]
    pub unannounced_disconnects: CountThreshold,
}

/// What happens when a threshold is breached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BreachAction {
    /// The release goes back by itself.
    #[default]
    Rollback,
    /// The release pauses; `pauseDeadline` says what follows.
    Pause,
    /// An event and `status.verdict`, nothing else.
    Warn,
}

/// A floor for the share of reconnects that succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.advanceAbovePercent >= self.rollbackBelowPercent").message("advanceAbovePercent must not be below rollbackBelowPercent"))]
pub struct SuccessThreshold {
    /// Below this share of restored reconnects the release goes back.
    #[serde(default = "default_rollback_below")]
    #[schemars(range(min = 0, max = 100))]
    pub rollback_below_percent: u8,
    /// From this share on a step is passed; between the two it is inconclusive, and the probes take more samples.
    #[serde(default = "default_advance_above")]
    #[schemars(range(min = 0, max = 100))]
    pub advance_above_percent: u8,
    /// The window that is judged.
    #[serde(default = "default_window")]
    pub window: Span,
    /// Fewer reconnects than this decide nothing.
    #[serde(default = "default_min_samples")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min_samples: u32,
    /// What happens below the floor.
    #[serde(default)]
    pub action: BreachAction,
}

/// A floor for the share of moved users that come back, relative to the natural return rate on the old revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReturnThreshold {
    /// So many percentage points below the return rate on stable is a breach.
    #[serde(default = "default_return_drop")]
    #[schemars(range(min = 1, max = 100))]
    pub max_drop_percent: u8,
    /// How long a moved session is waited for before it counts as not returned.
    #[serde(default = "default_return_within")]
    pub within: Span,
    /// Fewer moved sessions than this decide nothing.
    #[serde(default = "default_return_samples")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_samples: u32,
    /// What happens below the floor.
    #[serde(default = "default_warn")]
    pub action: BreachAction,
}

/// A ceiling for reconnect times relative to the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeThreshold {
    /// Median and 95th percentile may both be this much above the baseline, in percent of it.
    #[serde(default = "default_above_baseline")]
    #[schemars(range(min = 1, max = 10_000))]
    pub above_baseline_percent: u32,
    /// Differences below this are noise, whatever their share.
    #[serde(default = "default_noise")]
    pub noise: Span,
    /// What happens above the ceiling.
    #[serde(default)]
    pub action: BreachAction,
}

/// A ceiling for a count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CountThreshold {
    /// More than this many is a breach.
    #[schemars(range(min = 0, max = 10_000))]
    pub max: u32,
    /// What happens above the ceiling.
    #[serde(default)]
    pub action: BreachAction,
}

const fn default_rollback_below() -> u8 {
    80
}

const fn default_advance_above() -> u8 {
    95
}

const fn default_window() -> Span {
    Span::secs(300)
}

const fn default_min_samples() -> u32 {
    20
}

const fn default_above_baseline() -> u32 {
    50
}

const fn default_noise() -> Span {
    Span(std::time::Duration::from_millis(250))
}

const fn default_emergencies() -> CountThreshold {
    CountThreshold {
        max: 3,
        action: BreachAction::Rollback,
    }
}

const fn default_state_loss() -> CountThreshold {
    CountThreshold {
        max: 0,
        action: BreachAction::Rollback,
    }
}

const fn default_return_drop() -> u8 {
    10
}

const fn default_return_within() -> Span {
    Span::secs(30)
}

const fn default_return_samples() -> u32 {
    50
}

const fn default_warn() -> BreachAction {
    BreachAction::Warn
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            reconnect_success: SuccessThreshold::default(),
            reconnect_time: TimeThreshold::default(),
            failures_in_a_row: default_emergencies(),
            state_loss: default_state_loss(),
            users_return: ReturnThreshold::default(),
            unannounced_disconnects: default_emergencies(),
        }
    }
}

impl Default for SuccessThreshold {
    fn default() -> Self {
        Self {
            rollback_below_percent: default_rollback_below(),
            advance_above_percent: default_advance_above(),
            window: default_window(),
            min_samples: default_min_samples(),
            action: BreachAction::default(),
        }
    }
}

impl Default for TimeThreshold {
    fn default() -> Self {
        Self {
            above_baseline_percent: default_above_baseline(),
            noise: default_noise(),
            action: BreachAction::default(),
        }
    }
}

impl Default for ReturnThreshold {
    fn default() -> Self {
        Self {
            max_drop_percent: default_return_drop(),
            within: default_return_within(),
            min_samples: default_return_samples(),
            action: default_warn(),
        }
    }
}
