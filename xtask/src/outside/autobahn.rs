//! The Autobahn test suite, directly against an echo server and through the sidecar: a relay that changes no
//! verdict has broken nothing that the suite looks at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use super::{
    child::{Running, Scratch, free_address},
    proxy::{Kind, Proxy},
    stacks::install,
};
use crate::{
    cache, cargo, debian,
    host::{self, PYTHON},
    paths, shell,
    wait::Stopwatch,
};

/// The last Debian with the Python that the suite is written in.
const RELEASE: &str = "bullseye";
/// That Python and the libraries it is linked to.
const PACKAGES: [&str; 7] = [
    "python2.7",
    "python2.7-minimal",
    "libpython2.7",
    "libpython2.7-minimal",
    "libpython2.7-stdlib",
    "libffi7",
    "libssl1.1",
];
/// What installs into that Python. The host's pip fetches it, for that Python has none.
const INSTALLERS: [&str; 2] = ["pip==20.3.4", "setuptools==44.1.1"];
/// The suite, and the last versions of what it needs that run there.
const SUITE: [&str; 7] = [
    "autobahntestsuite==0.8.2",
    "autobahn==0.10.9",
    "Twisted==20.3.0",
    "cryptography==3.3.2",
    "pyOpenSSL==21.0.0",
    "zope.interface<6",
    "setuptools==44.1.1",
];

/// Cases without those of 9. Fewer would mean that the suite did not run.
const LEAST_CASES: usize = 463;
/// Messages in each case of 12 and 13, of 1,000.
const MESSAGES: &str = "5";
/// Verdicts that mean that the echo server can do what a case is about.
const PASSED: [&str; 3] = ["OK", "NON-STRICT", "INFORMATIONAL"];

/// How to run the suite.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The cases of 9 (limits and performance) as well, and all 1,000 messages of each case of 12 and 13: an hour
    #[arg(long)]
    all: bool,
    /// What stands between suite and server
    #[arg(long, value_enum, default_value = "sidecar")]
    through: Kind,
    /// Refuse to install packages on this host
    #[arg(long)]
    no_install: bool,
}

impl Options {
    /// What `cargo xtask test` runs.
    pub fn usual(no_install: bool) -> Self {
        Self {
            all: false,
            through: Kind::Sidecar,
            no_install,
        }
    }
}

/// The verdicts of one run, by case.
type Verdicts = BTreeMap<Case, Verdict>;

/// A case's number: `12.1.3`.
type Case = Vec<u32>;

/// What the suite says about a case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    behavior: String,
    behavior_close: String,
}

/// Why the suite cannot run here, or nothing.
pub fn obstacle() -> Option<String> {
    debian::obstacle()
}

/// Runs the suite twice and compares.
pub fn run(options: &Options) -> Result<()> {
    let watch = Stopwatch::start();
    let wsroll = cargo::wsroll()?;
    host::ensure(&PYTHON, !options.no_install)?;
    let suite = suite()?;
    let node = install::node(!options.no_install)?;
    let scratch = Scratch::new("autobahn")?;

    let echo = free_address()?;
    let mut server = Running::start(
        "echo",
        &mut node.program("ws-server.js", &[&echo.port().to_string()]),
        &scratch,
    )?;
    server.await_listening(echo)?;
    let proxy = Proxy::start(options.through, &wsroll, echo, &scratch)?;

    let name = options.through.name();
    let (direct, through) = shell::step("the suite, directly and through the proxy", || {
        let run = |name: &str, to| play(&suite, options.all, name, to, &scratch);
        std::thread::scope(|scope| {
            let direct = scope.spawn(|| run("direct", echo));
            let through = run("through", proxy.address);
            let direct = direct
                .join()
                .map_err(|_| anyhow::anyhow!("the direct run panicked"))?;
            Ok((direct?, through?))
        })
    })?;
    print(&direct, &through, name);
    check(&direct, &through).with_context(|| format!("{name} said: {}", proxy.said()))?;
    eprintln!("autobahn: done in {:.0} s", watch.elapsed().as_secs_f64());
    Ok(())
}

/// The suite with its Python, made once.
fn suite() -> Result<PathBuf> {
    let pins: Vec<&[u8]> = [RELEASE]
        .iter()
        .chain(&PACKAGES)
        .chain(&INSTALLERS)
        .chain(&SUITE)
        .map(|pin| pin.as_bytes())
        .collect();
    cache::artifact("autobahn", &pins, |dir| {
        debian::unpack_from(RELEASE, &PACKAGES, dir)?;
        let (wheels, site) = (dir.join("wheels"), dir.join("site"));
        shell::output(
            shell::command("python3")
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
                .arg(&wheels)
                .args(INSTALLERS),
        )?;
        // A wheel is an archive that Python runs from.
        let pip = wheel(&wheels, "pip-")?.join("pip");
        let files = [wheel(&wheels, "pip-")?, wheel(&wheels, "setuptools-")?];
        shell::output(
            python2(dir)
                .arg(pip)
                .args(["install", "--quiet", "--no-index", "--target"])
                .arg(&site)
                .args(files),
        )?;
        shell::output(
            python2(dir)
                .env("PYTHONPATH", &site)
                .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
                .arg(&site)
                .args(SUITE),
        )?;
        fs::remove_dir_all(&wheels)?;
        Ok(())
    })
}

fn python2(dir: &Path) -> std::process::Command {
    let mut python = shell::command(dir.join("usr/bin/python2.7"));
    python
        .env("LD_LIBRARY_PATH", dir.join(debian::LIBRARIES))
        .env("PYTHONHOME", dir.join("usr"));
    python
}

fn wheel(dir: &Path, start: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(start) {
            return Ok(entry.path());
        }
    }
    bail!("pip brought no {start}*");
}

/// One run of the suite against a server.
fn play(suite: &Path, all: bool, name: &str, server: SocketAddr, scratch: &Scratch) -> Result<Verdicts> {
    let dir = scratch.path().join(name);
    fs::create_dir_all(&dir)?;
    let reports = dir.join("reports");
    let left_out: &[&str] = if all { &[] } else { &["9.*"] };
    let spec = json!({
        "outdir": reports,
        "servers": [{ "agent": name, "url": format!("ws://{server}") }],
        "cases": ["*"],
        "exclude-cases": left_out,
        "exclude-agent-cases": {},
    });
    let spec = scratch.write(&format!("{name}.json"), &spec.to_string())?;
    let mut command = python2(suite);
    // The suite leaves files where it is started.
    command
        .current_dir(&dir)
        .arg(paths::root().join("tests/autobahn/run.py"))
        .arg(suite.join("site"))
        .arg(spec);
    if !all {
        command.arg(MESSAGES);
    }
    shell::output(&mut command)?;
    let index = reports.join("index.json");
    let text = fs::read_to_string(&index).with_context(|| format!("failed to read {}", index.display()))?;
    verdicts(&text, name)
}

fn verdicts(index: &str, agent: &str) -> Result<Verdicts> {
    let mut agents: BTreeMap<String, BTreeMap<String, Verdict>> =
        serde_json::from_str(index).context("failed to read the suite's report")?;
    let cases = agents
        .remove(agent)
        .context("the suite's report lacks the server")?;
    cases
        .into_iter()
        .map(|(case, verdict)| {
            let number: Result<Case, _> = case.split('.').map(str::parse).collect();
            Ok((
                number.with_context(|| format!("no case number: {case}"))?,
                verdict,
            ))
        })
        .collect()
}

/// Fails on any difference, and when the comparison would prove nothing.
fn check(direct: &Verdicts, through: &Verdicts) -> Result<()> {
    ensure!(
        direct.len() >= LEAST_CASES,
        "the suite ran {} cases, expected {LEAST_CASES}",
        direct.len()
    );
    let weak: Vec<String> = direct
        .iter()
        .filter(|(_, verdict)| !PASSED.contains(&verdict.behavior.as_str()))
        .map(|(case, verdict)| format!("{} {}", number(case), verdict.behavior))
        .collect();
    ensure!(
        weak.is_empty(),
        "the echo server itself fails: {}",
        weak.join(", ")
    );
    let differences = differences(direct, through);
    ensure!(
        differences.is_empty(),
        "{} verdicts differ:\n  {}",
        differences.len(),
        differences.join("\n  ")
    );
    Ok(())
}

fn differences(direct: &Verdicts, through: &Verdicts) -> Vec<String> {
    let cases: BTreeSet<&Case> = direct.keys().chain(through.keys()).collect();
    let show = |verdict: Option<&Verdict>| {
        verdict.map_or_else(
            || "not run".to_owned(),
            |verdict| format!("{} / {}", verdict.behavior, verdict.behavior_close),
        )
    };
    cases
        .into_iter()
        .filter(|case| direct.get(*case) != through.get(*case))
        .map(|case| {
            let (before, after) = (show(direct.get(case)), show(through.get(case)));
            format!("{}: {before} directly, {after} through the proxy", number(case))
        })
        .collect()
}

fn number(case: &Case) -> String {
    let parts: Vec<String> = case.iter().map(ToString::to_string).collect();
    parts.join(".")
}

fn print(direct: &Verdicts, through: &Verdicts, name: &str) {
    let groups: BTreeSet<u32> = direct.keys().filter_map(|case| case.first().copied()).collect();
    let counts = |verdicts: &Verdicts, group: u32| {
        let cases = verdicts.iter().filter(|(case, _)| case.first() == Some(&group));
        let (mut all, mut passed) = (0, 0);
        for (_, verdict) in cases {
            all += 1;
            passed += usize::from(PASSED.contains(&verdict.behavior.as_str()));
        }
        (all, passed)
    };
    println!(
        "{:>6} {:>6} {:>16} {:>16}",
        "group", "cases", "passed directly", name
    );
    for group in groups {
        let ((all, passed), (_, passed_through)) = (counts(direct, group), counts(through, group));
        println!("{group:>6} {all:>6} {passed:>16} {passed_through:>16}");
    }
    println!(
        "{} cases, {} verdicts differ",
        direct.len(),
        differences(direct, through).len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(behavior: &str) -> Verdicts {
        (0..LEAST_CASES as u32)
            .map(|n| {
                let verdict = Verdict {
                    behavior: if n == 5 { behavior } else { "OK" }.to_owned(),
                    behavior_close: "OK".to_owned(),
                };
                (vec![1, n], verdict)
            })
            .collect()
    }

    #[test]
    fn a_changed_or_missing_verdict_fails() {
        let good = run_of("OK");
        check(&good, &good).unwrap();
        let changed = check(&good, &run_of("NON-STRICT")).unwrap_err().to_string();
        assert!(
            changed.contains("1.5: OK / OK directly, NON-STRICT / OK"),
            "{changed}"
        );
        let mut fewer = good.clone();
        fewer.remove(&vec![1, 7]);
        assert!(check(&good, &fewer).is_err());
    }

    #[test]
    fn two_runs_that_prove_nothing_fail() {
        let uncompressed = run_of("UNIMPLEMENTED");
        assert!(check(&uncompressed, &uncompressed).is_err());
        assert!(check(&Verdicts::new(), &Verdicts::new()).is_err());
    }

    #[test]
    fn reads_the_report() {
        let index = r#"{"x": {"12.1.3": {"behavior": "OK", "behaviorClose": "OK", "duration": 3}}}"#;
        assert_eq!(
            verdicts(index, "x").unwrap().keys().next().unwrap(),
            &vec![12, 1, 3]
        );
    }
}
