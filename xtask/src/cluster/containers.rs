//! containerd: images in, containers out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    daemon,
    layout::{Layout, RUN_DIR, text},
    network,
};
use crate::{archive::Image, shell, wait};

/// The containerd namespace that the kubelet uses.
const NAMESPACE: &str = "k8s.io";
/// Where shims keep their sockets, whatever containerd's own directories are.
const SHIM_SOCKETS: &str = "/run/containerd/s";
/// Where runc keeps its state, likewise.
const RUNC_STATE: &str = "/run/containerd/runc/k8s.io";
/// Where the network plugins' results are kept, likewise.
const NETWORK_RESULTS: &str = "/var/lib/cni/results";

/// Where the kubelet links the containers' logs, likewise.
const LOG_LINKS: &str = "/var/log/containers";
/// Where the kubelet listens for plugins, likewise.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// Directories outside our own that the components make, innermost first: removed when empty.
const PLACES: [&str; 10] = [
    SHIM_SOCKETS,
    RUNC_STATE,
    "/run/containerd/runc",
    "/run/containerd",
    NETWORK_RESULTS,
    "/var/lib/cni",
    DEVICE_PLUGINS,
    "/var/lib/kubelet",
    LOG_LINKS,
    "/var/log/pods",
];

/// containerd's client, on our socket and the kubelet's namespace.
fn client() -> Command {
    let mut ctr = shell::command("ctr");
    ctr.arg("--address")
        .arg(Layout::containerd_socket())
        .args(["--namespace", NAMESPACE]);
    ctr
}

/// The command with which a person imports an image archive.
pub fn import_command() -> String {
    format!(
        "ctr --address {} --namespace {NAMESPACE} images import",
        text(&Layout::containerd_socket())
    )
}

/// Waits until containerd answers.
pub fn wait_ready() -> Result<()> {
    wait::until("containerd's answer", Duration::from_mins(1), || {
        shell::output(client().arg("version")).map(drop)
    })
}

/// Imports an image, unless one of that name is there.
pub fn import(layout: &Layout, reference: &str, image: impl FnOnce() -> Result<Image>) -> Result<()> {
    let listed = shell::output(client().args(["images", "list", "--quiet"]))?;
    if listed.lines().any(|line| line == reference) {
        return Ok(());
    }
    shell::step(&format!("importing {reference}"), || {
        let archive = layout
            .path("images")
            .join(format!("{}.tar", reference.replace(['/', ':'], "-")));
        image()?.write(reference, &archive)?;
        shell::output(client().args(["images", "import"]).arg(&archive))?;
        fs::remove_file(&archive).context("failed to remove the archive")
    })
}

/// Ends all containers at once, without containerd, which must be stopped: their processes, what keeps
/// watch over them, mounts, control groups, and the traces outside our own directories.
pub fn remove_all(layout: &Layout) -> Result<()> {
    let bundles = bundles();
    let shims = daemon::processes_with(&text(&Layout::containerd_socket()));
    let inside = daemon::descendants(&shims);
    for pid in shims.iter().chain(&inside) {
        daemon::signal("KILL", *pid);
    }
    let alive = || inside.iter().chain(&shims).any(|pid| daemon::is_alive(*pid));
    wait::until("the end of all containers", Duration::from_secs(20), || {
        anyhow::ensure!(!alive(), "some still run");
        Ok(())
    })?;
    unmount(layout)?;
    for bundle in &bundles {
        if let Some(id) = bundle.file_name() {
            let _ = fs::remove_dir_all(Path::new(RUNC_STATE).join(id));
        }
        // Written by the shim: `unix:///run/containerd/s/<hash>`.
        let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
        if let Some(socket) = address
            .strip_prefix("unix://")
            .filter(|path| path.starts_with(SHIM_SOCKETS))
        {
            let _ = fs::remove_file(socket);
        }
    }
    remove_network_results(&bundles);
    remove_log_links(layout);
    // A killed kubelet leaves it.
    let _ = fs::remove_file(format!("{DEVICE_PLUGINS}/kubelet.sock"));
    for dir in PLACES {
        // Fails where something is in it: another containerd may live there.
        let _ = fs::remove_dir(dir);
    }
    remove_control_groups();
    Ok(())
}

/// Unmounts all below our directories, innermost first.
fn unmount(layout: &Layout) -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("failed to read the mounts")?;
    for dir in [RUN_DIR, &text(layout.dir())] {
        for path in network::mounts_below(&mounts, dir) {
            shell::succeeds(shell::command("umount").args(["-l", &path]));
        }
    }
    Ok(())
}

/// One directory per container, as containerd left it.
fn bundles() -> Vec<PathBuf> {
    let dir = Path::new(RUN_DIR)
        .join("containerd/io.containerd.runtime.v2.task")
        .join(NAMESPACE);
    fs::read_dir(dir)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default()
}

/// Removes the notes about our containers' addresses: files named `<network>-<container>-<interface>`.
fn remove_network_results(bundles: &[PathBuf]) {
    let Ok(entries) = fs::read_dir(NETWORK_RESULTS) else {
        return;
    };
    let ids: Vec<_> = bundles
        .iter()
        .filter_map(|bundle| Some(bundle.file_name()?.to_string_lossy()))
        .collect();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ids.iter().any(|id| name.contains(&**id)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes the links to logs below our state.
fn remove_log_links(layout: &Layout) {
    let Ok(entries) = fs::read_dir(LOG_LINKS) else {
        return;
    };
    for entry in entries.flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(layout.dir())) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes the pods' control groups, which are empty by now, under every controller.
fn remove_control_groups() {
    let Ok(mounts) = fs::read_to_string("/proc/mounts") else {
        return;
    };
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(path), Some(kind)) = (fields.nth(1), fields.next()) else {
            continue;
        };
        if kind.starts_with("cgroup") {
            remove_group(&Path::new(path).join("kubepods"));
        }
    }
}

/// Control groups go from the innermost out; their files are no obstacle.
fn remove_group(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
