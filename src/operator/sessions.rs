//! Sessions as the pods report them, and what ended without an announcement.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;

use super::context::{Context, LastSeen, Memory, lock};
use super::error::Result;
use crate::api::{RolloutStatus, ValidatedRollout};
use crate::drain::Token;
use crate::drain::protocol::{DEFAULT_PORT, SessionsReport};
use crate::engine::evidence::{ProbeEvidence, ProbeFigures, ProbeTarget};
use crate::workload::pods::PodFacts;
use crate::workload::{labels, token};

/// Pods that are asked for their sessions at the same time.
pub const POLLS: usize = 32;

/// Reads the drain tokens that are not known yet. A revision whose Secret is gone stays without: its pods are unknown.
pub async fn tokens(
    ctx: &Context,
    rollout: &ValidatedRollout,
    revisions: impl Iterator<Item = &String>,
    memory: &Mutex<Memory>,
) -> Result<BTreeMap<String, Token>> {
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let mut known = BTreeMap::new();
    for revision in revisions {
        let cached = lock(memory).tokens.get(revision).cloned();
        let found = if cached.is_some() {
            cached
        } else {
            {
                let name = labels::token_name(&rollout.name, revision);
                ctx.read("read a drain token", secrets.get_opt(&name))
                    .await?
                    .as_ref()
                    .and_then(token::read)
            }
        };
        if let Some(token) = found {
            lock(memory).tokens.insert(revision.clone(), token.clone());
            known.insert(revision.clone(), token);
        }
    }
    Ok(known)
}

/// Asks every running pod for its sessions. Who does not answer is unknown; whose container does not run has none.
pub async fn poll(
    ctx: &Context,
    pods: &[std::sync::Arc<Pod>],
    tokens: &BTreeMap<String, Token>,
) -> BTreeMap<String, SessionsReport> {
    let mut reports = BTreeMap::new();
    let mut asked = Vec::new();
    for pod in pods {
        let Some(facts) = PodFacts::of(pod) else { continue };
        if !is_running(pod) {
            reports.insert(facts.uid, nothing_runs());
            continue;
        }
        let token = facts.revision.as_ref().and_then(|revision| tokens.get(revision));
        if let (Some(ip), Some(token)) = (facts.ip, token) {
            asked.push(ask(ctx, facts.uid, SocketAddr::new(ip, DEFAULT_PORT), token));
        }
    }
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(POLLS).collect().await;
    reports.extend(answers.into_iter().flatten());
    reports
}

async fn ask(
    ctx: &Context,
    uid: String,
    address: SocketAddr,
    token: &Token,
) -> Option<(String, SessionsReport)> {
    match ctx.drain.sessions(address, token).await {
        Ok(report) => Some((uid, report)),
        Err(error) => {
            tracing::debug!(%address, category = error.category(), "sessions are unknown");
            None
        }
    }
}

/// Whether any container of the pod runs: sockets need a process.
pub fn is_running(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    containers
        .iter()
        .any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

fn nothing_runs() -> SessionsReport {
    SessionsReport::default()
}

/// Counts sessions that ended with their process: on pods that vanished, and on pods that started anew. A new revision that no
/// user was ever led to carries probes only, and they know by themselves what was announced.
pub fn count_unannounced(
    memory: &Mutex<Memory>,
    status: &RolloutStatus,
    facts: &BTreeMap<String, PodFacts>,
    reports: &BTreeMap<String, SessionsReport>,
) {
    let hidden = status
        .release
        .as_ref()
        .filter(|r| !r.exposed)
        .map(|r| r.canary.as_str());
    let mut memory = lock(memory);
    let mut lost = 0;
    memory.pods.retain(|uid, last| {
        let there = facts.contains_key(uid);
        if !there && last.revision.as_deref() != hidden {
            lost += last.open;
        }
        there
    });
    for (uid, report) in reports {
        let revision = facts.get(uid).and_then(|f| f.revision.clone());
        let counts = revision.as_deref() != hidden;
        let now = LastSeen {
            instance: report.instance.clone().unwrap_or_default(),
            revision,
            open: report.open,
        };
        if let Some(last) = memory.pods.insert(uid.clone(), now)
            && Some(&last.instance) != report.instance.as_ref()
            && !last.instance.is_empty()
            && counts
        {
            lost += last.open;
        }
    }
    memory.unannounced += lost;
}

/// Counts what the probes have seen since they were last counted: for the metrics, and the unannounced ends for the release.
pub fn count_probes(
    ctx: &Context,
    rollout: &ValidatedRollout,
    memory: &Mutex<Memory>,
    evidence: &[ProbeEvidence],
) {
    let mut memory = lock(memory);
    for seen in evidence {
        // A run is known by its beginning: counts start anew with it.
        let counted = memory.counted_probes.entry(seen.target.to_string()).or_default();
        if counted.0 != seen.since {
            *counted = (seen.since, ProbeFigures::default());
        }
        let before = std::mem::replace(&mut counted.1, seen.total.clone());
        let target = match seen.target {
            ProbeTarget::Stable => "stable",
            ProbeTarget::Canary => "canary",
        };
        let (namespace, name, metrics) = (&rollout.namespace, &rollout.name, &ctx.metrics.probe);
        metrics.attempts(
            namespace,
            name,
            target,
            seen.total.attempts.saturating_sub(before.attempts),
        );
        let unannounced = seen.total.unannounced.saturating_sub(before.unannounced);
        let kinds = [
            ("reconnect", seen.total.failed.saturating_sub(before.failed)),
            (
                "stateLost",
                seen.total.state_lost.saturating_sub(before.state_lost),
            ),
            ("unannounced", unannounced),
        ];
        for (kind, count) in kinds {
            metrics.failures(namespace, name, target, kind, count);
        }
        memory.unannounced += unannounced;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, revision: &str, state: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "labels": {labels::REVISION: revision}},
            "status": {"containerStatuses": [{
                "name": "app", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": state,
            }]},
        }))
        .unwrap()
    }

    fn facts(pods: &[&str]) -> BTreeMap<String, PodFacts> {
        let running = json!({"running": {}});
        let of = |name: &&str| (*name).to_owned();
        pods.iter()
            .map(|name| (of(name), PodFacts::of(&pod(name, "old", &running)).unwrap()))
            .collect()
    }

    fn report(instance: &str, open: u64) -> SessionsReport {
        SessionsReport {
            instance: Some(instance.to_owned()),
            open,
            ..nothing_runs()
        }
    }

    /// Pods that are there, and what some of them report: name, process, open sessions.
    type Round<'a> = (&'a [&'a str], &'a [(&'a str, &'a str, u64)]);

    fn counted(rounds: &[Round<'_>]) -> u64 {
        let memory = Mutex::new(Memory::default());
        for (pods, reports) in rounds {
            let reports = reports
                .iter()
                .map(|(pod, instance, open)| ((*pod).to_owned(), report(instance, *open)));
            count_unannounced(
                &memory,
                &RolloutStatus::default(),
                &facts(pods),
                &reports.collect(),
            );
        }
        lock(&memory).unannounced
    }

    #[test]
    fn a_pod_that_vanishes_takes_its_sessions_with_it() {
        assert_eq!(counted(&[(&["a"], &[("a", "i", 7)]), (&[], &[])]), 7);
        assert_eq!(
            counted(&[(&["a"], &[("a", "i", 7)]), (&["a"], &[("a", "i", 0)]), (&[], &[])]),
            0
        );
    }

    #[test]
    fn a_process_that_starts_anew_has_cut_who_was_there() {
        assert_eq!(
            counted(&[(&["a"], &[("a", "i", 7)]), (&["a"], &[("a", "j", 2)])]),
            7
        );
    }

    #[test]
    fn a_pod_that_does_not_answer_for_a_while_has_cut_nobody() {
        assert_eq!(
            counted(&[
                (&["a"], &[("a", "i", 7)]),
                (&["a"], &[]),
                (&["a"], &[("a", "i", 6)])
            ]),
            0
        );
    }

    #[test]
    fn sockets_need_a_process() {
        assert!(is_running(&pod("a", "old", &json!({"running": {}}))));
        assert!(!is_running(&pod(
            "a",
            "old",
            &json!({"waiting": {"reason": "CrashLoopBackOff"}})
        )));
    }
}
