//! The stage: cluster, images, operator, Redis and route; and its removal.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Options, manifests::ROLLOUT, narrate::Voice};
use crate::{
    cargo,
    cluster::{self, ClusterHandle},
    image::{self, Images},
    paths, shell,
};

/// Where the demo lives in the cluster.
const NAMESPACE: &str = "wsroll-demo";

/// The definition of the resource.
const DEFINITION: &str = "websocketrollouts.wsroll.dev";

/// A `wsroll` program to hold the sessions with, instead of the one that is built here.
const PROGRAM_VARIABLE: &str = "WSROLL_E2E_WSROLL_BIN";

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Sessions that users hold.
    pub sessions: u32,
    /// Pods of the service.
    pub pods: u32,
    /// Probe sessions per revision.
    pub probes: u32,
    /// First connects of moved sessions per second, at most.
    pub budget: u32,
}

/// Everything that the acts of the demo play on.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: ClusterHandle,
    /// The images.
    pub images: Images,
    /// How much of everything.
    pub size: Size,
    /// The namespace.
    pub namespace: String,
    /// Signs the users' tokens; random in each run.
    pub key: String,
    /// The program that holds the sessions.
    pub wsroll: PathBuf,
    /// Files of this run.
    pub work: PathBuf,
    /// How to speak.
    pub voice: Voice,
    /// Whether the resource's definition was there before, so that it stays.
    definition_stays: bool,
}

impl Size {
    /// What the options ask for.
    pub fn of(options: &Options) -> Self {
        let (sessions, pods) = if options.fast { (200, 4) } else { (1000, 10) };
        Self {
            sessions: options.sessions.unwrap_or(sessions),
            pods: options.pods.unwrap_or(pods),
            probes: 10,
            budget: 50,
        }
    }

    /// Sockets beyond which a pod of the version breaks that breaks only under load: less than what its
    /// share of the users is, more than what probes alone bring in a rehearsal, where each may hold two.
    pub fn breaks_above(self) -> u32 {
        (self.sessions / self.pods.max(1) / 2).max(self.probes * 2 + 2)
    }
}

impl Stage {
    /// Starts what is missing.
    pub fn set(options: &Options, voice: Voice) -> Result<Self> {
        let cluster = cluster::up(cluster::Options {
            install: !options.no_install,
        })?;
        let images = image::build(&cluster, !options.no_install)?;
        let wsroll = match std::env::var_os(PROGRAM_VARIABLE).filter(|path| !path.is_empty()) {
            Some(program) => PathBuf::from(program),
            None => cargo::build_programs()?.join("wsroll"),
        };
        let work = paths::cache_dir()?.join("demo");
        fs::create_dir_all(&work).with_context(|| format!("failed to create {}", work.display()))?;
        let definition = ["get", "customresourcedefinition", DEFINITION];
        let definition_stays = shell::succeeds(cluster.kubectl().args(definition));
        Ok(Self {
            images,
            size: Size::of(options),
            namespace: NAMESPACE.to_owned(),
            key: random_key()?,
            wsroll,
            work,
            voice,
            definition_stays,
            cluster,
        })
    }

    /// Installs the operator as its manifests do, Redis, and the route.
    pub fn furnish(&self) -> Result<()> {
        if shell::succeeds(self.cluster.kubectl().args(["get", "namespace", &self.namespace])) {
            shell::step("removing what an earlier run left", || self.remove())?;
        }
        let overlay = self.overlay()?;
        let apply = ["apply", "--server-side", "--force-conflicts", "-k"];
        shell::output(self.cluster.kubectl().args(apply).arg(overlay))?;
        let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd"];
        shell::output(self.cluster.kubectl().args(established).arg(DEFINITION))?;
        self.apply(&self.surroundings())?;
        for deployment in ["redis", "wsroll-operator"] {
            self.await_deployment(deployment)?;
        }
        Ok(())
    }

    /// Takes everything back, in an order that lets the operator finish its own work first.
    pub fn remove(&self) -> Result<()> {
        let rollouts = ["delete", "websocketrollouts", "--all", "--timeout=60s"];
        if shell::output(self.kubectl().args(rollouts)).is_err() {
            // No operator is there to let go of them.
            self.release_rollouts();
        }
        let delete = ["delete", "--ignore-not-found", "--timeout=120s"];
        let mut kubectl = self.cluster.kubectl();
        if self.definition_stays {
            shell::output(kubectl.args(delete).args(["namespace", &self.namespace]))?;
        } else {
            shell::output(kubectl.args(delete).arg("-k").arg(self.overlay()?))?;
        }
        Ok(())
    }

    /// After a failure: what the namespace looks like, and what the operator said last.
    pub fn show_state(&self) {
        for what in [
            &["get", "websocketrollouts,pods"][..],
            &["logs", "deployment/wsroll-operator", "--tail=20"],
        ] {
            let shown = shell::output(self.kubectl().args(what));
            eprintln!("{}", shown.unwrap_or_else(|error| format!("{error:#}")));
        }
    }

    /// Takes the rollout back and, as it leaves its pods serving, those as well.
    pub fn remove_rollout(&self) -> Result<()> {
        let delete = ["delete", "--ignore-not-found", "--timeout=120s"];
        let rollout = ["websocketrollout", ROLLOUT];
        shell::output(self.kubectl().args(delete).args(rollout))?;
        let pods = format!("--selector=wsroll.dev/rollout={ROLLOUT}");
        shell::output(self.kubectl().args(delete).args(["replicaset", &pods])).map(drop)
    }

    /// `kubectl` in the demo's namespace.
    pub fn kubectl(&self) -> std::process::Command {
        let mut kubectl = self.cluster.kubectl();
        kubectl.args(["--namespace", &self.namespace]);
        kubectl
    }

    /// Applies an object, or a list of them.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.cluster.apply(&object.to_string())
    }

    /// Waits until all pods of a Deployment are new and ready.
    pub fn await_deployment(&self, name: &str) -> Result<()> {
        let wait = ["rollout", "status", "deployment", name, "--timeout=180s"];
        shell::output(self.kubectl().args(wait)).map(drop)
    }

    /// A user's token, as the example service checks it.
    pub fn token(&self, user: &str) -> String {
        let signed = format!("{user}.standard");
        // HMAC takes keys of any length; without a signature the service would refuse the token.
        let signature = Hmac::<Sha256>::new_from_slice(self.key.as_bytes()).map(|mut mac| {
            mac.update(signed.as_bytes());
            hex::encode(mac.finalize().into_bytes())
        });
        format!("{signed}.{}", signature.unwrap_or_default())
    }

    /// The shipped manifests for one namespace, with this run's namespace and image.
    fn overlay(&self) -> Result<PathBuf> {
        let dir = self.work.join("operator");
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let dir = dir.canonicalize().context("failed to resolve the overlay")?;
        let manifests = paths::root().join("manifests/namespaced");
        let overlay = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [relative(&dir, &manifests)],
            "images": [kustomize_image("docker.io/wsroll/wsroll", &self.images.wsroll)],
        });
        fs::write(dir.join("kustomization.yaml"), overlay.to_string())
            .context("failed to write the overlay")?;
        Ok(dir)
    }

    fn release_rollouts(&self) {
        let list = ["get", "websocketrollouts", "-o", "name"];
        let Ok(rollouts) = shell::output(self.kubectl().args(list)) else {
            return;
        };
        for rollout in rollouts.lines() {
            let patch = r#"{"metadata":{"finalizers":null}}"#;
            shell::succeeds(
                self.kubectl()
                    .args(["patch", rollout, "--type=merge", "-p", patch]),
            );
        }
    }

    /// A stage that only makes manifests.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self {
            cluster: ClusterHandle {
                kubeconfig: "/k".into(),
                kubectl: "/bin/kubectl".into(),
                gateway_host: "10.0.0.1:80".to_owned(),
                gateway_inside: "edge.svc:80".to_owned(),
                gateway_ref: "edge/gateway".to_owned(),
                external: true,
            },
            images: Images {
                wsroll: "registry/wsroll:1".to_owned(),
                server: "registry/server:1".to_owned(),
                redis: "registry/redis:1".to_owned(),
            },
            size: Size {
                sessions: 1000,
                pods: 10,
                probes: 10,
                budget: 50,
            },
            namespace: NAMESPACE.to_owned(),
            key: "key".to_owned(),
            wsroll: "/bin/wsroll".into(),
            work: "/tmp".into(),
            voice: Voice { terminal: false },
            definition_stays: true,
        }
    }
}

/// How long pods of `pods` may take to become ready, on a busy machine.
pub fn patience(pods: u32) -> Duration {
    Duration::from_secs(120 + 10 * u64::from(pods))
}

fn random_key() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("failed to make a random key")?;
    Ok(hex::encode(bytes))
}

/// The way from one directory to another: kustomize takes no absolute ones.
fn relative(from: &Path, to: &Path) -> String {
    let up = "../".repeat(from.components().count().saturating_sub(1));
    format!("{up}{}", to.display().to_string().trim_start_matches('/'))
}

/// An entry of kustomize's `images`.
fn kustomize_image(name: &str, reference: &str) -> Value {
    if let Some((image, digest)) = reference.split_once('@') {
        return json!({"name": name, "newName": image, "digest": digest});
    }
    match reference.rsplit_once(':') {
        Some((image, tag)) if !tag.contains('/') => json!({"name": name, "newName": image, "newTag": tag}),
        _ => json!({"name": name, "newName": reference, "newTag": "latest"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_is_smaller_but_what_is_said_counts() {
        let options = |fast, sessions| Options {
            sessions,
            fast,
            ..Options::default()
        };
        assert_eq!(Size::of(&options(false, None)).sessions, 1000);
        let fast = Size::of(&options(true, Some(300)));
        assert_eq!((fast.sessions, fast.pods), (300, 4));
    }

    #[test]
    fn what_breaks_under_load_survives_a_rehearsal() {
        let size = Stage::for_tests().size;
        assert_eq!(size.breaks_above(), 50);
        let small = Size { sessions: 40, ..size };
        assert!(small.breaks_above() > 2 * small.probes);
    }

    #[test]
    fn tokens_are_signed() {
        // printf ann.standard | openssl dgst -sha256 -hmac key
        assert_eq!(
            Stage::for_tests().token("ann"),
            "ann.standard.6022182b8b6b776b364a6346f41a690a474bcff575b1a66c81c3ac60ad8790ea"
        );
    }

    #[test]
    fn directories_are_reached_from_the_root() {
        let way = relative(Path::new("/var/cache/x"), Path::new("/src/manifests"));
        assert_eq!(way, "../../../src/manifests");
    }

    #[test]
    fn references_become_images() {
        let image = |reference| kustomize_image("n", reference);
        assert_eq!(
            image("host:5000/a/b:1"),
            json!({"name": "n", "newName": "host:5000/a/b", "newTag": "1"})
        );
        assert_eq!(image("host:5000/a/b")["newTag"], "latest");
        assert_eq!(image("a/b@sha256:12")["digest"], "sha256:12");
    }
}
