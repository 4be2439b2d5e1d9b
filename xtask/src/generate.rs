//! Files that are written by programs and kept in the repository.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, paths, shell};

/// The definition of our resource, in every place that carries it.
const CRD_FILES: [&str; 3] = [
    "crds/wsroll.dev_websocketrollouts.yaml",
    "charts/wsroll/crds/wsroll.dev_websocketrollouts.yaml",
    "manifests/base/wsroll.dev_websocketrollouts.yaml",
];

/// Writes them, or with `check` compares and fails with the difference.
pub fn run(check: bool) -> Result<()> {
    let definition = shell::output(shell::command(cargo::build_programs()?.join("wsroll")).arg("crd"))?;
    let mut stale = Vec::new();
    for file in CRD_FILES {
        let path = paths::root().join(file);
        if fs::read_to_string(&path).is_ok_and(|present| present == definition) {
            continue;
        }
        if check {
            stale.push((file, path));
            continue;
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
        }
        fs::write(&path, &definition).with_context(|| format!("failed to write {file}"))?;
        eprintln!("written: {file}");
    }
    match stale.first() {
        None => Ok(()),
        Some((_, path)) => {
            show_difference(path, &definition)?;
            let names: Vec<&str> = stale.iter().map(|(file, _)| *file).collect();
            bail!("stale: {}; write them with `cargo xtask gen`", names.join(", "))
        }
    }
}

/// Prints what would change; files of megabytes have no use here, so the first hundred lines do.
fn show_difference(path: &PathBuf, wanted: &str) -> Result<()> {
    let fresh = std::env::temp_dir().join(format!("wsroll-gen-{}", std::process::id()));
    fs::write(&fresh, wanted).context("failed to write a temporary file")?;
    let compared = shell::command("diff").arg("-uN").arg(path).arg(&fresh).output();
    let _ = fs::remove_file(&fresh);
    let compared = compared.context("failed to start diff")?;
    for line in String::from_utf8_lossy(&compared.stdout).lines().take(100) {
        println!("{line}");
    }
    Ok(())
}
