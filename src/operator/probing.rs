//! Probes on behalf of the engine: a plan becomes a job, a look becomes upgrades through the gateway.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::context::{Context, Memory, lock};
use super::credentials::{self, Trouble, Whose};
use crate::api::script::{self, Script};
use crate::api::spec::{ProbeDialect, ProbeProfiles, TokenFrom, TokenPlace};
use crate::api::{Span, ValidatedRollout};
use crate::engine::observed::{Look, Problem};
use crate::engine::plan::{LookOrder, ProbePlan};
use crate::probe::{self, FleetJob, Manner, ProbeDial, ProbeJob, ProbeKind, RehearsalJob, RehearsalTimeouts};
use crate::session::{Dialect, Pin, Profile, Profiles, Token, TokenIn};

/// How long a look may take: the lease and other rollouts wait for nobody.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// How long a session may take that lost its pod: twice what its service level allows on average, for a pod has to start.
const CRASH_LIMIT: Duration = Duration::from_mins(1);
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
            nobody_pin,
            scenarios,
            canary,
            close_code,
            drains,
            notices,
            connects_per_second,
            acts,
        } => {
            let limit = spec.rehearsal.timeout.0;
            let mut job = RehearsalJob::new(Some(pin(stable_pin)?), pin(canary_pin)?, *close_code);
            job.canary_revision = Some(canary.clone());
            job.scenarios.clone_from(scenarios);
            job.nobody_pin = match nobody_pin {
                Some(value) => Some(pin(value)?),
                None => None,
            };
            job.drains = *drains;
            job.notices = *notices;
            job.connects_per_second = *connects_per_second;
            job.acts = acts.clone();
            job.timeouts = RehearsalTimeouts {
                restored: limit,
                exchange: limit,
                drain: limit * 3,
                crash: CRASH_LIMIT.max(limit),
            };
            let sessions = spec.rehearsal.sessions.unwrap_or(spec.probes.sessions);
            job.success_floor_percent = f64::from(spec.thresholds.reconnect_success.target_percent);
            (run.clone(), sessions, ProbeKind::Rehearsal(job))
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
            job.profiles = dial.manner.profiles;
            (
                // A corrected URL or a new token is another run; the hash is keyed per process and tells nothing of them.
                format!("{run}-{:08x}", ctx.hash(&settings(rollout, &dial)) as u32),
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

/// Everything that makes a dial another one. A login's token is renewed in place, and is no other dial.
fn settings(rollout: &ValidatedRollout, dial: &ProbeDial) -> impl std::hash::Hash + use<> {
    let probes = &rollout.spec.probes;
    let read = |from: &TokenFrom| from.login.is_none();
    let token = dial
        .token
        .as_ref()
        .filter(|_| probes.token_from.as_ref().is_some_and(read));
    (
        serde_json::to_string(probes).unwrap_or_default(),
        token.map(Token::reveal),
        dial.manner.tls.as_ref().map(|(tls, _)| tls.id()),
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
    match try_dial(ctx, rollout, memory).await {
        Ok(dial) => Some(dial),
        Err(trouble) => {
            tracing::warn!(rollout = rollout.name, %trouble, "probes cannot dial");
            None
        }
    }
}

async fn try_dial(
    ctx: &Context,
    rollout: &ValidatedRollout,
    memory: &Mutex<Memory>,
) -> Result<ProbeDial, Trouble> {
    let probes = &rollout.spec.probes;
    let tls = credentials::tls(ctx, rollout, memory).await?;
    let token = credentials::token(ctx, rollout, Whose::Own, memory).await?;
    let other = credentials::token(ctx, rollout, Whose::Other, memory).await?;
    let ready = probes.dialect.ready();
    Ok(ProbeDial {
        url: probes.url.clone(),
        connect_to: probes.connect_to.clone(),
        dialect: match probes.dialect {
            ProbeDialect::Session => Dialect::Session,
            ProbeDialect::Ping => Dialect::Ping,
            _ => Dialect::Script,
        },
        headers: probes.headers.clone().into_iter().collect(),
        subprotocols: probes.subprotocols.clone(),
        other_token: other.or_else(|| token.as_ref().map(Token::tampered)),
        met: lock(memory).met.clone(),
        outbound: Some(ctx.outbound.clone()),
        token,
        manner: Manner {
            ready,
            // The spec was validated, so that it compiles.
            script: match ready {
                Some(ready) => script::ready(ready),
                None => probes
                    .script
                    .as_ref()
                    .and_then(|s| Script::compile(s).ok())
                    .map(Arc::new),
            },
            token_in: match probes.token_in {
                TokenPlace::Header => TokenIn::Header,
                TokenPlace::Query => TokenIn::Query(probes.token_parameter.clone()),
                TokenPlace::Script => TokenIn::Script,
            },
            tls: tls.map(|tls| {
                let name = probes.tls.as_ref().and_then(|tls| tls.server_name.clone());
                (tls, name)
            }),
            profiles: profiles(&probes.profiles),
            times: None,
        },
    })
}

fn profiles(spec: &ProbeProfiles) -> Profiles {
    let delays = |profile: Profile, spans: &[Span]| {
        let spans: Vec<Duration> = spans.iter().map(|span| span.0).collect();
        profile.with_delays(&spans)
    };
    Profiles {
        graceful: delays(Profile::GRACEFUL, &spec.graceful),
        emergency: delays(Profile::EMERGENCY, &spec.emergency),
        rolling: delays(Profile::ROLLING, &spec.rolling),
    }
}
