//! `langfuse-extension run` with real processes: a fake Langfuse, an app, and a disk that outlives them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Project};
use tempfile::TempDir;

use crate::{EXTENSION, PATIENCE, PYTHON, binary, free_address};

/// One Langfuse, one disk, one port.
pub struct Host {
    /// What is shipped to.
    pub langfuse: FakeLangfuse,
    dir: TempDir,
    listen: std::net::SocketAddr,
}

impl Host {
    /// A healthy Langfuse and an empty disk.
    pub fn new() -> Self {
        Self {
            langfuse: FakeLangfuse::start(Config::default()).expect("a fake Langfuse"),
            dir: tempfile::tempdir().expect("a directory"),
            listen: free_address(),
        }
    }

    /// The extension with these words on its command line, and the settings that an app has that traces to Langfuse.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("LANGFUSE_BASE_URL", self.langfuse.url())
            .env("LANGFUSE_PUBLIC_KEY", Project::PUBLIC_KEY)
            .env("LANGFUSE_SECRET_KEY", Project::SECRET_KEY)
            // This machine runs many tests at once.
            .env("LANGFUSE_EXTENSION_LISTEN", self.listen.to_string())
            .env(
                "LANGFUSE_EXTENSION_SPOOL_DIR",
                self.dir.path().join("spool"),
            );
        command
    }

    /// `run -- ` and `tests/apps/process/app.py` with these arguments.
    pub fn run_app(&self, arguments: &[&str]) -> Running {
        self.run_app_with(arguments, &[])
    }

    /// The same, with further variables.
    pub fn run_app_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let app = app();
        let words = ["run", "--", PYTHON.as_str(), "-S", &app];
        let words: Vec<_> = words.into_iter().chain(arguments.iter().copied()).collect();
        let mut command = self.command(&words);
        command.envs(variables.iter().copied());
        Running::start(command)
    }

    /// The same app beside an extension that was started by itself.
    pub fn exec_app(&self, arguments: &[&str]) -> Running {
        let app = app();
        let words = ["exec", "--", PYTHON.as_str(), "-S", &app];
        let words: Vec<_> = words.into_iter().chain(arguments.iter().copied()).collect();
        Running::start(self.command(&words))
    }

    /// Waits until somebody listens.
    pub fn wait_listening(&self) {
        let until = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.listen).is_err() {
            assert!(Instant::now() < until, "nobody listens");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The names of the spans that Langfuse has, each once.
    pub fn delivered(&self) -> BTreeSet<String> {
        let observations = self.langfuse.observations();
        let names: BTreeSet<_> = observations.iter().map(|one| one.name.clone()).collect();
        assert_eq!(names.len(), observations.len(), "stored twice");
        names
    }

    /// Waits until Langfuse has all of these.
    pub async fn wait_delivered(&self, names: &BTreeSet<String>) {
        let arrived = self
            .langfuse
            .wait_until(PATIENCE, |recording| {
                let stored: BTreeSet<_> = recording.observations().map(|one| &one.name).collect();
                names.iter().all(|name| stored.contains(name))
            })
            .await;
        let missing: Vec<_> = names.difference(&self.delivered()).cloned().collect();
        assert!(arrived, "missing: {missing:?}");
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

fn app() -> String {
    let app = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../apps/process/app.py");
    let app = app.canonicalize().expect("the app");
    app.to_string_lossy().into_owned()
}

/// A supervisor with its children. It is killed if the test forgets it.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Running {
    /// Starts it, and reads what the app says.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    /// The supervisor.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the app has said a line that begins so, and answers with the rest of it.
    pub fn wait_line(&mut self, beginning: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no {beginning:?} in {:?}", self.said));
            self.said.push(line.clone());
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.trim().to_owned();
            }
        }
    }

    /// The names of the spans that were acknowledged, as far as the app has said it.
    pub fn acked(&mut self) -> BTreeSet<String> {
        self.said.extend(self.lines.try_iter());
        let acked = self
            .said
            .iter()
            .filter_map(|line| line.strip_prefix("acked "));
        acked.map(str::to_owned).collect()
    }

    /// Sends a signal to the supervisor.
    pub fn signal(&self, name: &str) {
        send(name, &self.pid().to_string());
    }

    /// The process that receives and ships.
    pub fn extension(&self) -> Option<u32> {
        let is_extension = |pid: &u32| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            words.is_ok_and(|words| words.contains(EXTENSION) && words.contains("--supervised"))
        };
        self.children().into_iter().find(is_extension)
    }

    /// The supervisor's children, the dead among them too.
    fn children(&self) -> Vec<u32> {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == self.pid()))
            .collect()
    }

    /// Children that have ended and that nobody has asked for.
    pub fn zombies(&self) -> usize {
        let children = self.children();
        let dead = |pid: &&u32| stat(**pid).is_some_and(|(state, _)| state == "Z");
        children.iter().filter(dead).count()
    }

    /// Waits for the end, and says how long it took.
    pub fn wait(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                let took = started.elapsed();
                // Everybody who could still say something has ended with it.
                while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
                    self.said.push(line);
                }
                return (status, took);
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The app's process group outlives its supervisor's death.
        self.said.extend(self.lines.try_iter());
        let mut apps = self
            .said
            .iter()
            .filter_map(|line| line.strip_prefix("pid "));
        if let Some(app) = apps.next() {
            let words = ["-c", "kill -s KILL -- \"-$0\" 2>/dev/null", app];
            let _ = Command::new("sh").args(words).status();
        }
    }
}

/// State and parent.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

/// Sends a signal to a process, or with a minus to a group.
pub fn send(name: &str, target: &str) {
    let done = Command::new("sh")
        .args(["-c", "kill -s \"$0\" -- \"$1\"", name, target])
        .status();
    assert!(done.expect("a shell").success(), "kill -{name} {target}");
}
