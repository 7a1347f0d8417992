//! The life of the process where no Lambda is: `serve`, a process beside the app, by itself or started by `run`.
//!
//! As under Lambda Managed Instances, nothing is frozen and nobody tells of invocations; the end is told by SIGTERM, or by
//! the supervisor that closes standard input.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::signal::unix::{SignalKind, signal};

use super::{Doors, Opened, open};
use crate::inputs::{Event, Input, Inputs, PlatformEvent};
use crate::logging;
use crate::settings::{Config, Environment, ProcessEnvironment};

/// Of the time between SIGTERM and the end, what is left for sending: one part of this many. The app has the others.
const PARTS_OF_SHUTDOWN: u32 = 4;

/// `LANGFUSE_EXTENSION_SHUTDOWN_MS`, divided between the app and what it left to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// How long the app's data is received after SIGTERM, at the most.
    pub app: Duration,
    /// How long sending may take after that.
    pub flush: Duration,
}

impl Grace {
    /// Divides it.
    pub fn of(shutdown: Duration) -> Self {
        let flush = shutdown / PARTS_OF_SHUTDOWN;
        Self {
            app: shutdown.saturating_sub(flush),
            flush,
        }
    }
}

/// Who tells that it is time to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldBy {
    /// SIGTERM or SIGINT, which a pod sends to the app and to its sidecar alike: so data is received for a while longer.
    Signal,
    /// The end of standard input: `run` closes it when the app has ended, and the kernel does when `run` has been killed.
    EndOfInput,
}

/// From start to end, as a sidecar or as a part of `run`.
pub async fn serve(told_by: ToldBy) -> ExitCode {
    let mut config = Config::read(&HostEnvironment::read());
    logging::start(config.log_level);
    for problem in &config.problems {
        tracing::error!("{problem}");
    }
    let grace = Grace::of(config.shutdown);
    config.core.longest_shutdown = grace.flush;
    let doors = Doors::bind(&config).await;
    let Opened {
        mut agent,
        inputs,
        mut next_asked,
    } = open(config, doors);
    agent.silence_is_known();
    inputs.event(Event::Registered { invoke: false });
    // There is no next event to ask for.
    tokio::spawn(async move { while next_asked.recv().await.is_some() {} });
    tokio::spawn(end(told_by, grace, inputs));
    match tokio::spawn(agent.run()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Waits until it is told to end, and hands that on as Lambda would.
async fn end(told_by: ToldBy, grace: Grace, inputs: Inputs) {
    let reason = match told_by {
        ToldBy::EndOfInput => {
            end_of(tokio_stdin()).await;
            "the app has ended"
        }
        ToldBy::Signal => {
            asked_to_end().await;
            // The app is asked at the same time, and has data until it ends.
            tokio::time::sleep(grace.app).await;
            "SIGTERM"
        }
    };
    let deadline = SystemTime::now() + grace.flush;
    let deadline = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
    inputs.send(Input::Platform(PlatformEvent::Shutdown {
        reason: reason.to_owned(),
        deadline_epoch_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
    }));
}

async fn asked_to_end() {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    if let (Ok(mut terminate), Ok(mut interrupt)) = signals {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    } else {
        // The kernel ends this process then, and what is on disk stays there.
        std::future::pending::<()>().await;
    }
}

/// Standard input is a pipe whose other end `run` holds. If it cannot be read, its end cannot be told either.
fn tokio_stdin() -> Option<impl AsyncRead + Unpin> {
    let input = std::os::fd::AsFd::as_fd(&std::io::stdin())
        .try_clone_to_owned()
        .ok()?;
    tokio::net::unix::pipe::Receiver::from_owned_fd(input).ok()
}

async fn end_of(input: Option<impl AsyncRead + Unpin>) {
    let Some(mut input) = input else {
        return std::future::pending().await;
    };
    let mut piece = [0; 64];
    while matches!(input.read(&mut piece).await, Ok(length) if length > 0) {}
}

/// The environment of this process, and what its control group says of memory, in the words of Lambda.
#[derive(Debug)]
pub struct HostEnvironment {
    memory_mb: Option<u64>,
}

impl HostEnvironment {
    /// Reads the limit.
    pub fn read() -> Self {
        let limit = memory_limit_bytes(|file| std::fs::read_to_string(file).ok());
        Self {
            memory_mb: limit.map(|bytes| bytes >> 20),
        }
    }
}

impl Environment for HostEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        let limit = || {
            self.memory_mb
                .filter(|_| name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        };
        ProcessEnvironment
            .get(name)
            .or_else(|| Some(limit()?.to_string()))
    }

    fn names(&self) -> Vec<String> {
        ProcessEnvironment.names()
    }
}

/// Version 1 says "no limit" by a number of this size.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The least of the limits that this process's control group has, seen from inside a container or from outside.
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>
fn memory_limit_bytes(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let own = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let own = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some(Path::new("/sys/fs/cgroup").join(path).join("memory.max")),
            "memory" => Some(
                Path::new("/sys/fs/cgroup/memory")
                    .join(path)
                    .join("memory.limit_in_bytes"),
            ),
            _ => None,
        }
    });
    let roots = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    roots
        .map(PathBuf::from)
        .into_iter()
        .chain(own)
        .filter_map(|file| read(&file)?.trim().parse().ok())
        .filter(|bytes| *bytes < NO_LIMIT_BYTES)
        .min()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let files: HashMap<_, _> = files.iter().copied().collect();
        memory_limit_bytes(|file| files.get(file.to_str()?).map(|text| (*text).to_owned()))
    }

    #[test]
    fn the_control_groups_limit_is_found_in_both_versions_inside_and_outside_a_container() {
        assert_eq!(
            limit(&[("/sys/fs/cgroup/memory.max", "134217728\n")]),
            Some(128 << 20)
        );
        assert_eq!(
            limit(&[
                ("/proc/self/cgroup", "0::/system.slice/app.service\n"),
                (
                    "/sys/fs/cgroup/system.slice/app.service/memory.max",
                    "1048576\n"
                ),
            ]),
            Some(1 << 20)
        );
        assert_eq!(
            limit(&[
                ("/proc/self/cgroup", "4:memory:/docker/1\n3:cpu:/docker/1\n"),
                (
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n"
                ),
                (
                    "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                    "2097152\n"
                ),
            ]),
            Some(2 << 20)
        );
    }

    #[test]
    fn without_a_limit_there_is_none() {
        assert_eq!(limit(&[]), None);
        assert_eq!(limit(&[("/sys/fs/cgroup/memory.max", "max\n")]), None);
        assert_eq!(
            limit(&[(
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n"
            )]),
            None
        );
    }

    #[test]
    fn the_app_has_three_quarters_of_the_grace_and_sending_the_rest() {
        let grace = Grace::of(Duration::from_secs(8));
        assert_eq!(grace.app, Duration::from_secs(6));
        assert_eq!(grace.flush, Duration::from_secs(2));
    }
}
