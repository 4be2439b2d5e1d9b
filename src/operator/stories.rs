//! Keeps the stories of a rollout's last releases in a ConfigMap `<name>-releases`, one key per release, for `wsroll history` and
//! `wsroll report`. It is written when a release enters another phase, at most every few seconds, after the acts of the round; a
//! write that fails is tried again later and fails nothing.
//!
//! The ConfigMap has an ownerReference, unlike everything that traffic needs: it goes with its rollout, and with
//! `--cascade=orphan` it stays.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Resource as _, ResourceExt as _};
use tokio::time::Instant;

use super::context::{Context, Memory, lock};
use super::error::{Error, Result};
use super::observe::Scene;
use super::trail;
use crate::api::{RolloutStatus, WebSocketRollout};
use crate::report::story::{Extras, Mark, Stories, Story};
use crate::workload::labels::{self, MANAGER_STATUS};

/// Stories are written at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(3);
/// After a failure they are left alone for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Where the right is missing, or the name is somebody else's, for so long.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_mins(10);

/// The stories as they are remembered between rounds.
#[derive(Debug, Default)]
pub struct Kept {
    stories: Stories,
    /// What the ConfigMap holds; `None`: not read yet.
    written: Option<Vec<(u64, Mark)>>,
    /// Its version, as it was last read or written; `None`: there is none.
    version: Option<String>,
    /// Not before this.
    not_before: Option<Instant>,
}

/// The name of a rollout's ConfigMap.
pub fn name(rollout: &str) -> String {
    format!("{rollout}-releases")
}

/// The key of a release.
fn key(number: u64) -> String {
    format!("release-{number}.json")
}

/// Goes on with the stories, and writes them where it is time to.
pub async fn keep(
    ctx: &Context,
    live: &WebSocketRollout,
    scene: &Scene,
    status: &RolloutStatus,
    memory: &Mutex<Memory>,
) {
    if !ctx.keeps_stories || status.releases == 0 {
        return;
    }
    let mut kept = std::mem::take(&mut lock(memory).stories);
    let waits = kept.not_before.is_some_and(|at| Instant::now() < at);
    if kept.written.is_none() && !waits {
        let read = read(ctx, live).await;
        kept.found(read, &live.name_any());
    }
    let scrub = trail::scrub(scene, &[&scene.observed.status, status], memory);
    let extras = Extras {
        evidence: &scene.observed.evidence,
        rehearsal: scene.observed.rehearsal.as_ref(),
        by: &trail::who(live, status),
        scrub: &scrub,
    };
    kept.stories.advance(status, extras);
    let marks = kept.stories.marks();
    if !waits && kept.written.as_ref().is_some_and(|written| *written != marks) {
        let wrote = write(ctx, live, &kept).await;
        kept.wrote(wrote, marks, &live.name_any());
    }
    lock(memory).stories = kept;
}

impl Kept {
    fn found(&mut self, read: Result<Option<ConfigMap>>, rollout: &str) {
        match read {
            Ok(found) => {
                let theirs = found.as_ref().map(stories_of).unwrap_or_default();
                self.version = found.as_ref().and_then(ConfigMap::resource_version);
                self.written = Some(theirs.marks());
                // What was seen before it could be read is the newer part.
                let unknown = |s: &Story| self.stories.get(s.number).is_none();
                let older: Vec<Story> = theirs.0.into_iter().filter(unknown).collect();
                self.stories.0.extend(older);
            }
            Err(error) => self.later(&error, rollout),
        }
    }

    fn wrote(&mut self, wrote: Result<ConfigMap>, marks: Vec<(u64, Mark)>, rollout: &str) {
        match wrote {
            Ok(map) => {
                self.version = map.resource_version();
                self.written = Some(marks);
                self.not_before = Some(Instant::now() + WRITE_EVERY);
            }
            Err(error) => {
                // Whatever is there is read again before the next write.
                self.written = None;
                self.later(&error, rollout);
            }
        }
    }

    fn later(&mut self, error: &Error, rollout: &str) {
        let wait = match error {
            Error::Raced { .. } => WRITE_EVERY,
            Error::NameTaken { .. } => REFUSED_AGAIN_AFTER,
            Error::Api { source, .. } if is_forbidden(source) => REFUSED_AGAIN_AFTER,
            _ => AGAIN_AFTER,
        };
        self.not_before = Some(Instant::now() + wait);
        tracing::warn!(
            rollout,
            error = error as &dyn std::error::Error,
            retry_after = ?wait,
            "the stories of releases are not kept for now"
        );
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn api(ctx: &Context, live: &WebSocketRollout) -> Api<ConfigMap> {
    Api::namespaced(ctx.client.clone(), &live.namespace().unwrap_or_default())
}

/// Reads the ConfigMap. One of a namesake that is gone is as good as none; one of somebody else is left alone.
async fn read(ctx: &Context, live: &WebSocketRollout) -> Result<Option<ConfigMap>> {
    let name = name(&live.name_any());
    let found = ctx
        .read("read the stories", api(ctx, live).get_opt(&name))
        .await?;
    let Some(mut map) = found else { return Ok(None) };
    if map.labels().get(labels::ROLLOUT) != Some(&live.name_any()) {
        return Err(Error::NameTaken {
            kind: "config map",
            name,
        });
    }
    let uid = live.uid();
    if map.annotations().get(labels::ROLLOUT_UID) != uid.as_ref() {
        map.data = None;
    }
    Ok(Some(map))
}

async fn write(ctx: &Context, live: &WebSocketRollout, kept: &Kept) -> Result<ConfigMap> {
    let map = config_map(live, &kept.stories, kept.version.clone());
    let params = PostParams {
        field_manager: Some(MANAGER_STATUS.to_owned()),
        ..PostParams::default()
    };
    let api = api(ctx, live);
    if kept.version.is_none() {
        return ctx.write("create the stories", api.create(&params, &map)).await;
    }
    let name = map.name_any();
    ctx.write("write the stories", api.replace(&name, &params, &map))
        .await
}

/// The ConfigMap with these stories.
fn config_map(live: &WebSocketRollout, stories: &Stories, version: Option<String>) -> ConfigMap {
    let name_of = live.name_any();
    let parent = labels::Parent {
        name: &name_of,
        namespace: &live.namespace().unwrap_or_default(),
        uid: &live.uid().unwrap_or_default(),
    };
    let owner = live.owner_ref(&()).map(|mut owner| {
        owner.block_owner_deletion = Some(false);
        owner.controller = Some(false);
        owner
    });
    let data = stories.0.iter().map(|s| (key(s.number), s.to_bounded_json()));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name(&name_of)),
            namespace: live.namespace(),
            labels: Some(parent.labels()),
            annotations: Some(parent.annotations()),
            owner_references: owner.map(|owner| vec![owner]),
            resource_version: version,
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        ..ConfigMap::default()
    }
}

/// The stories in a ConfigMap, newest first. What cannot be read is left out: it is of another version.
pub fn stories_of(map: &ConfigMap) -> Stories {
    let texts = map
        .data
        .iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("release-"));
    let mut stories: Vec<Story> = texts
        .filter_map(|(_, text)| serde_json::from_str(text).ok())
        .collect();
    stories.sort_by_key(|story| std::cmp::Reverse(story.number));
    Stories(stories)
}

#[cfg(test)]
#[path = "stories_tests.rs"]
mod tests;
