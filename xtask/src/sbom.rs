//! What the released program is made of, as `CycloneDX` 1.5 (<https://cyclonedx.org/docs/1.5/json/>): the crates that are linked into it or
//! build it, with versions, licences and the checksums of the lock file. Nothing is downloaded, and nothing in it changes unless a
//! dependency does: it has neither date nor serial number.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{cargo, paths, shell};

/// The package whose program is described.
const PROGRAM: &str = "wsroll";

/// Prints it.
pub fn run() -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&document()?)?);
    Ok(())
}

fn document() -> Result<Value> {
    let metadata = shell::output(cargo::command().args(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("failed to read cargo's metadata")?;
    let lock = fs::read_to_string(paths::root().join("Cargo.lock")).context("failed to read Cargo.lock")?;
    let tree = [
        "tree",
        "--locked",
        "--package",
        PROGRAM,
        "--edges",
        "normal,build",
        "--target",
        "all",
        "--prefix",
        "none",
    ];
    let tree = shell::output(cargo::command().args(tree))?;
    describe(&metadata, &checksums(&lock), &built(&tree))
}

/// Names and versions that cargo's tree shows: what is really built. The metadata knows of more, for it counts optional dependencies that
/// a feature would have if they were there.
fn built(tree: &str) -> BTreeSet<(&str, &str)> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect()
}

fn describe(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    built: &BTreeSet<(&str, &str)>,
) -> Result<Value> {
    let mut packages = by_id(&metadata["packages"]);
    packages.retain(|_, package| built.contains(&(text(&package["name"]), text(&package["version"]))));
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let members: BTreeSet<&str> = list(&metadata["workspace_members"])
        .filter_map(Value::as_str)
        .collect();
    let root = packages
        .iter()
        .find(|(id, package)| members.contains(*id) && package["name"] == PROGRAM)
        .map(|(id, _)| *id)
        .with_context(|| format!("no package {PROGRAM} in the workspace"))?;

    let mut reached = BTreeSet::from([root]);
    let mut waiting = vec![root];
    let mut edges = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        let mut needed: BTreeSet<&str> = nodes.get(id).map(|node| needed(node)).unwrap_or_default();
        needed.retain(|id| packages.contains_key(id));
        waiting.extend(needed.iter().filter(|id| reached.insert(**id)));
        edges.insert(id, needed);
    }
    let reference = |id: &str| packages.get(id).map(|package| purl(package)).unwrap_or_default();
    let components: Vec<Value> = reached
        .iter()
        .filter(|id| **id != root)
        .filter_map(|id| packages.get(id))
        .map(|package| component(package, "library", checksums))
        .collect();
    let dependencies: Vec<Value> = edges
        .iter()
        .map(|(id, needed)| {
            let needed: Vec<String> = needed.iter().map(|id| reference(id)).collect();
            json!({"ref": reference(id), "dependsOn": needed})
        })
        .collect();
    let program = packages.get(root).context("the program is no package")?;
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": component(program, "application", checksums)},
        "components": components,
        "dependencies": dependencies,
    }))
}

/// What a package needs to be built and to run; what only its tests need is left out.
fn needed(node: &Value) -> BTreeSet<&str> {
    list(&node["deps"])
        .filter(|dependency| list(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev"))
        .filter_map(|dependency| dependency["pkg"].as_str())
        .collect()
}

fn component(package: &Value, kind: &str, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let mut component = json!({"type": kind, "bom-ref": purl(package), "name": name, "version": version, "purl": purl(package)});
    if let Some(licence) = package["license"].as_str() {
        // Some crates still write the slash of old.
        component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
    }
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

fn purl(package: &Value) -> String {
    format!(
        "pkg:cargo/{}@{}",
        text(&package["name"]),
        text(&package["version"])
    )
}

/// The checksums of a lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.and_then(|rest| rest.strip_suffix('"')).map(str::to_owned)
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            Some((
                (value(block, "name")?, value(block, "version")?),
                value(block, "checksum")?,
            ))
        })
        .collect()
}

fn by_id(items: &Value) -> BTreeMap<&str, &Value> {
    list(items)
        .filter_map(|item| Some((item["id"].as_str()?, item)))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_described_wholly_and_without_what_only_tests_need() {
        let document = document().unwrap();
        let names: BTreeSet<&str> = list(&document["components"]).map(|c| text(&c["name"])).collect();
        for there in ["rustls", "kube", "tokio", "rcgen"] {
            assert!(names.contains(there), "{there}");
        }
        for absent in [
            "proptest",
            "rstest",
            "session-server",
            "openssl",
            "ring",
            "x509-parser",
        ] {
            assert!(!names.contains(absent), "{absent}");
        }
        let references: BTreeSet<&str> = list(&document["dependencies"]).map(|d| text(&d["ref"])).collect();
        assert_eq!(
            references.len(),
            list(&document["components"]).count() + 1,
            "all of them, each once"
        );
        for dependency in list(&document["dependencies"]) {
            for needed in list(&dependency["dependsOn"]) {
                assert!(references.contains(text(needed)), "{needed}");
            }
        }
        for component in list(&document["components"]) {
            assert_eq!(text(&component["hashes"][0]["content"]).len(), 64, "{component}");
            assert!(component["licenses"].is_array(), "{component}");
        }
    }
}
