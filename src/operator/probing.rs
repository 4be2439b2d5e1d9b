//! Probes on behalf of the engine: a plan becomes a job, a look becomes upgrades through the gateway.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use tokio::time::Instant;

use super::context::{Context, Memory, lock};
use crate::api::ValidatedRollout;
use crate::api::spec::ProbeDialect;
use crate::engine::observed::{Look, Problem};
use crate::engine::plan::{LookOrder, ProbePlan};
use crate::probe::{self, FleetJob, ProbeDial, ProbeJob, ProbeKind, RehearsalJob, RehearsalTimeouts};
use crate::session::{Dialect, Pin, Token};

/// How long a read token is good for.
const TOKEN_AGE: Duration = Duration::from_secs(30);
/// How long a look may take: the lease and other rollouts wait for nobody.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// A message without an answer for so long is a failed health check.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);

/// The job that a plan means for this rollout. `None` where it cannot be made: the reason was logged, and preflight names it.
pub async fn job(
    ctx: &Context,
    rollout: &ValidatedRollout,
    plan: &ProbePlan,
    memory: &Mutex<Memory>,
) -> Option<ProbeJob> {
    let dial = dial(ctx, rollout, memory).await?;
    let spec = &rollout.spec;
    let (run, sessions, kind) = match plan {
        ProbePlan::Rehearsal {
            run,
            stable_pin,
            canary_pin,
            canary,
            close_code,
            drains,
            notices,
        } => {
            let limit = spec.rehearsal.timeout.0;
            let mut job = RehearsalJob::new(Some(pin(stable_pin)?), pin(canary_pin)?, *close_code);
            job.canary_revision = Some(canary.clone());
            job.drains = *drains;
            job.notices = *notices;
            job.timeouts = RehearsalTimeouts {
                restored: limit,
                exchange: limit,
                drain: limit * 3,
            };
            job.success_floor_percent = f64::from(spec.thresholds.reconnect_success.advance_above_percent);
            (run.clone(), spec.probes.sessions, ProbeKind::Rehearsal(job))
        }
        ProbePlan::Fleet {
            run,
            targets,
            sessions,
        } => {
            let mut pinned = Vec::new();
            for (target, value) in targets {
                pinned.push((
                    *target,
                    value.as_deref().map(pin).map_or(Some(None), |p| p.map(Some))?,
                ));
            }
            let mut job = FleetJob::new(pinned);
            job.recycle = spec.probes.recycle.0;
            job.window = spec.thresholds.reconnect_success.window.0;
            job.health_timeout = HEALTH_LIMIT;
            (
                // A corrected URL or a new token is another run; the hash is keyed per process and tells nothing of them.
                format!("{run}-{:08x}", ctx.hash(&settings(&dial)) as u32),
                sessions.unwrap_or(spec.probes.sessions),
                ProbeKind::Fleet(job),
            )
        }
    };
    Some(ProbeJob {
        run,
        since: (ctx.now)(),
        dial,
        sessions,
        kind,
    })
}

/// Everything that makes a dial another one.
fn settings(dial: &ProbeDial) -> impl std::hash::Hash + use<> {
    (
        dial.url.clone(),
        dial.connect_to.clone(),
        dial.dialect,
        dial.headers.clone(),
        dial.subprotocols.clone(),
        dial.token.as_ref().map(|t| t.reveal().to_owned()),
    )
}

/// Takes a look: fresh upgrades, and which revision welcomed each.
pub async fn look(
    ctx: &Context,
    rollout: &ValidatedRollout,
    order: &LookOrder,
    memory: &Mutex<Memory>,
) -> Look {
    let mut look = Look {
        id: order.id.clone(),
        revisions: BTreeMap::new(),
        failed: 0,
        error: None,
        at: (ctx.now)(),
    };
    let seen = match (dial(ctx, rollout, memory).await, order.pin.as_deref().map(pin)) {
        (Some(dial), None) => probe::sight(&dial, None, order.upgrades as usize, LOOK_LIMIT).await,
        (Some(dial), Some(Some(pin))) => {
            probe::sight(&dial, Some(&pin), order.upgrades as usize, LOOK_LIMIT).await
        }
        _ => {
            look.failed = order.upgrades;
            look.error = Some("the probes' settings cannot be used".to_owned());
            return look;
        }
    };
    match seen {
        Ok(sights) => {
            for sight in sights {
                match sight {
                    Ok(sight) => *look.revisions.entry(sight.revision).or_default() += 1,
                    Err(failure) => {
                        look.failed += 1;
                        look.error = Some(failure.to_string());
                    }
                }
            }
        }
        Err(error) => {
            look.failed = order.upgrades;
            look.error = Some(error.to_string());
        }
    }
    look
}

fn pin(value: &str) -> Option<Pin> {
    Pin::new(value).ok()
}

/// Why the probes' URL is not dialled, as far as the URL tells; what its name leads to is looked at when it is dialled.
pub fn refused(ctx: &Context, rollout: &ValidatedRollout) -> Option<Problem> {
    let probes = &rollout.spec.probes;
    let checked = match (&probes.connect_to, url::Url::parse(&probes.url)) {
        (_, Err(_)) => return None, // validation has its words for that
        (Some(address), Ok(_)) => {
            let host = address
                .rsplit_once(':')
                .map_or(address.as_str(), |(host, _)| host);
            ctx.outbound
                .check_host(host)
                .map_err(|refused| ("connectTo", refused))
        }
        (None, Ok(url)) => ctx.outbound.check_url(&url).map_err(|refused| ("url", refused)),
    };
    let (field, refused) = checked.err()?;
    Some(Problem {
        reason: "ProbeHostRefused",
        message: format!("spec.probes.{field} is not dialled: {refused}"),
    })
}

async fn dial(ctx: &Context, rollout: &ValidatedRollout, memory: &Mutex<Memory>) -> Option<ProbeDial> {
    let probes = &rollout.spec.probes;
    let token = match &probes.token_from {
        None => None,
        Some(_) => match token(ctx, rollout, memory).await {
            Ok(token) => Some(Token::new(token)),
            Err(reason) => {
                tracing::warn!(rollout = rollout.name, reason, "probes have no token");
                return None;
            }
        },
    };
    Some(ProbeDial {
        url: probes.url.clone(),
        connect_to: probes.connect_to.clone(),
        dialect: match probes.dialect {
            ProbeDialect::Session => Dialect::Session,
            ProbeDialect::Ping => Dialect::Ping,
        },
        headers: probes.headers.clone().into_iter().collect(),
        subprotocols: probes.subprotocols.clone(),
        other_token: token.as_ref().map(Token::tampered),
        met: lock(memory).met.clone(),
        outbound: Some(ctx.outbound.clone()),
        token,
    })
}

async fn token(ctx: &Context, rollout: &ValidatedRollout, memory: &Mutex<Memory>) -> Result<String, String> {
    let known = lock(memory).probe_token.clone();
    if let Some((at, known)) = known
        && at.elapsed() < TOKEN_AGE
    {
        return known;
    }
    let read = read_token(ctx, rollout).await;
    lock(memory).probe_token = Some((Instant::now(), read.clone()));
    read
}

async fn read_token(ctx: &Context, rollout: &ValidatedRollout) -> Result<String, String> {
    let Some(reference) = rollout.spec.probes.token_from.as_ref().map(|t| &t.secret_key_ref) else {
        return Err("none is configured".to_owned());
    };
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let secret = ctx
        .read("read the probes' token", secrets.get_opt(&reference.name))
        .await;
    let secret = secret
        .map_err(|e| e.to_string())?
        .ok_or_else(|| format!("secret {} is missing", reference.name))?;
    let bytes = secret.data.and_then(|mut data| data.remove(&reference.key));
    let bytes = bytes.ok_or_else(|| format!("secret {} has no key {}", reference.name, reference.key))?;
    String::from_utf8(bytes.0)
        .map(|t| t.trim().to_owned())
        .map_err(|_| "the token is not text".to_owned())
}
