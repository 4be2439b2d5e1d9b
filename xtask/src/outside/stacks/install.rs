//! The stacks: their programs in `tests/stacks`, their pinned dependencies in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cache,
    host::{self, NODE, PYTHON},
    paths, shell, toolchain,
};

/// Programs of one language with what they depend on.
#[derive(Debug, Clone)]
pub struct Stack {
    language: Language,
    dependencies: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Language {
    Node,
    Python,
    Go,
}

impl Stack {
    /// A program of it; `arguments` follow.
    pub fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = match self.language {
            Language::Node => {
                let mut node = shell::command("node");
                node.env("NODE_PATH", self.dependencies.join("node_modules"))
                    .arg(source("node").join(program));
                node
            }
            Language::Python => {
                let mut python = shell::command("python3");
                python
                    .env("PYTHONPATH", &self.dependencies)
                    .env("PYTHONDONTWRITEBYTECODE", "1")
                    .arg(source("python").join(program));
                python
            }
            Language::Go => {
                let mut go = shell::command(self.dependencies.join("stacks"));
                go.arg(program);
                go
            }
        };
        command.args(arguments);
        command
    }
}

/// Node's programs.
pub fn node(install: bool) -> Result<Stack> {
    host::ensure(&NODE, install)?;
    let dependencies = made_from("node", &["package.json", "package-lock.json"], |dir| {
        shell::output(
            shell::command("npm")
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
                .current_dir(dir),
        )
    })?;
    Ok(Stack {
        language: Language::Node,
        dependencies,
    })
}

/// Python's programs.
pub fn python(install: bool) -> Result<Stack> {
    host::ensure(&PYTHON, install)?;
    let dependencies = made_from("python", &["requirements.txt"], |dir| {
        shell::output(
            shell::command("python3")
                .args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"])
                .args(["--only-binary=:all:", "--target", ".", "-r", "requirements.txt"])
                .current_dir(dir),
        )
    })?;
    Ok(Stack {
        language: Language::Python,
        dependencies,
    })
}

/// Go's one program.
pub fn go() -> Result<Stack> {
    let dependencies = made_from("go", &["go.mod", "go.sum", "main.go"], |dir| {
        shell::output(
            shell::command(toolchain::go()?)
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-mod=readonly -buildvcs=false")
                .args(["build", "-trimpath", "-o", "stacks", "."])
                .current_dir(dir),
        )
    })?;
    Ok(Stack {
        language: Language::Go,
        dependencies,
    })
}

/// A directory in the cache with copies of `files` and what `make` adds to them.
fn made_from(language: &str, files: &[&str], make: impl FnOnce(&Path) -> Result<String>) -> Result<PathBuf> {
    let mut contents = Vec::new();
    for file in files {
        let path = source(language).join(file);
        contents.push(fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?);
    }
    let inputs: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    cache::artifact(&format!("stacks-{language}"), &inputs, |dir| {
        for (file, content) in files.iter().zip(&contents) {
            fs::write(dir.join(file), content)?;
        }
        make(dir).map(drop)
    })
}

fn source(language: &str) -> PathBuf {
    paths::root().join("tests/stacks").join(language)
}
