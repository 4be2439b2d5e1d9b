//! Sessions as the pods report them, and what ended without an announcement.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::Api;
use tokio::net::TcpStream;

use super::apply::RETIRED_COST;
use super::context::{Context, LastSeen, Memory, lock};
use super::error::Result;
use crate::api::spec::{SessionsFrom, Via};
use crate::api::{RolloutStatus, ValidatedRollout};
use crate::drain::protocol::{DEFAULT_PORT, SessionsReport};
use crate::drain::{self, Token};
use crate::engine::evidence::{ProbeEvidence, ProbeFigures, ProbeTarget};
use crate::engine::observed::Cut;
use crate::report::audit::{self, SeenAs};
use crate::workload::pods::PodFacts;
use crate::workload::{labels, replica_set, sidecar, token};

/// Pods that are asked for their sessions at the same time.
pub const POLLS: usize = 32;
/// What stands for the process of a pod that tells none: how often the kubelet restarted it.
const RESTARTS: &str = "restarts-";
/// Cuts that are remembered until a status tells them.
const CUTS: usize = 10;
/// How long a pod's application port may take to show that the pod can be reached.
const REACHED: Duration = Duration::from_millis(500);

/// Reads the drain tokens that are not known yet. A revision whose Secret is gone stays without: its pods are unknown. So does one
/// that was created with a certificate, where the Secret no longer tells whom to trust: plain text is no way out.
pub async fn tokens(
    ctx: &Context,
    rollout: &ValidatedRollout,
    sets: &BTreeMap<String, ReplicaSet>,
    memory: &Mutex<Memory>,
) -> Result<BTreeMap<String, Token>> {
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let mut known = BTreeMap::new();
    for (revision, set) in sets {
        let cached = lock(memory).tokens.get(revision).cloned();
        let found = if cached.is_some() {
            cached
        } else {
            {
                let name = labels::token_name(&rollout.name, revision);
                ctx.read("read a drain token", secrets.get_opt(&name))
                    .await?
                    .as_ref()
                    .and_then(|secret| sealed(ctx, secret, set))
            }
        };
        if let Some(token) = found {
            lock(memory).tokens.insert(revision.clone(), token.clone());
            known.insert(revision.clone(), token);
        }
    }
    Ok(known)
}

/// A Secret's token, for pods that prove who they are where they were created so.
fn sealed(ctx: &Context, secret: &Secret, set: &ReplicaSet) -> Option<Token> {
    let token = token::read(secret)?;
    let not_called = |problem: String| {
        let set = set.name_any();
        tracing::warn!(
            set,
            problem,
            "sidecars cannot be told from strangers, and are not called"
        );
    };
    let seal = match token::seal(secret, replica_set::drain_tls(set)) {
        Ok(seal) => seal,
        Err(error) => {
            not_called(error.to_string());
            return None;
        }
    };
    let Some((authority, name)) = seal else {
        return Some(token);
    };
    match ctx.drain.trust(&authority, &name) {
        Ok(trust) => Some(token.trusting(trust)),
        Err(error) => {
            not_called(error.to_string());
            None
        }
    }
}

/// What pods said when they were asked.
#[derive(Default)]
pub struct Polled {
    /// Sessions by the pod's UID. Who is not in it is unknown.
    pub reports: BTreeMap<String, SessionsReport>,
    /// Pods whose count is a metric's: their sessions are let go by SIGTERM.
    pub gauged: BTreeSet<String>,
    /// By revision: whether its pods answer the drain protocol. Who is not in it is unknown.
    pub speaks: BTreeMap<String, bool>,
}

/// What one pod said.
enum Answer {
    /// Its sessions, by the protocol.
    Report(SessionsReport),
    /// Its sessions, by its metrics; and whether it refuses the protocol.
    Gauge(SessionsReport, Refusal),
    /// Nothing that tells its sessions.
    Nothing(Refusal),
}

/// Whether a pod refuses the drain protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It serves something else on the drain port.
    Certain,
    /// Its drain port is closed, or something on the way says so.
    Closed,
    /// Nobody knows.
    Unknown,
}

/// Asks every running pod for its sessions. Who does not answer is unknown; whose container does not run has none.
pub async fn poll(
    ctx: &Context,
    rollout: &ValidatedRollout,
    sets: &BTreeMap<String, ReplicaSet>,
    pods: &[std::sync::Arc<Pod>],
    tokens: &BTreeMap<String, Token>,
) -> Polled {
    let mut polled = Polled::default();
    let mut asked = Vec::new();
    for pod in pods {
        let Some(facts) = PodFacts::of(pod) else { continue };
        if !is_running(pod) {
            polled.reports.insert(facts.uid, nothing_runs());
            continue;
        }
        let Some(revision) = facts.revision.clone() else {
            continue;
        };
        let via = sets.get(&revision).and_then(replica_set::via_of);
        let token = tokens.get(&revision).filter(|_| via != Some(Via::Signal));
        let gauge = rollout.spec.drain.sessions_from.as_ref();
        let gauge = gauge.filter(|_| matches!(via, Some(Via::Signal | Via::Auto)));
        asked.push(async move { (ask(ctx, &facts, token, gauge).await, facts, revision) });
    }
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(POLLS).collect().await;
    let mut refusing: BTreeMap<String, Vec<(Refusal, PodFacts)>> = BTreeMap::new();
    for (answer, facts, revision) in answers {
        let refusal = match answer {
            Answer::Report(report) => {
                polled.speaks.insert(revision, true);
                polled.reports.insert(facts.uid, report);
                continue;
            }
            Answer::Gauge(report, refusal) => {
                polled.gauged.insert(facts.uid.clone());
                polled.reports.insert(facts.uid.clone(), report);
                refusal
            }
            Answer::Nothing(refusal) => refusal,
        };
        if refusal != Refusal::Unknown && facts.ready {
            refusing.entry(revision).or_default().push((refusal, facts));
        }
    }
    for (revision, pods) in refusing {
        let port = rollout.spec.traffic.port;
        if !polled.speaks.contains_key(&revision) && refuses(&pods, port).await {
            polled.speaks.insert(revision, false);
        }
    }
    polled
}

/// Asks by the protocol first, where the pod may know it.
async fn ask(ctx: &Context, facts: &PodFacts, token: Option<&Token>, gauge: Option<&SessionsFrom>) -> Answer {
    let Some(ip) = facts.ip else {
        return Answer::Nothing(Refusal::Unknown);
    };
    let mut refusal = Refusal::Unknown;
    if let Some(token) = token {
        match ctx.drain.sessions(SocketAddr::new(ip, DEFAULT_PORT), token).await {
            Ok(report) => return Answer::Report(report),
            Err(error) => {
                tracing::debug!(
                    pod = facts.name,
                    category = error.category(),
                    "no answer by the protocol"
                );
                refusal = match error {
                    drain::client::Error::NoProtocol => Refusal::Certain,
                    error if error.is_refused_connection() => Refusal::Closed,
                    error => {
                        // Too late, too long, or not believed: the pod is unknown, and that is counted.
                        ctx.metrics.reconcile.api_error("sessions", error.category());
                        Refusal::Unknown
                    }
                };
            }
        }
    }
    let Some(from) = gauge else {
        return Answer::Nothing(refusal);
    };
    let address = SocketAddr::new(ip, from.port);
    match ctx.gauges.read(address, &from.path, &from.metric).await {
        Ok(open) => {
            let report = SessionsReport {
                // The kubelet's count stands for the process: sessions do not outlive a restart.
                instance: Some(format!("{RESTARTS}{}", facts.restarts)),
                open,
                ..SessionsReport::default()
            };
            Answer::Gauge(report, refusal)
        }
        Err(error) => {
            tracing::debug!(
                pod = facts.name,
                category = error.category(),
                "sessions are unknown"
            );
            Answer::Nothing(refusal)
        }
    }
}

/// Whether ready pods that refuse the protocol are to be believed. A closed port is the pod's own answer only where the pod can be
/// reached at all: a network policy that rejects looks just the same, and proves nothing.
async fn refuses(pods: &[(Refusal, PodFacts)], application: u16) -> bool {
    if pods.iter().any(|(refusal, _)| *refusal == Refusal::Certain) {
        return true;
    }
    let address = pods.iter().find_map(|(_, facts)| facts.ip);
    let Some(address) = address.map(|ip| SocketAddr::new(ip, application)) else {
        return false;
    };
    let dialled = tokio::time::timeout(REACHED, TcpStream::connect(address)).await;
    matches!(dialled, Ok(Ok(_)))
}

/// Whether anything runs that may hold sockets: a container of the pod, or the sidecar, which outlives them.
pub fn is_running(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.container_statuses.iter().flatten();
    let setting_up = status.init_container_statuses.iter().flatten();
    containers
        .chain(setting_up.filter(|c| c.name == sidecar::NAME))
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
    polled: &Polled,
    at: Timestamp,
) {
    let hidden = status
        .release
        .as_ref()
        .filter(|r| !r.exposed)
        .map(|r| r.canary.as_str());
    let mut memory = lock(memory);
    let mut ended: Vec<(String, LastSeen, SeenAs)> = Vec::new();
    memory.pods.retain(|uid, last| {
        let there = facts.contains_key(uid);
        if !there && last.revision.as_deref() != hidden && !last.dismissed {
            ended.push((uid.clone(), last.clone(), SeenAs::PodGone));
        }
        there
    });
    // Who was deleted as an order to its SIGTERM handler was not cut: how its sessions end is told by nobody.
    for (uid, last) in &mut memory.pods {
        let signalled = polled.gauged.contains(uid) || last.instance.starts_with(RESTARTS);
        let ordered = |f: &PodFacts| f.terminating && f.deletion_cost == RETIRED_COST;
        last.retired |= facts.get(uid).is_some_and(|f| f.deletion_cost == RETIRED_COST);
        last.dismissed |= signalled && facts.get(uid).is_some_and(ordered);
    }
    for (uid, report) in &polled.reports {
        let revision = facts.get(uid).and_then(|f| f.revision.clone());
        let dismissed = memory.pods.get(uid).is_some_and(|last| last.dismissed);
        let counts = revision.as_deref() != hidden && !dismissed;
        let now = LastSeen {
            name: facts.get(uid).map(|f| f.name.clone()).unwrap_or_default(),
            instance: report.instance.clone().unwrap_or_default(),
            revision,
            open: report.open,
            retired: facts.get(uid).is_some_and(|f| f.deletion_cost == RETIRED_COST),
            dismissed,
        };
        if let Some(last) = memory.pods.insert(uid.clone(), now)
            && Some(&last.instance) != report.instance.as_ref()
            && !last.instance.is_empty()
            && counts
        {
            ended.push((uid.clone(), last, SeenAs::PodRestarted));
        }
    }
    ended.retain(|(_, last, _)| last.open > 0);
    memory.unannounced += ended.iter().map(|(_, last, _)| last.open).sum::<u64>();
    remember(&mut memory, ended, at);
    let drains = polled.reports.iter();
    memory.drains = drains
        .filter_map(|(uid, report)| Some((uid.clone(), report.drain.clone()?)))
        .collect();
}

/// Keeps what ended with its process: all of it for the audit trail; for status the newest of those that nobody let go of, so
/// that how their sessions ended is a surprise.
fn remember(memory: &mut Memory, ended: Vec<(String, LastSeen, SeenAs)>, at: Timestamp) {
    for (uid, last, seen) in ended {
        if !(last.retired && seen == SeenAs::PodGone) {
            memory.cuts.push(last.cut(&uid, seen, at));
        }
        memory.audited_cuts.push(audit::Cut {
            uid,
            revision: last.revision,
            sessions: last.open,
            seen,
        });
    }
    bound(&mut memory.cuts);
}

/// The newest ones are kept.
fn bound(cuts: &mut Vec<Cut>) {
    let over = cuts.len().saturating_sub(CUTS);
    cuts.drain(..over);
}

impl LastSeen {
    /// The sessions that were on it are cut.
    fn cut(&self, uid: &str, seen: SeenAs, at: Timestamp) -> Cut {
        let how = match seen {
            SeenAs::PodGone => "is gone",
            _ => "runs another process",
        };
        Cut {
            at,
            revision: self.revision.clone().unwrap_or_default(),
            uid: Some(uid.to_owned()),
            what: format!("pod {} {how}", self.name),
            sessions: self.open,
        }
    }
}

/// Counts what the probes have seen since they were last counted: for the metrics, and the unannounced ends for the release.
pub fn count_probes(
    ctx: &Context,
    rollout: &ValidatedRollout,
    memory: &Mutex<Memory>,
    evidence: &[ProbeEvidence],
    stable: &str,
) {
    let at = (ctx.now)();
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
        if unannounced > 0 && seen.target == ProbeTarget::Stable {
            let cut = Cut {
                at,
                revision: stable.to_owned(),
                uid: None,
                what: "probes were cut".to_owned(),
                sessions: unannounced,
            };
            memory.cuts.push(cut);
            bound(&mut memory.cuts);
        }
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
        counted_of(rounds, |_| {})
    }

    fn counted_of(rounds: &[Round<'_>], change: impl Fn(&mut PodFacts)) -> u64 {
        let memory = Mutex::new(Memory::default());
        for (pods, reports) in rounds {
            let reports = reports
                .iter()
                .map(|(pod, instance, open)| ((*pod).to_owned(), report(instance, *open)));
            let polled = Polled {
                reports: reports.collect(),
                ..Polled::default()
            };
            let mut facts = facts(pods);
            facts.values_mut().for_each(&change);
            count_unannounced(
                &memory,
                &RolloutStatus::default(),
                &facts,
                &polled,
                Timestamp::UNIX_EPOCH,
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
    fn what_was_cut_is_remembered_with_its_pod_unless_the_pod_was_let_go_of() {
        let memory = Mutex::new(Memory::default());
        let mut there = facts(&["a", "b"]);
        there.get_mut("b").unwrap().deletion_cost = RETIRED_COST;
        let reports = ["a", "b"].map(|pod| (pod.to_owned(), report("i", 7)));
        let polled = Polled {
            reports: reports.into(),
            ..Polled::default()
        };
        let status = RolloutStatus::default();
        count_unannounced(&memory, &status, &there, &polled, Timestamp::UNIX_EPOCH);
        let gone = BTreeMap::new();
        count_unannounced(&memory, &status, &gone, &Polled::default(), Timestamp::UNIX_EPOCH);
        let memory = lock(&memory);
        let cuts: Vec<_> = memory
            .cuts
            .iter()
            .map(|c| (c.what.as_str(), c.sessions))
            .collect();
        assert_eq!((memory.unannounced, cuts), (14, vec![("pod a is gone", 7)]));
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
    fn a_pod_that_was_deleted_as_an_order_has_cut_nobody_and_one_that_others_deleted_has() {
        let rounds: &[Round<'_>] = &[
            (&["a"], &[("a", "restarts-0", 7)]),
            (&["a"], &[("a", "restarts-0", 5)]),
            (&["a"], &[("a", "", 0)]),
            (&[], &[]),
        ];
        let by = |cost| {
            counted_of(rounds, move |facts| {
                (facts.terminating, facts.deletion_cost) = (true, cost);
            })
        };
        assert_eq!(by(RETIRED_COST), 0);
        assert_eq!(by(0), 5, "an eviction is no order of ours");
    }

    #[tokio::test]
    async fn a_closed_drain_port_is_believed_of_a_pod_that_can_be_reached() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let mut pod = PodFacts::of(&pod("a", "old", &json!({"running": {}}))).unwrap();
        pod.ip = Some("127.0.0.1".parse().unwrap());
        let pods = |refusal| vec![(refusal, pod.clone())];
        assert!(refuses(&pods(Refusal::Closed), open).await);
        assert!(
            !refuses(&pods(Refusal::Closed), 1).await,
            "a policy that rejects proves nothing"
        );
        assert!(
            refuses(&pods(Refusal::Certain), 1).await,
            "an answer is an answer"
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
        let init = |name: &str| {
            let mut pod = pod("a", "old", &json!({"waiting": {}}));
            let status = pod.status.as_mut().unwrap();
            let mut running = status.container_statuses.as_ref().unwrap()[0].clone();
            running.name = name.to_owned();
            running.state = serde_json::from_value(json!({"running": {}})).unwrap();
            status.init_container_statuses = Some(vec![running]);
            is_running(&pod)
        };
        assert!(
            init("wsroll-sidecar"),
            "it holds the clients' sockets while the application restarts"
        );
        assert!(!init("migrate"));
    }
}
