//! What is put through the work, and one running process of it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::http::Client;
use crate::platform::{self, Platform};

/// An extension: a binary, its settings, and the path at which it takes OTLP over HTTP. In the settings `{port}`,
/// `{langfuse}`, `{ca}` and `{dir}` stand for the port to listen on, the address to send to, the file of the certificate
/// authority, and a directory to write to.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) path: String,
}

impl Subject {
    /// The same with one more setting, which wins.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.env.retain(|(old, _)| old != name);
        changed.env.push((name.to_owned(), value.to_owned()));
        changed
    }

    /// The settings, filled in; without that of the certificate authority where there is none.
    pub(crate) fn env(
        &self,
        port: u16,
        langfuse: &str,
        ca: &str,
        dir: &str,
    ) -> Vec<(String, String)> {
        let fill = |value: &String| {
            value
                .replace("{port}", &port.to_string())
                .replace("{langfuse}", langfuse)
                .replace("{ca}", ca)
                .replace("{dir}", dir)
        };
        self.env
            .iter()
            .filter(|(_, value)| !(value == "{ca}" && ca.is_empty()))
            .map(|(name, value)| (name.clone(), fill(value)))
            .collect()
    }

    /// Starts it under `wrapper`, which may be empty. Nothing of this process's environment reaches it.
    pub(crate) fn start_under(&self, wrapper: &[&str], langfuse: &str) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let platform = Platform::start();
        let mut words = wrapper.iter().map(PathBuf::from).collect::<Vec<_>>();
        words.push(self.binary.clone());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("AWS_LAMBDA_RUNTIME_API", platform.address.to_string())
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_REGION", "eu-central-1")
            .env("TMPDIR", dir.path())
            .envs(self.env(port, langfuse, "", &dir.path().display().to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().unwrap();
        Running {
            child,
            platform,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            started,
            dir,
        }
    }

    pub(crate) fn start(&self, langfuse: &str) -> Running {
        self.start_under(&[], langfuse)
    }
}

/// Killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) platform: Platform,
    pub(crate) address: SocketAddr,
    pub(crate) started: Instant,
    dir: TempDir,
}

impl Running {
    /// A connection, as soon as the extension takes one.
    pub(crate) fn connect(&self) -> Client {
        loop {
            match Client::connect(self.address) {
                Ok(client) => return client,
                Err(_) => thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// Processor time so far of its threads, as far as they have not ended.
    pub(crate) fn cpu(&self) -> Duration {
        let pid = self.child.id();
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return Duration::ZERO;
        };
        let nanos = |task: fs::DirEntry| -> Option<u64> {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        Duration::from_nanos(tasks.flatten().filter_map(nanos).sum())
    }

    /// Resident memory in MiB: all of it, and what is not a page of a file.
    pub(crate) fn memory(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| -> f64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            let kb: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            kb / 1024.0
        };
        (field("VmRSS:"), field("RssAnon:"))
    }

    /// Waits until it has used next to no processor time for a while.
    pub(crate) fn settle(&self) {
        let mut before = self.cpu();
        loop {
            thread::sleep(Duration::from_millis(250));
            let now = self.cpu();
            if now.saturating_sub(before) < Duration::from_millis(2) {
                return;
            }
            before = now;
        }
    }

    /// SHUTDOWN, and the end of the process: as in Lambda, by force once the deadline has passed.
    pub(crate) fn shut_down(self) {
        self.shut_down_within(platform::SHUTDOWN);
    }

    /// The same for a process that is slowed down by a wrapper.
    pub(crate) fn shut_down_within(mut self, patience: Duration) {
        self.platform.shut_down();
        let deadline = Instant::now() + patience;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let _already_ended = self.child.kill();
        let _ = self.child.wait();
        // The directory goes with `self`.
        let _ = self.dir.path();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
