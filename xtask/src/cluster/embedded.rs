//! The embedded Kubernetes: one node on this host, from programs we build.

use std::{fs, os::unix::fs::symlink, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    ClusterHandle, Options,
    addons::{self, Addons},
    components, containers,
    daemon::Daemon,
    layout::{GATEWAY_SERVICE, Layout, RUN_DIR, text},
    network, obstacle, pki,
};
use crate::{cache, host, paths, shell, toolchain, wait};

/// How long the API server may take on a busy host.
const API_PATIENCE: Duration = Duration::from_mins(3);

/// Starts it, or what is missing of it.
pub fn up(options: Options) -> Result<ClusterHandle> {
    if let Some(reason) = obstacle() {
        bail!("{reason}");
    }
    let layout = Layout::new(paths::state_dir());
    let _one_at_a_time = cache::lock("cluster")?;
    host::ensure(&host::CLUSTER, options.install)?;
    let program = toolchain::go_module("kubecluster")?;
    let addons = Addons::prepare()?;
    let cluster = handle(&layout);

    let running = daemons(&layout)
        .iter()
        .filter(|daemon| daemon.pid().is_some())
        .count();
    let same_program = fs::read_link(layout.program("kubelet")).is_ok_and(|link| link == program);
    if running == components::ORDER.len() && same_program && answers(&cluster) {
        addons.import(&layout)?;
        addons.apply(&cluster, &layout)?;
        return Ok(cluster);
    }
    eprintln!("starting the embedded Kubernetes in {}", layout.dir().display());
    if layout.dir().exists() && (running == 0 || !same_program) {
        // What a crash left is not worth trusting, and an older program is not what was asked for.
        shell::step("removing what is left of an earlier one", || remove(&layout))?;
    }
    if running == 0 {
        network::refuse_a_second_node()?;
    }
    for dir in layout.directories() {
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    }
    link_programs(&layout, &program)?;
    shell::step("certificates, network", || {
        pki::ensure(&layout)?;
        network::prepare(&layout)?;
        components::write_configuration(&layout)
    })?;
    start(&layout, &cluster, &addons)?;
    addons.apply(&cluster, &layout)?;
    Ok(cluster)
}

/// The handle of a cluster that runs and answers.
pub fn running() -> Option<ClusterHandle> {
    let layout = Layout::new(paths::state_dir());
    let cluster = handle(&layout);
    let all = daemons(&layout).iter().all(|daemon| daemon.pid().is_some());
    (all && answers(&cluster)).then_some(cluster)
}

/// Prints every component with what it costs, and whether names and gateway answer.
pub fn status() -> Result<()> {
    let layout = Layout::new(paths::state_dir());
    let daemons = daemons(&layout);
    if daemons.iter().all(|daemon| daemon.pid().is_none()) {
        println!("the embedded cluster does not run");
        return Ok(());
    }
    let cluster = handle(&layout);
    println!("state       {}", layout.dir().display());
    println!("KUBECONFIG  {}", cluster.kubeconfig.display());
    println!("kubectl     {}", cluster.kubectl.display());
    println!(
        "gateway     {} (pods: {})",
        cluster.gateway_host, cluster.gateway_inside
    );
    println!("images      {} <archive>", containers::import_command());
    let mut whole = true;
    for daemon in &daemons {
        if let Some(pid) = daemon.pid() {
            println!("{:<24} runs, pid {pid}, {} MiB", daemon.name(), resident_mib(pid));
        } else {
            whole = false;
            println!(
                "{:<24} ENDED, see {}",
                daemon.name(),
                layout.log(daemon.name()).display()
            );
        }
    }
    let checks = [
        (
            "API server",
            shell::output(cluster.kubectl().args(["get", "--raw", "/readyz"])).map(drop),
        ),
        ("names", addons::check_names()),
        ("gateway", addons::check_gateway()),
    ];
    for (what, result) in checks {
        match result {
            Ok(()) => println!("{what:<24} answers"),
            Err(error) => {
                whole = false;
                println!("{what:<24} FAILS: {error:#}");
            }
        }
    }
    if !whole {
        bail!("the cluster is not whole: `cargo xtask cluster up` starts what is missing");
    }
    Ok(())
}

/// Stops everything and removes every trace.
pub fn down() -> Result<()> {
    if let Some(reason) = obstacle() {
        bail!("{reason}");
    }
    let layout = Layout::new(paths::state_dir());
    let _one_at_a_time = cache::lock("cluster")?;
    remove(&layout)?;
    let left = network::leftovers(&layout);
    if !left.is_empty() {
        bail!("stopped, but this is left:\n  {}", left.join("\n  "));
    }
    println!("the embedded cluster is gone");
    Ok(())
}

fn remove(layout: &Layout) -> Result<()> {
    for daemon in daemons(layout).iter().rev() {
        daemon.stop()?;
    }
    containers::remove_all(layout)?;
    network::remove(layout)?;
    for dir in [RUN_DIR, &text(layout.dir())] {
        if let Err(error) = fs::remove_dir_all(dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("failed to remove {dir}"));
        }
    }
    Ok(())
}

/// Starts the processes; images go in while the API server comes up.
fn start(layout: &Layout, cluster: &ClusterHandle, addons: &Addons) -> Result<()> {
    let start = |name: &'static str| Daemon::new(layout, name).start(&components::arguments(layout, name));
    let [etcd, containerd, apiserver, rest @ ..] = components::ORDER;
    for name in [etcd, containerd, apiserver] {
        start(name)?;
    }
    std::thread::scope(|scope| {
        let images = scope.spawn(|| {
            containers::wait_ready()?;
            addons.import(layout)
        });
        let api = shell::step("waiting for the API server", || {
            wait::until("the API server's answer", API_PATIENCE, || {
                for name in [etcd, apiserver] {
                    Daemon::new(layout, name).check()?;
                }
                shell::output(cluster.kubectl().args(["get", "--raw", "/readyz"])).map(drop)
            })
        });
        let images = images
            .join()
            .unwrap_or_else(|_| bail!("the import of images was interrupted"));
        api.and(images)
    })?;
    for name in rest {
        start(name)?;
    }
    wait::until("the node", API_PATIENCE, || {
        for daemon in daemons(layout) {
            daemon.check()?;
        }
        shell::output(cluster.kubectl().args(["get", "node", super::layout::NODE])).map(drop)
    })
}

fn daemons(layout: &Layout) -> Vec<Daemon> {
    components::ORDER
        .iter()
        .map(|name| Daemon::new(layout, name))
        .collect()
}

fn handle(layout: &Layout) -> ClusterHandle {
    ClusterHandle {
        kubeconfig: layout.kubeconfig(),
        kubectl: layout.program("kubectl"),
        gateway_host: format!("{GATEWAY_SERVICE}:80"),
        gateway_inside: "traefik.wsroll-gateway.svc:80".to_owned(),
        gateway_ref: "wsroll-gateway/gateway".to_owned(),
        external: false,
    }
}

fn answers(cluster: &ClusterHandle) -> bool {
    shell::succeeds(
        cluster
            .kubectl()
            .args(["get", "--raw", "/readyz", "--request-timeout=5s"]),
    )
}

/// Every component under the name it is called by, all the same program but containerd.
fn link_programs(layout: &Layout, program: &std::path::Path) -> Result<()> {
    for name in components::ORDER.into_iter().chain(["kubectl"]) {
        let target = match name {
            "containerd" => shell::which(name).context("containerd is not in the search path")?,
            _ => program.to_path_buf(),
        };
        let link = layout.program(name);
        let _ = fs::remove_file(&link);
        symlink(&target, &link).with_context(|| format!("failed to link {}", link.display()))?;
    }
    Ok(())
}

/// Memory in use, from `/proc`.
fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or_default()
        / 1024
}
