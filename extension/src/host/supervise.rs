//! `run -- CMD`: a container's entry point, which starts the app and the extension side by side.
//!
//! They are two processes, so that neither ends the other: a dead extension is started again on its spool, and the app's
//! end is this process's end. It may be process 1, so it passes signals on and reaps whoever is left to it.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::attach::{self, Load};
use super::exec::{self, CANNOT_EXEC, NOT_FOUND, Start, say};
use super::process::Grace;
use crate::settings::{Config, ProcessEnvironment};

/// The argument by which `serve` knows that it belongs to a supervisor.
pub const SUPERVISED: &str = "--supervised";

/// How long the app waits for the extension to listen. If it does not, the app is started as it is.
const LISTENING_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks whether it does.
const LISTENING_PAUSE: Duration = Duration::from_millis(2);

/// What an extension has beyond its time for sending, before it is killed.
const EXIT_SLACK: Duration = Duration::from_millis(500);

/// Between the death of an extension and the next one; it doubles up to the longest while they die young.
const FIRST_RESTART_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_RESTART_PAUSE: Duration = Duration::from_secs(30);

/// What is passed on to the app's process group. The rest means this process alone, or cannot be caught.
const PASSED_ON: [(SignalKind, Signal); 8] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::window_change(), Signal::WINCH),
    (SignalKind::alarm(), Signal::ALARM),
];

/// Runs the command until it ends, and says its status, or 128 and the signal that killed it.
pub async fn supervise(start: &Start) -> ExitCode {
    let config = Config::read(&ProcessEnvironment);
    let grace = Grace::of(config.shutdown);
    // Before anything is started, so that no signal is missed.
    let signals = listen_to_signals();
    // Whoever the app leaves behind is reaped here, whether or not this is process 1.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut extension = Extension::start();
    let is_there = extension.listens(&config).await;
    let app = match start_app(start, &config, is_there) {
        Ok(app) => app,
        Err(error) => {
            say(&start.cannot(&error));
            extension.end(grace.flush).await;
            return ExitCode::from(match error.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => CANNOT_EXEC,
            });
        }
    };
    let status = watch(app, &mut extension, signals, grace).await;
    extension.end(grace.flush).await;
    ExitCode::from(code_of(status))
}

/// One word for each signal that arrives: what it is, or that a child has ended.
fn listen_to_signals() -> mpsc::UnboundedReceiver<Option<Signal>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let children = std::iter::once((SignalKind::child(), None));
    let passed_on = PASSED_ON.map(|(kind, signal)| (kind, Some(signal)));
    for (kind, word) in children.chain(passed_on) {
        match signal(kind) {
            Ok(mut stream) => {
                let sender = sender.clone();
                tokio::spawn(async move {
                    while stream.recv().await.is_some() {
                        let _ = sender.send(word);
                    }
                });
            }
            Err(error) => say(&format!("cannot listen for a signal: {error}")),
        }
    }
    receiver
}

fn start_app(start: &Start, config: &Config, extension_is_there: bool) -> std::io::Result<Pid> {
    let mut command = Command::new(start.program());
    command.args(start.command.iter().skip(1)).process_group(0);
    if extension_is_there {
        command.envs(attach::changes(
            &ProcessEnvironment,
            start.runtime,
            Load::ManyAtOnce,
            config.listen,
        ));
    }
    let app = command.spawn()?;
    let pid = pid_of(&app);
    give_terminal(pid);
    Ok(pid)
}

/// Where somebody sits at the terminal, the app's process group is the one that may read from it.
fn give_terminal(app: Pid) {
    let input = std::io::stdin();
    if input.is_terminal() && rustix::termios::tcsetpgrp(&input, app).is_ok() {
        let _ = rustix::process::kill_process_group(app, Signal::CONT);
    }
}

/// Until the app has ended.
async fn watch(
    app: Pid,
    extension: &mut Extension,
    mut signals: mpsc::UnboundedReceiver<Option<Signal>>,
    grace: Grace,
) -> WaitStatus {
    let mut flush_at = None;
    loop {
        if let Some(status) = reap(app, extension) {
            return status;
        }
        tokio::select! {
            word = signals.recv() => match word {
                Some(Some(signal)) => {
                    let _ = rustix::process::kill_process_group(app, signal);
                    // Others mean something else to some runtimes: SIGQUIT is the JVM's thread dump.
                    if matches!(signal, Signal::TERM | Signal::INT) {
                        flush_at.get_or_insert_with(|| Instant::now() + grace.app);
                    }
                }
                Some(None) => {}
                // No signal at all can be heard: then there is only looking.
                None => tokio::time::sleep(FIRST_RESTART_PAUSE).await,
            },
            () = due(flush_at) => {
                // It goes on for as long as whoever stops this container lets it. What it has sent until now is shipped.
                extension.ask_to_end();
                flush_at = None;
            }
            () = due(extension.restart_at) => extension.restart(),
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Takes the status of every child that has ended. Answers with the app's.
fn reap(app: Pid, extension: &mut Extension) -> Option<WaitStatus> {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == app {
            return Some(status);
        }
        extension.ended(pid);
    }
    None
}

fn code_of(status: WaitStatus) -> u8 {
    let signalled = || status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or_else(signalled).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_child(child)
}

/// The process that receives and ships.
struct Extension {
    pid: Option<Pid>,
    /// While this is open, it goes on.
    open: Option<ChildStdin>,
    started: Instant,
    restart_at: Option<Instant>,
    pause: Duration,
    is_to_end: bool,
}

impl Extension {
    fn start() -> Self {
        let mut extension = Self {
            pid: None,
            open: None,
            started: Instant::now(),
            restart_at: None,
            pause: FIRST_RESTART_PAUSE,
            is_to_end: false,
        };
        extension.restart();
        extension
    }

    /// In a process group of its own: what a terminal sends to everybody is meant for the app.
    fn restart(&mut self) {
        self.restart_at = None;
        self.started = Instant::now();
        let spawned = std::env::current_exe().and_then(|file| {
            Command::new(file)
                .args(["serve", SUPERVISED])
                .stdin(Stdio::piped())
                .process_group(0)
                .spawn()
        });
        match spawned {
            Ok(mut child) => {
                self.pid = Some(pid_of(&child));
                self.open = child.stdin.take();
            }
            Err(error) => {
                say(&format!("the extension cannot be started: {error}"));
                self.plan_restart();
            }
        }
    }

    fn plan_restart(&mut self) {
        if self.started.elapsed() > LONGEST_RESTART_PAUSE {
            self.pause = FIRST_RESTART_PAUSE;
        }
        self.restart_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_RESTART_PAUSE);
    }

    /// A child has ended: this one, or one that the app left behind.
    fn ended(&mut self, pid: Pid) {
        if self.pid != Some(pid) {
            return;
        }
        self.pid = None;
        self.open = None;
        if !self.is_to_end {
            say("the extension has died; it is started again, on its spool");
            self.plan_restart();
        }
    }

    /// Whether it listens, soon.
    async fn listens(&self, config: &Config) -> bool {
        let until = Instant::now() + LISTENING_PATIENCE;
        while Instant::now() < until {
            if exec::is_extension(config.listen, LISTENING_PATIENCE) {
                return true;
            }
            tokio::time::sleep(LISTENING_PAUSE).await;
        }
        say(&format!(
            "no langfuse-extension answers on {}, so the app is started as it is",
            config.listen
        ));
        false
    }

    fn ask_to_end(&mut self) {
        self.is_to_end = true;
        self.restart_at = None;
        self.open = None;
    }

    /// Waits until it has sent what it can, within its time.
    async fn end(&mut self, flush: Duration) {
        self.ask_to_end();
        let until = Instant::now() + flush + EXIT_SLACK;
        while let Some(pid) = self.pid {
            match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(None) if Instant::now() < until => tokio::time::sleep(LISTENING_PAUSE).await,
                Ok(None) => {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    self.pid = None;
                }
                Ok(Some(_)) | Err(_) => self.pid = None,
            }
        }
    }
}
