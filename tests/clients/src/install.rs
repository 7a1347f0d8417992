//! Puts a client's packages in place, once.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{Client, Packages};

/// What the emulator needs to start an app.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The runtime's command.
    pub bootstrap: Vec<String>,
    /// The function's code.
    pub task_root: PathBuf,
}

/// Installs, or finds what was installed before. Blocks for as long as the package registries take.
///
/// # Panics
/// If the installation fails: nothing is skipped.
pub fn install(client: &Client) -> Installed {
    let tests = tests_dir();
    let app = tests.join("apps").join(client.app);
    match client.packages {
        Packages::Python(requirements) => {
            let name = match requirements {
                "requirements.txt" => client.app,
                _ => client.name,
            };
            let requirements = app.join(requirements);
            let python = run(tests.join("venv.sh"), &[Path::new(name), &requirements]);
            let words = [python.as_str(), "-m", "awslambdaric", "app.handler"];
            Installed {
                bootstrap: words.map(str::to_owned).into(),
                task_root: app,
            }
        }
        Packages::Node => {
            let dir = run(tests.join("node.sh"), &[&app]);
            let bootstrap = tests.join("apps/lib/bootstrap.mjs");
            let app = format!("{dir}/app.mjs");
            Installed {
                bootstrap: vec!["node".into(), path(&bootstrap), app],
                task_root: dir.into(),
            }
        }
    }
}

/// Where the shared modules of the apps lie.
pub(crate) fn library_dir() -> String {
    path(&tests_dir().join("apps/lib"))
}

/// The binary under test. `make build` makes it.
///
/// # Panics
/// If it is not there.
pub fn extension_binary() -> PathBuf {
    let root = tests_dir().join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let binary = target.join("release/langfuse-extension");
    binary
        .canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", binary.display()))
}

/// `tests`, as a real path.
pub(crate) fn tests_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    dir.canonicalize().expect("the directory of the tests")
}

fn run(script: PathBuf, arguments: &[&Path]) -> String {
    let output = Command::new(&script)
        .args(arguments)
        .output()
        .expect("a shell");
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{}",
        script.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
