//! The account of moved sessions: what pods tell of who came and went, matched, for status and metrics.
//!
//! Cursors live in the operator's memory. A restarted operator reads the pods' rings from their start, counts again what they
//! still hold, and takes over what status says beyond that: see [`accounting::merged`].

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::Api;
use tokio::time::Instant;

use super::context::{Context, Memory, lock};
use super::sessions::{POLLS, is_running};
use crate::api::status::{Returned, WaveReason};
use crate::api::{RolloutStatus, ValidatedRollout};
use crate::drain::accounting::{self, Accounts, Following, Page, Setting};
use crate::drain::identity::{self, IdentityKey};
use crate::drain::protocol::{DEFAULT_PORT, EventsReport, SessionsReport};
use crate::drain::{DrainClient, Token};
use crate::report::metrics::RolloutMetrics;
use crate::session::Met;
use crate::workload::labels;
use crate::workload::pods::PodFacts;

/// Pages read of one pod in a round; more wait for the next.
const PAGES: usize = 4;
/// How often pods are read while nobody is moved: for the natural rate.
const IDLE: Duration = Duration::from_secs(20);
/// How long a key that could not be read is done without.
const KEY_AGE: Duration = Duration::from_mins(1);
/// The Secret's key of the key that hashes identities.
const IDENTITY_KEY: &str = "identity-key";

/// What is remembered of a rollout's account between rounds.
#[derive(Default)]
pub struct Account {
    accounts: Option<Accounts>,
    read_at: Option<Instant>,
    /// Pods that tell no events.
    silent: HashSet<String>,
    /// Whether any pod has ever told events.
    told: bool,
    key: Option<(Instant, Option<IdentityKey>)>,
}

/// A pod that is asked.
#[derive(Clone, Debug)]
struct Asked {
    uid: String,
    revision: String,
    address: SocketAddr,
    token: Token,
}

/// Reads what happened since the last time, where it is due, and says what became of the release's sessions; `None` where
/// there is no release, or no pod tells. Pods that gave no report in this round are not waited for a second time.
pub async fn account(
    ctx: &Context,
    rollout: &ValidatedRollout,
    status: &RolloutStatus,
    pods: &[Arc<Pod>],
    tokens: &BTreeMap<String, Token>,
    reports: &BTreeMap<String, SessionsReport>,
    memory: &Mutex<Memory>,
) -> Option<Returned> {
    let (mut account, met) = {
        let mut memory = lock(memory);
        (std::mem::take(&mut memory.account), memory.met.clone())
    };
    let mut asked = asked(pods, tokens);
    let accounts = account.accounts.get_or_insert_with(|| Accounts::new((ctx.now)()));
    let told = status.drain.as_ref().and_then(|d| d.returned.as_ref());
    accounts.attend(setting(rollout, status), told);
    accounts.keep_journal(ctx.audit.is_on());
    accounts.retain(|uid| asked.iter().any(|a| a.uid == uid));
    account.silent.retain(|uid| asked.iter().any(|a| a.uid == *uid));
    asked.retain(|pod| reports.contains_key(&pod.uid));
    let moving = status.wave.is_some() || accounts.is_waiting();
    let due = moving || account.read_at.is_none_or(|at| at.elapsed() >= IDLE);
    if due {
        account.read_at = Some(Instant::now());
        if let Some(key) = identity_key(ctx, rollout, status, &mut account.key).await {
            leave_out(account.accounts.as_mut(), &met, &key);
        }
        if let Some(accounts) = &mut account.accounts {
            account.told |= read_all(&ctx.drain, asked, accounts, &mut account.silent, ctx.now).await;
            settle(&ctx.metrics.rollout, rollout, accounts, (ctx.now)());
            lock(memory).happened.extend(accounts.take_journal());
        }
    }
    let returned = account
        .accounts
        .as_ref()
        .filter(|_| account.told)
        .and_then(Accounts::returned)
        .map(|counted| shown(counted, told, moving));
    lock(memory).account = account;
    returned
}

/// What status shows. The natural rate stands still while nobody is moved, so that a quiet rollout writes nothing.
fn shown(counted: Returned, told: Option<&Returned>, moving: bool) -> Returned {
    let Some(told) = told else { return counted };
    let natural = told.natural_percent;
    let mut shown = accounting::merged(counted, told);
    if !moving && natural.is_some() {
        shown.natural_percent = natural;
    }
    shown
}

fn setting(rollout: &ValidatedRollout, status: &RolloutStatus) -> Setting {
    let release = status.release.as_ref();
    let thresholds = release.map_or(&rollout.spec.thresholds, |r| &r.thresholds);
    let scale_down = status.wave.as_ref().filter(|w| w.reason == WaveReason::ScaleDown);
    Setting {
        release: release.map(|release| Following {
            // Rehearsals have orders of another kind: there are only probes on those pods.
            orders: format!("{}-w", release.id),
            stable: release.stable.clone(),
            canary: release.canary.clone(),
            untargeted: scale_down.map(|wave| format!("{}-", wave.id)),
        }),
        stable: status.stable.clone().unwrap_or_default(),
        within: thresholds.users_return.within.0,
    }
}

fn asked(pods: &[Arc<Pod>], tokens: &BTreeMap<String, Token>) -> Vec<Asked> {
    let running = pods.iter().filter(|pod| is_running(pod));
    running
        .filter_map(|pod| {
            let facts = PodFacts::of(pod)?;
            let revision = facts.revision?;
            Some(Asked {
                uid: facts.uid,
                address: SocketAddr::new(facts.ip?, DEFAULT_PORT),
                token: tokens.get(&revision)?.clone(),
                revision,
            })
        })
        .collect()
}

/// Reads every pod page by page; whether any told events.
async fn read_all(
    client: &DrainClient,
    mut due: Vec<Asked>,
    accounts: &mut Accounts,
    silent: &mut HashSet<String>,
    now: fn() -> Timestamp,
) -> bool {
    due.retain(|pod| !silent.contains(&pod.uid));
    let mut told = false;
    for _ in 0..PAGES {
        let calls: Vec<_> = due
            .drain(..)
            .map(|pod| {
                let after = accounts.cursor(&pod.uid);
                async move {
                    let answer = page(client, &pod, after).await;
                    (pod, answer, now())
                }
            })
            .collect();
        let mut answers = stream::iter(calls).buffer_unordered(POLLS);
        while let Some((pod, answer, at)) = answers.next().await {
            match answer {
                Answer::Page(report) => {
                    told = true;
                    if accounts.read(&pod.uid, &pod.revision, &report, at) != Page::Last {
                        due.push(pod);
                    }
                }
                Answer::NotOffered => _ = silent.insert(pod.uid),
                Answer::None => {}
            }
        }
        if due.is_empty() {
            break;
        }
    }
    told
}

enum Answer {
    Page(EventsReport),
    NotOffered,
    None,
}

async fn page(client: &DrainClient, pod: &Asked, after: u64) -> Answer {
    match client.events(pod.address, &pod.token, after).await {
        Ok(Some(report)) => Answer::Page(report),
        Ok(None) => Answer::NotOffered,
        Err(error) => {
            tracing::debug!(address = %pod.address, category = error.category(), "events are unknown");
            Answer::None
        }
    }
}

fn settle(metrics: &RolloutMetrics, rollout: &ValidatedRollout, accounts: &mut Accounts, now: Timestamp) {
    let (namespace, name) = (rollout.namespace.as_str(), rollout.name.as_str());
    for outcome in accounts.settle(now) {
        metrics.returned(namespace, name, outcome);
    }
    if let Some(percent) = accounts.natural_percent() {
        metrics.set_natural_return(namespace, name, percent);
    }
}

/// Probes are no users: they leave and come back all the time.
fn leave_out(accounts: Option<&mut Accounts>, met: &Met, key: &IdentityKey) {
    let Some(accounts) = accounts else { return };
    let hashes = met
        .take()
        .into_iter()
        .map(|session| identity::hash(key, &session));
    accounts.ignore(hashes.filter_map(|hash| u64::from_str_radix(&hash, 16).ok()));
}

/// The key with which the rollout's pods hash identities: all its revisions have the same.
async fn identity_key(
    ctx: &Context,
    rollout: &ValidatedRollout,
    status: &RolloutStatus,
    known: &mut Option<(Instant, Option<IdentityKey>)>,
) -> Option<IdentityKey> {
    let fresh = known
        .as_ref()
        .filter(|(at, key)| key.is_some() || at.elapsed() < KEY_AGE);
    if let Some((_, key)) = fresh {
        return key.clone();
    }
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let name = labels::token_name(&rollout.name, status.stable.as_deref()?);
    let secret = ctx
        .read("read the identity key", secrets.get_opt(&name))
        .await
        .ok()
        .flatten();
    let key = secret.and_then(|secret| {
        let text = String::from_utf8(secret.data?.remove(IDENTITY_KEY)?.0).ok()?;
        (!text.trim().is_empty()).then(|| IdentityKey::new(&text))
    });
    *known = Some((Instant::now(), key.clone()));
    key
}

#[cfg(test)]
#[path = "accounting_tests.rs"]
mod tests;
