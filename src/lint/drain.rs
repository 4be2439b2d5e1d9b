//! How sessions leave: grace periods, hooks, deadlines, budgets.

use std::time::Duration;

use super::objects::short;
use super::{Finding, Scene};

use crate::api::spec::{DrainMode, OnDeadline, Via};
use crate::workload::sidecar::{DEFAULT_GRACE, grace_of};

/// Below this no deadline suits sessions that nobody may cut.
const LONG_SESSIONS: Duration = Duration::from_hours(1);

pub(super) fn rules(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    match scene.rollout.spec.drain.via {
        Via::Signal => signal(scene, found),
        Via::Sidecar => sidecar(scene, found),
        Via::Auto | Via::Protocol => {}
    }
    hook_in_time(scene, found);
    leave(scene, found);
    budget(scene, found);
}

/// Pods are drained by their own SIGTERM handler: the grace period is all the time that there is.
fn signal(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let (object, spec) = (scene.object, &scene.rollout.spec);
    let grace = grace_of(&spec.template);
    let (time, deadline) = (grace.unwrap_or(DEFAULT_GRACE), spec.drain.deadline.0);
    if time < deadline {
        let written = if grace.is_some() {
            ""
        } else {
            " (Kubernetes' default)"
        };
        found.push(object.warning(
            "GraceTooShort",
            "spec.template.spec.terminationGracePeriodSeconds",
            format!(
                "{}{written} is shorter than drain.deadline {}: sessions that the application has not closed by then are cut",
                short(time),
                short(deadline)
            ),
            &format!(
                "give it at least what the application needs to let go of a full pod ({} covers the deadline), or shorten \
                 drain.deadline to what it needs",
                deadline.as_secs()
            ),
        ));
    }
    if scene.application()["lifecycle"]["preStop"].is_null() {
        found.push(object.warning(
            "PreStopMissing",
            "spec.template.spec.containers[].lifecycle.preStop",
            "there is none: on an eviction the application gets SIGTERM before the data plane has stopped sending it new connections"
                .to_owned(),
            "add `lifecycle: {preStop: {sleep: {seconds: 5}}}`, and its time to terminationGracePeriodSeconds",
        ));
    }
    if spec.drain.sessions_from.is_none() {
        let pods = scene.rollout.replicas;
        let longest = deadline.saturating_mul(pods);
        found.push(object.warning(
            "SessionsUnknown",
            "spec.drain.sessionsFrom",
            format!(
                "there is none: nobody knows when a pod is empty, only deadlines free one, and {pods} pods one after the other may \
                 take {}",
                short(longest)
            ),
            "name a gauge that the pods show: `sessionsFrom: {port: 9090, path: /metrics, metric: open_sessions}`",
        ));
    }
}

fn sidecar(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let (object, spec) = (scene.object, &scene.rollout.spec);
    if !scene.application()["lifecycle"]["preStop"].is_null() {
        found.push(object.warning(
            "PreStopKept",
            "spec.template.spec.containers[].lifecycle.preStop",
            "the application's own hook stays, so the sidecar's cannot be put there: on an eviction or a scale-down by others the \
             application gets SIGTERM while its sessions are open, and the sidecar lets them go only after the application has ended"
                .to_owned(),
            "remove the hook: the sidecar holds SIGTERM back until the sessions are gone",
        ));
    }
    if spec.template["spec"]["hostNetwork"] == true {
        found.push(object.error(
            "HostNetwork",
            "spec.template.spec.hostNetwork",
            "the sidecars of two pods on one node need the same ports 9910 and 9911".to_owned(),
            "leave hostNetwork out, or use drain.via Protocol",
        ));
    }
    let settings = spec.drain.sidecar.clone().unwrap_or_default();
    let (idle, ping) = (settings.limits.idle_timeout, settings.ping_interval);
    if let (Some(idle), Some(ping)) = (idle, ping)
        && idle <= ping
    {
        found.push(object.error(
            "IdleBelowPing",
            "spec.drain.sidecar.limits.idleTimeout",
            format!(
                "{} is not longer than pingInterval {}: sockets are closed before they are asked",
                short(idle.0),
                short(ping.0)
            ),
            "make it at least three ping intervals, or leave it out",
        ));
    }
}

/// A hook's own wait is part of the grace period.
fn hook_in_time(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let sleep = scene.application()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
    let grace = grace_of(&scene.rollout.spec.template).unwrap_or(DEFAULT_GRACE);
    if let Some(sleep) = sleep.filter(|sleep| Duration::from_secs(*sleep) >= grace) {
        found.push(scene.object.error(
            "GraceTooShort",
            "spec.template.spec.terminationGracePeriodSeconds",
            format!(
                "{} is over before the preStop sleep of {sleep}s is: the application never sees SIGTERM",
                short(grace)
            ),
            "make it longer than the sleep and what the application needs after it",
        ));
    }
}

/// Sessions that nobody may cut, and what cuts them all the same.
fn leave(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let spec = &scene.rollout.spec;
    if spec.drain.mode != DrainMode::Leave {
        return;
    }
    let deadline = spec.drain.deadline.0;
    if deadline < LONG_SESSIONS && spec.drain.on_deadline == OnDeadline::Close {
        found.push(scene.object.warning(
            "LeaveCutShort",
            "spec.drain.deadline",
            format!(
                "{}, with onDeadline Close: drain.mode Leave promises that sessions leave by themselves, and all that are older are closed",
                short(deadline)
            ),
            "make it longer than the longest session, or set onDeadline: Wait",
        ));
    }
    let back = spec.rollback.deadline.0;
    if back < LONG_SESSIONS {
        found.push(scene.object.warning(
            "LeaveCutShort",
            "spec.rollback.deadline",
            format!("{}: a rollback closes what has not left the rejected revision by then, whatever drain.mode says", short(back)),
            "make it longer, or accept that a broken revision's sessions are closed",
        ));
    }
}

/// Budgets that cannot empty a pod before its deadline.
fn budget(scene: &Scene<'_>, found: &mut Vec<Finding>) {
    let spec = &scene.rollout.spec;
    if spec.drain.via == Via::Signal || spec.drain.mode == DrainMode::Leave {
        return;
    }
    let deadline = spec.drain.deadline.0;
    let pods = scene.rollout.replicas.max(1);
    let budget = &spec.drain.budget;
    if let Some(over) = budget.over_duration {
        // Pods go one after the other at best: each has its share of the time.
        let each = over.0 / pods;
        if each > deadline {
            found.push(scene.object.error(
                "DeadlineBeforeBudget",
                "spec.drain.budget.overDuration",
                format!(
                    "{} over {pods} pods is {} for each, and drain.deadline is {}: no pod is empty in time",
                    short(over.0),
                    short(each),
                    short(deadline)
                ),
                "shorten overDuration, or make drain.deadline longer than each pod's share of it",
            ));
        }
    }
    let full = spec.drain.sidecar.as_ref().and_then(|s| s.limits.connections);
    if let (Some(full), Some(rate)) = (full, budget.connects_per_second) {
        let needed = Duration::from_secs(u64::from(full.div_ceil(rate.max(1))));
        if needed > deadline {
            found.push(scene.object.warning(
                "DeadlineBeforeBudget",
                "spec.drain.budget.connectsPerSecond",
                format!(
                    "a full pod ({full} connections) takes {} at {rate} per second, and drain.deadline is {}",
                    short(needed),
                    short(deadline)
                ),
                "raise the rate, or the deadline, or lower drain.sidecar.limits.connections",
            ));
        }
    }
}
