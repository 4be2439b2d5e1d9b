//! `spec.thresholds`: what makes a release go on, wait, or go back.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Span;

/// What makes a release go on, wait, or go back. Small samples decide nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Thresholds {
    /// Reconnect success of the probes on the new revision: what a step is passed or rolled back by.
    #[serde(default)]
    pub reconnect_success: SuccessThreshold,
    /// When people are told that reconnects fail. Nothing is decided by it.
    #[serde(default)]
    pub alerts: AlertThresholds,
    /// Reconnect time of the probes on the new revision, against the baseline from forced reconnects on the old one and the probes on stable.
    #[serde(default)]
    pub reconnect_time: TimeThreshold,
    /// Reconnects that failed in a row.
    #[serde(default = "default_emergencies")]
    pub failures_in_a_row: CountThreshold,
    /// Sessions whose state was not restored: the probes', and the users' as the pods report them.
    #[serde(default = "default_state_loss")]
    pub state_loss: CountThreshold,
    /// Resumes that failed on the new revision, as its pods count them. By default it only warns.
    #[serde(default)]
    pub resume_failures: ResumeThreshold,
    /// Sessions of users that came back after they were moved, against how many come back on the old revision: phones sleep, so by default it only warns.
    #[serde(default)]
    pub users_return: ReturnThreshold,
    /// Sessions of users on both revisions before a wave, against after it and the time to come back. By default it only warns.
    #[serde(default)]
    pub session_count: ConservationThreshold,
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
    /// An event and `status.alerts`, nothing else.
    Warn,
}

/// What share of reconnects has to succeed. It is judged by bounds that hold at every look (a confidence sequence), not by the share itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.advanceAbovePercent >= self.rollbackBelowPercent").message("advanceAbovePercent must not be below rollbackBelowPercent"))]
pub struct SuccessThreshold {
    /// The release goes back when the upper bound is below it.
    #[serde(default = "default_rollback_below")]
    #[schemars(range(min = 0, max = 100))]
    pub rollback_below_percent: u8,
    /// The release goes back at once, whatever the size of the sample, when the upper bound is below it.
    #[serde(default = "default_at_once_below")]
    #[schemars(range(min = 0, max = 100))]
    pub rollback_at_once_below_percent: u8,
    /// A step is passed when the lower bound is at least this; between the two it is inconclusive, and the probes take more samples. With 100 no number of samples would do.
    #[serde(default = "default_advance_above")]
    #[schemars(range(min = 0, max = 99))]
    pub advance_above_percent: u8,
    /// What the share should be: the floor of a rehearsal, and reported in every verdict. It does not decide a step.
    #[serde(default = "default_target")]
    #[schemars(range(min = 0, max = 100))]
    pub target_percent: u8,
    /// How sure the bounds are, over all looks of a release: with 99 at most one good version in a hundred is sent back by chance.
    #[serde(default = "default_confidence")]
    #[schemars(range(min = 50, max = 99))]
    pub confidence_percent: u8,
    /// The window of alerts and of reconnect times.
    #[serde(default = "default_window")]
    pub window: Span,
    /// Fewer reconnects than this decide nothing, except at once.
    #[serde(default = "default_min_samples")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min_samples: u32,
    /// What happens below the floor.
    #[serde(default)]
    pub action: BreachAction,
}

/// When people are told that reconnects fail, by the share of the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertThresholds {
    /// Below this share of restored reconnects: an alert.
    #[serde(default = "default_advance_above")]
    #[schemars(range(min = 0, max = 100))]
    pub success_below_percent: u8,
    /// Below this share: a critical alert.
    #[serde(default = "default_rollback_below")]
    #[schemars(range(min = 0, max = 100))]
    pub critical_below_percent: u8,
    /// Above this share of failed reconnects: an alert.
    #[serde(default = "default_failures_above")]
    #[schemars(range(min = 0, max = 100))]
    pub failures_above_percent: u8,
    /// Fewer reconnects than this in the window alert nobody.
    #[serde(default = "default_alert_samples")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min_samples: u32,
}

/// A ceiling for the share of resumes that fail on the new revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeThreshold {
    /// More than this share of resumes failed.
    #[serde(default = "default_failures_above")]
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: u8,
    /// Fewer resumes than this decide nothing.
    #[serde(default = "default_return_samples")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_samples: u32,
    /// What happens above the ceiling.
    #[serde(default = "default_warn")]
    pub action: BreachAction,
}

/// A floor for the sessions of users that are there after a wave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConservationThreshold {
    /// More than this share of the sessions is missing after a wave.
    #[serde(default = "default_return_drop")]
    #[schemars(range(min = 1, max = 100))]
    pub max_loss_percent: u8,
    /// How long is waited after a wave for its sessions to come back.
    #[serde(default = "default_return_within")]
    pub within: Span,
    /// Fewer sessions before the wave than this decide nothing.
    #[serde(default = "default_return_samples")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_samples: u32,
    /// What happens below the floor.
    #[serde(default = "default_warn")]
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
    /// Fewer reconnects than this in the window decide nothing; where the window never holds as many, the whole step counts.
    #[serde(default = "default_min_samples")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min_samples: u32,
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

const fn default_at_once_below() -> u8 {
    50
}

const fn default_advance_above() -> u8 {
    90
}

const fn default_target() -> u8 {
    95
}

const fn default_confidence() -> u8 {
    99
}

const fn default_failures_above() -> u8 {
    5
}

const fn default_alert_samples() -> u32 {
    20
}

const fn default_window() -> Span {
    Span::secs(300)
}

const fn default_min_samples() -> u32 {
    100
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
            alerts: AlertThresholds::default(),
            reconnect_time: TimeThreshold::default(),
            failures_in_a_row: default_emergencies(),
            state_loss: default_state_loss(),
            resume_failures: ResumeThreshold::default(),
            users_return: ReturnThreshold::default(),
            session_count: ConservationThreshold::default(),
            unannounced_disconnects: default_emergencies(),
        }
    }
}

impl Default for SuccessThreshold {
    fn default() -> Self {
        Self {
            rollback_below_percent: default_rollback_below(),
            rollback_at_once_below_percent: default_at_once_below(),
            advance_above_percent: default_advance_above(),
            target_percent: default_target(),
            confidence_percent: default_confidence(),
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
            min_samples: default_min_samples(),
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

impl Default for AlertThresholds {
    fn default() -> Self {
        Self {
            success_below_percent: default_advance_above(),
            critical_below_percent: default_rollback_below(),
            failures_above_percent: default_failures_above(),
            min_samples: default_alert_samples(),
        }
    }
}

impl Default for ResumeThreshold {
    fn default() -> Self {
        Self {
            max_percent: default_failures_above(),
            min_samples: default_return_samples(),
            action: default_warn(),
        }
    }
}

impl Default for ConservationThreshold {
    fn default() -> Self {
        Self {
            max_loss_percent: default_return_drop(),
            within: default_return_within(),
            min_samples: default_return_samples(),
            action: default_warn(),
        }
    }
}
