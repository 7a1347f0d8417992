//! What a run needs on disk: the extension laid out like `/opt`, and the function's Python.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why the demo could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("no Python environment for {0}: it takes python3 with venv and pip, and a way to PyPI")]
    NoPython(&'static str),
    #[error(transparent)]
    Lambda(#[from] lambda_emulator::Error),
    #[error("no loopback port: {0}")]
    NoPort(io::Error),
}

/// Attaches the path to what went wrong with it.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io(path, error)
}

/// Everything that all runs share.
pub(crate) struct Setup {
    /// Laid out like `/opt`.
    pub(crate) opt_dir: PathBuf,
    /// The function's code.
    pub(crate) task_root: PathBuf,
    /// The interpreter with langfuse-python 4.0.6.
    pub(crate) python: String,
    /// The interpreter with the first langfuse-python that bounds what `@observe` captures.
    pub(crate) python_fixed: String,
    /// Where the picture goes.
    pub(crate) out_dir: PathBuf,
}

impl Setup {
    pub(crate) fn new() -> Result<Self, Error> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().map_err(at(&root))?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |target| root.join(target));
        let out_dir = target.join("demo");
        let opt_dir = out_dir.join("opt");
        lay_out(&target.join("release/langfuse-extension"), &opt_dir)?;
        Ok(Self {
            opt_dir,
            task_root: root.join("tests/apps/python-406"),
            python: venv(&root, "python-406")?,
            python_fixed: venv(&root, "python-470")?,
            out_dir,
        })
    }
}

/// The layer's content, of the binary that was just built.
fn lay_out(binary: &Path, opt_dir: &Path) -> Result<(), Error> {
    let extensions = opt_dir.join("extensions");
    fs::create_dir_all(&extensions).map_err(at(&extensions))?;
    let copy = extensions.join("langfuse-extension");
    // A file that is being executed cannot be written to, but it can be replaced.
    let _not_there = fs::remove_file(&copy);
    fs::copy(binary, &copy).map_err(at(binary))?;
    Ok(())
}

fn venv(root: &Path, name: &'static str) -> Result<String, Error> {
    println!("Python environment {name} …");
    let script = root.join("tests/venv.sh");
    let requirements = root.join("tests/apps").join(name).join("requirements.txt");
    let output = Command::new(&script)
        .arg(name)
        .arg(requirements)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(at(&script))?;
    if !output.status.success() {
        return Err(Error::NoPython(name));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
