//! A function and extensions out of a few lines of Python.

use lambda_emulator::{Builder, Entry, Event, Lambda};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

/// What no event in these tests takes, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What a quick step may take on a busy machine.
pub(crate) const QUICK: Duration = Duration::from_millis(500);

pub(crate) const ECHO: &str = "serve()";
pub(crate) const AGENT: &str = r#"Extension("INVOKE", "SHUTDOWN").serve()"#;

/// The interpreter itself, as opposed to a version manager's wrapper around it.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .expect("python3 is installed");
    String::from_utf8(output.stdout)
        .expect("a path")
        .trim()
        .to_owned()
});

/// A directory laid out like `/opt`, removed with the value.
pub(crate) struct Opt {
    dir: PathBuf,
}

impl Opt {
    pub(crate) fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("emulator-test-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(dir.join("extensions")).expect("a directory");
        Self { dir }
    }

    /// An opt directory with one extension, `agent`.
    pub(crate) fn with(script: &str) -> Self {
        Self::new().and("agent", script)
    }

    pub(crate) fn and(self, name: &str, script: &str) -> Self {
        let file = self.file(name);
        let text = format!("#!{} -S\nfrom agent import *\n{script}\n", *PYTHON);
        fs::write(&file, text).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("permissions");
        self
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join("extensions").join(name)
    }
}

impl Drop for Opt {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A Lambda whose runtime runs this script.
pub(crate) fn function(script: &str) -> Builder {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python");
    Lambda::builder()
        .bootstrap([
            PYTHON.as_str(),
            "-S",
            "-c",
            &format!("from function import *\n{script}"),
        ])
        .env("PYTHONPATH", library.to_string_lossy())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .timeout(PATIENCE)
}

/// The same with extensions.
pub(crate) fn with_extensions(script: &str, opt: &Opt) -> Builder {
    function(script).opt_dir(&opt.dir)
}

/// The place of the first entry that is wanted.
pub(crate) fn position(timeline: &[Entry], wanted: impl Fn(&Event) -> bool) -> usize {
    timeline
        .iter()
        .position(|entry| wanted(&entry.event))
        .unwrap_or_else(|| panic!("no such entry in {timeline:#?}"))
}

/// When the first wanted entry was.
pub(crate) fn time(timeline: &[Entry], wanted: impl Fn(&Event) -> bool) -> Duration {
    timeline[position(timeline, wanted)].at
}

pub(crate) fn lines(lambda: &Lambda, process: &str) -> Vec<String> {
    lambda
        .logs_of(process)
        .into_iter()
        .map(|line| line.text)
        .collect()
}
