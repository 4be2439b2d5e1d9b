//! The images of tests and demo: wsroll, the example service, and Redis, each named by its content.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{archive::Image, cargo, cluster::ClusterHandle, host, shell};

/// References of images that the cluster can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The operator; the same program is `wsroll load` and `wsroll probe`.
    pub wsroll: String,
    /// The example service.
    pub server: String,
    /// Redis, listening for everybody and keeping nothing on disk.
    pub redis: String,
}

/// Where programs live in our images.
const PROGRAMS: &str = "/usr/local/bin";

/// Redis's program under the name its package gives it; it serves when called `redis-server`.
const REDIS_PROGRAM: &str = "redis-check-rdb";

/// Redis's client, by which tests end a server in its container.
const REDIS_CLIENT: &str = "redis-cli";

/// Builds the images and puts them into the cluster. In a cluster that is not ours they must be there
/// already: then their references come from the environment. So they do wherever it names all of them.
pub fn build(cluster: &ClusterHandle, install: bool) -> Result<Images> {
    let told = told(|name| std::env::var(name).ok());
    if cluster.external || told.is_ok() {
        return told;
    }
    host::ensure(&host::REDIS, install)?;
    let programs = cargo::build_programs()?;
    let ours = |name: &str| -> Result<Image> {
        let path = format!("{PROGRAMS}/{name}");
        Image::new(&[&path])
            .program(&without_debug_info(&programs.join(name)), &path)?
            .system()?
            .certificates()
    };
    let found = |name: &str| shell::which(name).with_context(|| format!("{name} is not in the search path"));
    let redis = redis_image(&found(REDIS_PROGRAM)?, &found(REDIS_CLIENT)?)?;
    Ok(Images {
        wsroll: put(cluster, "wsroll", &ours("wsroll")?)?,
        server: put(cluster, "session-server", &ours("session-server")?)?,
        redis: put(cluster, "redis", &redis)?,
    })
}

fn redis_image(program: &Path, client: &Path) -> Result<Image> {
    let path = format!("{PROGRAMS}/redis-server");
    let settings = "--bind 0.0.0.0 --protected-mode no --appendonly no --dir /tmp --save";
    let start: Vec<&str> = [path.as_str()]
        .into_iter()
        .chain(settings.split(' '))
        .chain([""])
        .collect();
    Image::new(&start)
        .program(program, &path)?
        .program(client, &format!("{PROGRAMS}/{REDIS_CLIENT}"))?
        .system()
}

fn put(cluster: &ClusterHandle, name: &str, image: &Image) -> Result<String> {
    let reference = format!("docker.io/wsroll/{name}:{}", image.tag());
    cluster.import(&reference, || Ok(image.clone()))?;
    Ok(reference)
}

/// A copy without debug information, which is most of a development build; names in backtraces stay.
fn without_debug_info(program: &Path) -> PathBuf {
    let stripped = program.with_extension("stripped");
    let strip = shell::output(
        shell::command("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(&stripped)
            .arg(program),
    );
    if strip.is_ok() {
        stripped
    } else {
        program.to_path_buf()
    }
}

/// The references that somebody who brings a cluster tells.
fn told(variable: impl Fn(&str) -> Option<String>) -> Result<Images> {
    let reference = |name: &str, what: &str| match variable(name) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => bail!(
            "KUBECONFIG names a cluster that is not ours: push an image of {what} to a registry it reads and set {name}"
        ),
    };
    Ok(Images {
        wsroll: reference("WSROLL_E2E_OPERATOR_IMAGE", "wsroll (see Dockerfile)")?,
        server: reference(
            "WSROLL_E2E_SERVER_IMAGE",
            "examples/session-server (see Dockerfile)",
        )?,
        redis: reference("WSROLL_E2E_REDIS_IMAGE", "Redis")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_cluster_needs_references() {
        let missing = told(|_| None).unwrap_err().to_string();
        assert!(missing.contains("WSROLL_E2E_OPERATOR_IMAGE"), "{missing}");
        let told = told(|name| Some(format!("registry/{}", name.len()))).unwrap();
        assert_eq!(told.wsroll, "registry/25");
    }

    #[test]
    fn redis_saves_nothing() {
        let sh = shell::which("sh").unwrap();
        let image = redis_image(&sh, &sh).unwrap();
        assert!(format!("{image:?}").contains("\"--save\", \"\""));
    }
}
