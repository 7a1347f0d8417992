//! Starting processes as Lambda does, with their output captured and their end noticed.

use crate::logs::{LogLine, Stream, read_lines};
use crate::state::Shared;
use crate::timeline::Event;
use rustix::process::Signal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The name of the runtime's process.
pub(crate) const RUNTIME: &str = "runtime";

/// How often, and after which pause, an executable that is still being written is tried again.
const BUSY_RETRIES_MAX: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or_else(
            || Self::Signal(status.signal().unwrap_or_default()),
            Self::Code,
        )
    }
}

/// A process of the present environment.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) exited: Option<(Exit, Instant)>,
    /// Whether the platform (or a test) ended it with SIGKILL.
    pub(crate) killed: bool,
}

/// What to start.
pub(crate) struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [String],
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) directory: &'a Path,
}

/// Starts a process in its own process group and control group; it dies with the emulator's thread.
pub(crate) fn launch(shared: &Arc<Shared>, launch: &Launch<'_>) -> io::Result<()> {
    let mut command = Command::new(launch.program);
    command
        .args(launch.arguments)
        .env_clear()
        .envs(&launch.env)
        .current_dir(launch.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    enter_before_exec(&mut command, shared.freezer.entrances(launch.name)?);
    let mut child = spawn(&mut command)?;
    let pid = child.id().unwrap_or_default();
    shared.timeline.add(Event::ProcessStarted {
        process: launch.name.to_owned(),
        pid,
    });
    let generation = shared.update(|state| {
        state.processes.push(Process {
            name: launch.name.to_owned(),
            pid,
            exited: None,
            killed: false,
        });
        state.generation
    });
    if let Some(stdout) = child.stdout.take() {
        capture(shared, launch.name, generation, Stream::Stdout, stdout);
    }
    if let Some(stderr) = child.stderr.take() {
        capture(shared, launch.name, generation, Stream::Stderr, stderr);
    }
    tokio::spawn(watch(
        Arc::clone(shared),
        child,
        launch.name.to_owned(),
        pid,
        generation,
    ));
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "std offers no other way to act in the child between fork and exec"
)]
fn enter_before_exec(command: &mut Command, entrances: Vec<File>) {
    let enter = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        for entrance in &entrances {
            rustix::io::write(entrance, b"0")?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are two plain system calls on
    // descriptors that were opened before, without allocation or locks.
    unsafe {
        command.pre_exec(enter);
    }
}

fn capture(
    shared: &Arc<Shared>,
    source: &str,
    generation: u64,
    stream: Stream,
    pipe: impl tokio::io::AsyncRead + Unpin + Send + 'static,
) {
    let shared = Arc::clone(shared);
    let source = source.to_owned();
    shared.update(|state| state.open_pipes += 1);
    tokio::spawn(async move {
        read_lines(pipe, |text| {
            shared.telemetry.log(&source, &text);
            shared.logs.add(LogLine {
                at: shared.timeline.now(),
                source: source.clone(),
                stream,
                text,
            });
        })
        .await;
        shared.update(|state| {
            if state.generation == generation {
                state.open_pipes = state.open_pipes.saturating_sub(1);
            }
        });
    });
}

/// A file that was just written can be open for writing for a moment longer, in a child that another thread has forked.
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_RETRIES_MAX {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
    command.spawn()
}

async fn watch(shared: Arc<Shared>, mut child: Child, name: String, pid: u32, generation: u64) {
    let Ok(status) = child.wait().await else {
        return;
    };
    let exit = Exit::from(status);
    shared.timeline.add(Event::ProcessExited {
        process: name.clone(),
        pid,
        exit,
    });
    shared.update(|state| state.process_exited(&name, pid, generation, exit));
}
