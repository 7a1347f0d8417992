//! `exec`, and `/opt/langfuse` in the layer: becomes the app's process, whose SDKs then find this extension.
//!
//! Whatever goes wrong here ends in the command that was asked for, as it would have been without this: a wrapper that does
//! not start the runtime fails the customer's invocation.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper>

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::panic::catch_unwind;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use super::attach::{self, Load, Runtime};
use crate::receiver::IDENTITY_HEADER;
use crate::settings::{Config, ProcessEnvironment};

/// What the file of the layer is called; under this name the program is the wrapper.
pub const WRAPPER: &str = "langfuse";

/// The wrapper that comes after this one, if any: AWS's Web Adapter has its own, `/opt/bootstrap`.
const THEN_EXEC: &str = "LANGFUSE_EXTENSION_THEN_EXEC";

/// How long whoever holds the port has to say who it is. The extension's share of a small function's processor is one of
/// fourteen, and it may be opening its files; another collector that never answers costs this once for each sandbox.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The longest head of an answer that is read.
const HEAD_LIMIT_BYTES: usize = 8 << 10;

/// As shells have it: what was asked for could not be started.
pub(super) const CANNOT_EXEC: u8 = 126;

/// As shells have it: what was asked for does not exist.
pub(super) const NOT_FOUND: u8 = 127;

/// What is to be started, and what it is written in.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    /// The program and its arguments: never empty.
    pub command: Vec<OsString>,
    /// What it is written in.
    pub runtime: Runtime,
}

impl Start {
    pub(super) fn cannot(&self, error: &std::io::Error) -> String {
        format!("cannot start {}: {error}", self.program().display())
    }

    /// What is started.
    pub fn program(&self) -> &OsStr {
        self.command
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// Reads `[--runtime python|node] [--] CMD…`. `None` if there is no command.
    pub fn parse(words: Vec<OsString>) -> Option<Self> {
        let mut words = words.into_iter().peekable();
        let mut runtime = None;
        while let Some(option) = words.next_if(|word| word.as_encoded_bytes().starts_with(b"--")) {
            let option = option.to_string_lossy();
            if option == "--" {
                break;
            }
            if option == "--runtime" {
                runtime = words.next().map(|name| name.to_string_lossy().into_owned());
            } else if let Some(name) = option.strip_prefix("--runtime=") {
                runtime = Some(name.to_owned());
            }
        }
        let command: Vec<_> = words.collect();
        let program = command.first()?;
        Some(Self {
            runtime: runtime.map_or_else(|| Runtime::of(program), |name| Runtime::named(&name)),
            command,
        })
    }
}

/// Becomes the command. Returns only if that could not be started at all.
pub fn exec(start: &Start) -> ExitCode {
    // A panic has said what it is; the app is started all the same.
    let environment = catch_unwind(|| environment(start.runtime)).unwrap_or_default();
    if let Some(next) = std::env::var_os(THEN_EXEC).filter(|next| !next.is_empty()) {
        let words = std::iter::once(next).chain(start.command.iter().cloned());
        let error = become_command(&words.collect::<Vec<_>>(), &environment);
        say(&format!(
            "{THEN_EXEC} cannot be started, so it is left out: {error}"
        ));
    }
    let error = become_command(&start.command, &environment);
    say(&start.cannot(&error));
    ExitCode::from(match error.kind() {
        std::io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_EXEC,
    })
}

/// What the app is told: nothing, if the extension is not there to be found.
fn environment(runtime: Runtime) -> Vec<(&'static str, String)> {
    let listen = Config::read(&ProcessEnvironment).listen;
    if is_extension(listen, PATIENCE) {
        return attach::changes(&ProcessEnvironment, runtime, load(), listen);
    }
    say(&format!(
        "no langfuse-extension answers on {listen}, so the app is started as it is"
    ));
    Vec::new()
}

/// Lambda says how many invocations an environment has at once, where these can be several.
fn load() -> Load {
    match std::env::var_os("AWS_LAMBDA_MAX_CONCURRENCY") {
        Some(_) => Load::ManyAtOnce,
        None => Load::OneAtATime,
    }
}

fn become_command(words: &[OsString], environment: &[(&'static str, String)]) -> std::io::Error {
    let program = words.first().map_or(OsStr::new(""), OsString::as_os_str);
    let values = environment.iter().map(|(name, value)| (*name, value));
    Command::new(program)
        .args(words.iter().skip(1))
        .envs(values)
        .env_remove(THEN_EXEC)
        .exec()
}

/// Whether this extension, and not another collector, answers on `address`.
pub fn is_extension(address: SocketAddr, patience: Duration) -> bool {
    head_of_status(address, patience).is_ok_and(|head| names_extension(&head))
}

fn head_of_status(address: SocketAddr, patience: Duration) -> std::io::Result<Vec<u8>> {
    let until = Instant::now() + patience;
    // Zero would mean no limit at all.
    let left = || {
        until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    };
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    stream.set_write_timeout(Some(left()))?;
    let question = format!("GET /status HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !is_whole(&head) && head.len() < HEAD_LIMIT_BYTES && Instant::now() < until {
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut piece)? {
            0 => break,
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    Ok(head)
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n")
}

fn names_extension(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let Some((head, _)) = head.split_once("\r\n\r\n") else {
        return false;
    };
    let mut lines = head.split("\r\n");
    let is_well = lines
        .next()
        .is_some_and(|line| line.starts_with("HTTP/1.1 200"));
    is_well
        && lines.any(|line| {
            line.split_once(':')
                .is_some_and(|(name, _)| name.eq_ignore_ascii_case(IDENTITY_HEADER.as_str()))
        })
}

/// Standard error is the function's log. The logger is not started: that costs more than all the rest.
pub(super) fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "{WRAPPER}: {message}");
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn start(words: &[&str]) -> Option<Start> {
        Start::parse(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn what_follows_is_the_command_with_or_without_two_dashes() {
        for words in [
            &["python3", "-m", "app"][..],
            &["--", "python3", "-m", "app"],
        ] {
            let start = start(words).unwrap();
            assert_eq!(start.command, ["python3", "-m", "app"]);
            assert_eq!(start.runtime, Runtime::Python);
        }
        assert_eq!(start(&[]), None);
        assert_eq!(start(&["--"]), None);
    }

    #[test]
    fn the_runtime_can_be_said() {
        for words in [
            &["--runtime", "node", "npm", "start"][..],
            &["--runtime=node", "--", "npm", "start"],
        ] {
            let start = start(words).unwrap();
            assert_eq!(start.command, ["npm", "start"]);
            assert_eq!(start.runtime, Runtime::Node);
        }
        let start = start(&["--runtime", "cobol", "python3"]).unwrap();
        assert_eq!(start.runtime, Runtime::Unknown);
    }

    /// Whoever holds the port, and says this.
    fn holder(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut question = Vec::new();
                while !is_whole(&question) {
                    let mut piece = [0; 256];
                    let length = stream.read(&mut piece).unwrap();
                    question.extend_from_slice(&piece[..length]);
                }
                for piece in answer.as_bytes().chunks(20) {
                    let _ = stream.write_all(piece);
                }
            }
        });
        address
    }

    #[test]
    fn only_this_extension_is_recognised() {
        let ours = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Langfuse-Extension: 0.1.0\r\n\r\n{}";
        assert!(is_extension(holder(ours), PATIENCE));
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 404 Not Found\r\nx-langfuse-extension: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nx-langfuse-extension: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-langfuse-extension: 0",
            "",
        ] {
            assert!(!is_extension(holder(other), PATIENCE), "{other:?}");
        }
    }

    #[test]
    fn a_port_that_nobody_holds_or_that_never_answers_is_not_waited_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_millis(50);
        let started = Instant::now();
        assert!(!is_extension(address, patience), "it never answers");
        assert!(started.elapsed() >= patience);
        drop(listener);
        assert!(!is_extension(address, PATIENCE), "nobody is there");
    }
}
