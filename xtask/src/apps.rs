//! Applications of other stacks: what end-to-end tests roll out, and hold sessions with or in, beside our own service. Each is a
//! directory of sources with locked dependencies; here they become images, and programs that this host runs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::{
    archive::Image,
    cache, cargo,
    cluster::{self, ClusterHandle},
    host, paths, shell, toolchain,
};

/// Where an application's files are in its image.
const APP: &str = "/app";

/// An application: its name, its directory in the checkout, and what it is written in.
#[derive(Debug, Clone, Copy)]
struct App {
    name: &'static str,
    dir: &'static str,
    stack: Stack,
}

/// What an application is written in: how it is built and started.
#[derive(Debug, Clone, Copy)]
enum Stack {
    /// Dependencies by `npm ci`; a container is told which script to run.
    Node,
    /// Dependencies by pip, of pure Python; likewise.
    Python,
    /// One static program.
    Go,
    /// A program of this workspace.
    Rust,
    /// Not an application but what one keeps its sessions in: Debian's server, and a script that starts it.
    Postgres,
}

/// All of them.
const APPS: [App; 8] = [
    app("node", "tests/e2e/apps/node", Stack::Node),
    app("python", "tests/e2e/apps/python", Stack::Python),
    app("go", "tests/e2e/apps/go", Stack::Go),
    app("native-node", "examples/native/node", Stack::Node),
    app("native-python", "examples/native/python", Stack::Python),
    app("native-go", "examples/native/go", Stack::Go),
    app("native-rust", "examples/native/rust", Stack::Rust),
    app("postgres", "tests/e2e/apps/postgres", Stack::Postgres),
];

const fn app(name: &'static str, dir: &'static str, stack: Stack) -> App {
    App { name, dir, stack }
}

/// How tests use an application; printed as JSON.
#[derive(Debug, Serialize)]
pub struct Prepared {
    /// The image, as the cluster knows it.
    image: String,
    /// The directory of its sources.
    dir: PathBuf,
    /// How its programs are started on this host; scripts follow.
    run: Vec<PathBuf>,
    /// The environment that it takes for that.
    env: BTreeMap<&'static str, PathBuf>,
}

/// Builds an application and puts its image into the cluster, which must run.
pub fn prepare(name: &str, install: bool) -> Result<Prepared> {
    let Some(app) = APPS.iter().find(|app| app.name == name) else {
        let known: Vec<_> = APPS.iter().map(|app| app.name).collect();
        bail!("there is no application {name}: there are {}", known.join(", "));
    };
    let Some(cluster) = cluster::running()? else {
        bail!("no cluster runs: start it with `cargo xtask cluster up`");
    };
    let dir = paths::root().join(app.dir);
    match app.stack {
        Stack::Node => node(&cluster, app, dir, install),
        Stack::Python => python(&cluster, app, dir, install),
        Stack::Go => {
            let sources = sources(&dir)?;
            let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
            let program = toolchain::go_program(&format!("app-{}", app.name), &dir, &sources, "-s -w")?;
            compiled(&cluster, app, dir, program)
        }
        Stack::Rust => {
            let program = cargo::build_package(&dir)?;
            compiled(&cluster, app, dir, program)
        }
        Stack::Postgres => {
            host::ensure(&host::POSTGRES, install)?;
            Ok(Prepared {
                image: put(&cluster, app, postgres(&dir)?)?,
                dir,
                run: Vec::new(),
                env: BTreeMap::new(),
            })
        }
    }
}

fn node(cluster: &ClusterHandle, app: &App, dir: PathBuf, install: bool) -> Result<Prepared> {
    host::ensure(&host::NODE, install)?;
    let manifests = ["package.json", "package-lock.json"];
    let read = |file: &str| fs::read(dir.join(file)).with_context(|| format!("failed to read {file}"));
    let inputs = [read(manifests[0])?, read(manifests[1])?];
    let built = cache::artifact(&format!("app-{}", app.name), &[&inputs[0], &inputs[1]], |fresh| {
        for (file, content) in manifests.iter().zip(&inputs) {
            fs::write(fresh.join(file), content)?;
        }
        // No scripts of strangers: what is needed here has none.
        let quiet = ["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"];
        shell::output(shell::command("npm").current_dir(fresh).arg("ci").args(quiet)).map(drop)
    })?;
    let node = real("node")?;
    let modules = built.join("node_modules");
    let image = Image::new(&["/usr/local/bin/node"])
        .program(&node, "/usr/local/bin/node")?
        .system()?
        .certificates()?
        .tree(&dir, APP, |path| path.starts_with("node_modules"))?
        .tree(&modules, &format!("{APP}/node_modules"), not_for_a_server)?;
    Ok(Prepared {
        image: put(cluster, app, image)?,
        dir,
        run: vec![node],
        env: BTreeMap::from([("NODE_PATH", modules)]),
    })
}

fn python(cluster: &ClusterHandle, app: &App, dir: PathBuf, install: bool) -> Result<Prepared> {
    host::ensure(&host::PYTHON, install)?;
    let locked = fs::read(dir.join("requirements.txt")).context("failed to read requirements.txt")?;
    let described = shell::output(shell::command("python3").args(["-c", WHERE_PYTHON_IS]))?;
    let mut lines = described.lines().map(PathBuf::from);
    let (Some(program), Some(library), Some(prefix)) = (lines.next(), lines.next(), lines.next()) else {
        bail!("python3 does not say where it is");
    };
    let name = format!("app-{}", app.name);
    let built = cache::artifact(&name, &[&locked, described.as_bytes()], |fresh| {
        packages(&dir, &fresh.join("packages"))?;
        standard_library(&library, &fresh.join("library"))?;
        // Files in images have no times: what was compiled is told by nothing but its name.
        let compile = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"];
        shell::output(shell::command("python3").args(compile).arg(fresh)).map(drop)
    })?;
    let packages = built.join("packages");
    let mut image = Image::new(&["/usr/local/bin/python3", "-u"])
        .program(&program, "/usr/local/bin/python3")?
        .system()?
        .certificates()?
        .tree(&built.join("library"), &library.to_string_lossy(), |_| false)?
        .tree(&packages, "/packages", |_| false)?
        .tree(&dir, APP, not_for_a_server)?
        .env("PYTHONHOME", &prefix.to_string_lossy())
        .env("PYTHONPATH", "/packages")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    for plug_in in plug_ins(&library.join("lib-dynload"))? {
        image = image.libraries_of(&plug_in)?;
    }
    Ok(Prepared {
        image: put(cluster, app, image)?,
        dir,
        run: vec![program],
        env: BTreeMap::from([("PYTHONPATH", packages)]),
    })
}

/// Says on a line each: the program, its standard library, and what `PYTHONHOME` has to be; and its version.
const WHERE_PYTHON_IS: &str = "import os, sys, sysconfig; \
    [print(x) for x in (os.path.realpath(sys.executable), sysconfig.get_path('stdlib'), sys.base_prefix, sys.version)]";

fn packages(dir: &Path, to: &Path) -> Result<()> {
    // Wheels without machine code: the same bytes for every Python and processor.
    let pure = [
        "--platform",
        "any",
        "--only-binary=:all:",
        "--require-hashes",
        "--no-deps",
    ];
    shell::output(
        shell::command("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-compile", "--target"])
            .arg(to)
            .args(pure)
            .arg("--requirement")
            .arg(dir.join("requirements.txt")),
    )
    .map(drop)
}

fn standard_library(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("failed to read {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if not_for_a_server(&path) {
        } else if path.is_dir() {
            standard_library(&path, &target)?;
        } else if path.is_file() {
            fs::create_dir_all(to)?;
            fs::copy(&path, &target).with_context(|| format!("failed to copy {}", path.display()))?;
        }
    }
    Ok(())
}

fn compiled(cluster: &ClusterHandle, app: &App, dir: PathBuf, program: PathBuf) -> Result<Prepared> {
    let path = format!("{APP}/{}", app.name);
    let image = Image::new(&[&path])
        .program(&program, &path)?
        .system()?
        .certificates()?;
    Ok(Prepared {
        image: put(cluster, app, image)?,
        dir,
        run: vec![program],
        env: BTreeMap::new(),
    })
}

/// Debian's PostgreSQL with what it needs to make a database and to serve it, at the paths that it was built for.
fn postgres(dir: &Path) -> Result<Image> {
    let home = host::newest_version("/usr/lib/postgresql", "bin/postgres")
        .context("there is no PostgreSQL below /usr/lib/postgresql")?;
    let bin = home.join("bin");
    let share = Path::new("/usr/share/postgresql").join(home.file_name().unwrap_or_default());
    // initdb starts the server through a shell.
    let mut image = Image::new(&["/bin/sh", "/app/start.sh"])
        .program(&real("sh")?, "/bin/sh")?
        .system()?
        .tree(dir, APP, |_| false)?
        .tree(&share, &share.to_string_lossy(), not_for_a_database)?
        .env("PGBIN", &bin.to_string_lossy())
        .env("PGDATA", "/data/db");
    for name in ["postgres", "initdb", "pg_ctl"] {
        let program = bin.join(name);
        image = image.program(&program, &program.to_string_lossy())?;
    }
    for plug_in in plug_ins(&home.join("lib"))? {
        let name = plug_in
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if ["plpgsql", "dict_snowball"].contains(&name.as_str()) || name.contains("_and_") {
            image = image.program(&plug_in, &plug_in.to_string_lossy())?;
        }
    }
    Ok(image)
}

/// Manuals, translations, and extensions that nobody asks for.
fn not_for_a_database(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_extension = path.starts_with("extension") && path != Path::new("extension");
    name == "man" || name == "locale" || (is_extension && !name.starts_with("plpgsql"))
}

/// The files of a Go program, by name.
fn sources(dir: &Path) -> Result<Vec<String>> {
    let listed = fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| dir.join(name).is_file()).collect();
    names.sort();
    Ok(names)
}

/// The reference of the image; of one that its owner brings to a cluster of their own, what the environment says.
fn put(cluster: &ClusterHandle, app: &App, image: Image) -> Result<String> {
    if cluster.external {
        let variable = format!(
            "WSROLL_E2E_APP_{}_IMAGE",
            app.name.to_uppercase().replace('-', "_")
        );
        return std::env::var(&variable).with_context(|| {
            format!(
                "KUBECONFIG names a cluster that is not ours: push an image of {} and set {variable}",
                app.dir
            )
        });
    }
    // Tests ask at the same time, and would write the same archive.
    let _one_at_a_time = cache::lock("import")?;
    let reference = format!("docker.io/wsroll/app-{}:{}", app.name, image.tag());
    cluster.import(&reference, || Ok(image))?;
    Ok(reference)
}

/// A program of the search path, links followed: a link alone would start nothing in an image.
fn real(name: &str) -> Result<PathBuf> {
    let found = shell::which(name).with_context(|| format!("{name} is not in the search path"))?;
    found
        .canonicalize()
        .with_context(|| format!("failed to follow {}", found.display()))
}

/// Extension modules of Python, or of PostgreSQL, that are there.
fn plug_ins(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.extension().is_some_and(|end| end == "so") && !WINDOWS.iter().any(|part| name.contains(part))
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// Parts of Python that draw on screens: their libraries are large, and often absent.
const WINDOWS: [&str; 3] = ["tkinter", "_dbm", "_gdbm"];

/// What takes room and serves nobody: caches, tests, tools, declarations.
fn not_for_a_server(path: &Path) -> bool {
    let large = [
        "__pycache__",
        "site-packages",
        "dist-packages",
        "test",
        "idlelib",
        "ensurepip",
        "tkinter",
        "turtledemo",
        "lib2to3",
        "bin",
    ];
    let config =
        |part: &str| part.starts_with("config-") || WINDOWS.iter().any(|window| part.starts_with(window));
    let for_tools = [".d.ts", ".map"];
    let is_large =
        |part: &str| large.contains(&part) || config(part) || for_tools.iter().any(|end| part.ends_with(end));
    path.file_name()
        .is_some_and(|name| is_large(&name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_tests_have_their_sources() {
        let names: std::collections::BTreeSet<_> = APPS.iter().map(|app| app.name).collect();
        assert_eq!(names.len(), APPS.len());
        for app in APPS {
            assert!(paths::root().join(app.dir).is_dir(), "{}", app.dir);
        }
    }

    #[test]
    fn databases_come_without_what_nobody_asks_for() {
        assert!(not_for_a_database(Path::new("man")));
        assert!(not_for_a_database(Path::new("extension/cube.control")));
        assert!(!not_for_a_database(Path::new("extension")));
        assert!(!not_for_a_database(Path::new("extension/plpgsql.control")));
        assert!(!not_for_a_database(Path::new("tsearch_data/english.stop")));
    }

    #[test]
    fn servers_come_without_what_serves_nobody() {
        assert!(not_for_a_server(Path::new("json/__pycache__")));
        assert!(not_for_a_server(Path::new("ws/index.d.ts")));
        assert!(!not_for_a_server(Path::new("ws/index.js")));
    }
}
