//! The host's part in the pods' network: a bridge, two kernel switches, two firewall rules. Each is
//! taken back by [`remove`].

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::layout::{BRIDGE, Layout, NODE_ADDRESS, RULE_COMMENT, text};
use crate::shell;

/// Kernel switches that pods and services need.
const SWITCHES: [&str; 2] = ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"];

/// Fails when another Kubernetes node runs on this host: its rules and ours would fight.
pub fn refuse_a_second_node() -> Result<()> {
    let rules = shell::output(&mut shell::command("iptables-save")).context("failed to read the firewall")?;
    if rules.contains(":KUBE-SERVICES ") {
        bail!(
            "another Kubernetes node runs on this host (its firewall rules are there): \
             set KUBECONFIG to use that cluster, or stop it first"
        );
    }
    Ok(())
}

/// Makes the bridge, with the node's address before the kubelet asks for it, and lets packets through.
pub fn prepare(layout: &Layout) -> Result<()> {
    let ip = |arguments: &str| shell::output(shell::command("ip").args(arguments.split(' ')));
    if ip(&format!("link show {BRIDGE}")).is_err() {
        // A fixed hardware address: otherwise it changes with every pod and neighbours lose it.
        ip(&format!(
            "link add {BRIDGE} address 0a:58:0a:f4:00:01 type bridge"
        ))?;
    }
    if !ip(&format!("-4 addr show dev {BRIDGE}"))?.contains(NODE_ADDRESS) {
        ip(&format!("addr add {NODE_ADDRESS}/20 dev {BRIDGE}"))?;
    }
    ip(&format!("link set {BRIDGE} up"))?;
    // Built in or already there on many hosts: what counts is the switch below.
    shell::succeeds(shell::command("modprobe").arg("br_netfilter"));
    for switch in SWITCHES {
        turn_on(layout, switch)?;
    }
    for direction in ["-i", "-o"] {
        let rule = forward_rule(direction);
        if !shell::succeeds(shell::command("iptables").args(["-w", "-C"]).args(&rule)) {
            shell::output(shell::command("iptables").args(["-w", "-I"]).args(&rule))?;
        }
    }
    Ok(())
}

/// Takes everything back: rules of the proxy and ours, the bridge with what hangs on it, the switches.
pub fn remove(layout: &Layout) -> Result<()> {
    if layout.program("kube-proxy").exists() {
        // It speaks of what it finds missing, and that is no failure.
        shell::succeeds(shell::command(layout.program("kube-proxy")).arg("--cleanup"));
    }
    for direction in ["-i", "-o"] {
        shell::succeeds(
            shell::command("iptables")
                .args(["-w", "-D"])
                .args(forward_rule(direction)),
        );
    }
    if shell::which("iptables-save").is_some() {
        for program in ["iptables", "ip6tables"] {
            remove_kube_rules(program)?;
        }
    }
    for link in links()? {
        shell::output(shell::command("ip").args(["link", "delete", &link]))?;
    }
    for switch in SWITCHES {
        let noted = note_of(layout, switch);
        if let Ok(before) = fs::read_to_string(&noted) {
            fs::write(format!("/proc/sys/{switch}"), before).context("failed to restore a kernel switch")?;
            fs::remove_file(noted).context("failed to drop a note")?;
        }
    }
    Ok(())
}

/// Rules that would let packets from and to pods through where the host's policy drops forwarded ones.
fn forward_rule(direction: &str) -> Vec<&str> {
    vec![
        "FORWARD",
        direction,
        BRIDGE,
        "-m",
        "comment",
        "--comment",
        RULE_COMMENT,
        "-j",
        "ACCEPT",
    ]
}

/// Sets a switch to 1 and notes what it was.
fn turn_on(layout: &Layout, switch: &str) -> Result<()> {
    let path = format!("/proc/sys/{switch}");
    let before = fs::read_to_string(&path)
        .with_context(|| format!("this kernel has no {path}: load the module br_netfilter"))?;
    if before.trim() != "1" {
        fs::write(note_of(layout, switch), before).context("failed to note a kernel switch")?;
        fs::write(&path, "1").with_context(|| format!("failed to write {path}"))?;
    }
    Ok(())
}

fn note_of(layout: &Layout, switch: &str) -> PathBuf {
    layout.path(&format!("before-{}", switch.replace('/', "-")))
}

/// The bridge and the ends of pods' cables on it.
fn links() -> Result<Vec<String>> {
    if !shell::succeeds(shell::command("ip").args(["link", "show", BRIDGE])) {
        return Ok(Vec::new());
    }
    let listed = shell::output(shell::command("ip").args(["-o", "link", "show", "master", BRIDGE]))?;
    Ok(link_names(&listed)
        .into_iter()
        .chain([BRIDGE.to_owned()])
        .collect())
}

/// Names in `ip -o link`: `7: veth12ab@if2: <…`.
fn link_names(listed: &str) -> Vec<String> {
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    listed.lines().filter_map(name).collect()
}

/// Removes chains that kubelet and proxy made and every rule that leads into one. Nobody else's:
/// the start refuses a host where such chains exist.
fn remove_kube_rules(program: &str) -> Result<()> {
    for table in ["raw", "mangle", "nat", "filter"] {
        let saved =
            shell::output(shell::command(format!("{program}-save")).args(["-t", table])).unwrap_or_default();
        let script = removal_script(table, &saved);
        if !script.is_empty() {
            let mut restore = shell::command(format!("{program}-restore"));
            shell::output_with_input(restore.args(["-w", "--noflush"]), &script)?;
        }
    }
    Ok(())
}

/// The input for `iptables-restore` that undoes the proxy's and kubelet's part of a saved table.
fn removal_script(table: &str, saved: &str) -> String {
    let chains: Vec<&str> = saved
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
        .filter(|chain| chain.starts_with("KUBE-"))
        .collect();
    if chains.is_empty() {
        return String::new();
    }
    let ends = saved
        .lines()
        .filter(|line| line.starts_with("-A ") && !line.starts_with("-A KUBE-") && line.contains("-j KUBE-"))
        .map(|rule| format!("-D {}", &rule[3..]));
    let chains = |action: &'static str| chains.iter().map(move |chain| format!("{action} {chain}"));
    let lines: Vec<String> = ends.chain(chains("-F")).chain(chains("-X")).collect();
    format!(
        "*{table}
{}
COMMIT
",
        lines.join(
            "
"
        )
    )
}

/// What of ours is still there, in words; empty after a clean stop.
pub fn leftovers(layout: &Layout) -> Vec<String> {
    let mut found = Vec::new();
    if shell::succeeds(shell::command("ip").args(["link", "show", BRIDGE])) {
        found.push(format!("link {BRIDGE}"));
    }
    let rules = shell::output(&mut shell::command("iptables-save")).unwrap_or_default();
    found.extend(
        rules
            .lines()
            .filter(|line| line.contains("KUBE-") || line.contains(RULE_COMMENT))
            .map(|line| format!("firewall rule {line}")),
    );
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    found.extend(
        mounts_below(&mounts, &text(layout.dir()))
            .into_iter()
            .map(|path| format!("mount {path}")),
    );
    found
}

/// Mount points at or below a directory, innermost first.
pub fn mounts_below(mounts: &str, dir: &str) -> Vec<String> {
    let inside = format!("{dir}/");
    let mut found: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| *path == dir || path.starts_with(&inside))
        .map(ToOwned::to_owned)
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_only_kube_rules() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n:KUBE-SERVICES - [0:0]\n\
                     -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                     -A PREROUTING -j DOCKER\n-A KUBE-SERVICES -j RETURN\nCOMMIT\n";
        assert_eq!(
            removal_script("nat", saved),
            "*nat\n-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -F KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n"
        );
        assert_eq!(
            removal_script("nat", ":DOCKER - [0:0]\n-A PREROUTING -j DOCKER\n"),
            ""
        );
    }

    #[test]
    fn inner_mounts_come_first() {
        let mounts = "tmpfs /a tmpfs rw 0 0\ntmpfs /a/b tmpfs rw 0 0\ntmpfs /ab tmpfs rw 0 0\n";
        assert_eq!(mounts_below(mounts, "/a"), ["/a/b", "/a"]);
    }

    #[test]
    fn reads_link_names() {
        let listed = "7: veth12ab@if2: <BROADCAST> mtu 1500 master wsroll0\n8: vethcd: <UP> mtu 1500\n";
        assert_eq!(link_names(listed), ["veth12ab", "vethcd"]);
    }
}
