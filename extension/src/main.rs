//! The life of the process.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use langfuse_extension::host::exec::{Start, WRAPPER, exec};
use langfuse_extension::host::process::{ToldBy, serve};
use langfuse_extension::host::supervise::SUPERVISED;
use langfuse_extension::settings::ProcessEnvironment;
use langfuse_extension::{host, logging};

/// The C library's own costs more: musl's, in the layer, gives memory back at once, so that every body is paid for in page
/// faults again (an answer beside 4 MB bodies took 0.9 ms with it, and takes 0.15 ms).
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let name = file_name(&name);
    let arguments: Vec<_> = arguments.collect();
    if name == WRAPPER {
        return wrap(arguments);
    }
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    match words.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] {
        [] => run(host::lambda::live(&name)),
        ["--version"] => {
            println!("langfuse-extension {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["exec", ..] => wrap(arguments.into_iter().skip(1).collect()),
        ["run", ..] => Start::parse(arguments.into_iter().skip(1).collect())
            .map_or_else(usage, |start| run(host::supervise::supervise(&start))),
        ["serve"] => run(serve(ToldBy::Signal)),
        ["serve", SUPERVISED] => run(serve(ToldBy::EndOfInput)),
        ["check"] => run(check()),
        ["replay", ref files @ ..] if !files.is_empty() => run(replay(files)),
        _ => usage(),
    }
}

const USAGE: &str = "usage: langfuse-extension [run [--runtime python|node] -- CMD… | serve | exec -- CMD… | check | replay FILE… | --version]
Without arguments it is started by AWS Lambda, from /opt/extensions.
  run -- CMD…    start CMD and the extension side by side, as a container's entry point; CMD's SDKs find it
  serve          be the extension beside an app that is started elsewhere, such as a sidecar
  exec -- CMD…   become CMD, whose SDKs then find the extension that runs beside; in the layer: /opt/langfuse CMD…
  check          say whether data would arrive with these settings, and what to change if not
  replay FILE…   send what spool files still hold
The settings are environment variables; see docs/settings.md.";

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn wrap(words: Vec<OsString>) -> ExitCode {
    Start::parse(words).map_or_else(usage, |start| exec(&start))
}

async fn check() -> ExitCode {
    let (findings, good) = langfuse_extension::check::check(&ProcessEnvironment).await;
    print!("{findings}");
    ExitCode::from(u8::from(!good))
}

async fn replay(files: &[&str]) -> ExitCode {
    logging::start(tracing::Level::WARN);
    match langfuse_extension::replay::replay(&ProcessEnvironment, files).await {
        Ok(replayed) => {
            println!("delivered {}, left {}", replayed.delivered, replayed.left);
            ExitCode::from(u8::from(replayed.left > 0))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(life: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let code = runtime.block_on(life);
            // Dropped, it would wait for a resolver that never answers, beyond the deadline of SHUTDOWN.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("langfuse-extension cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Lambda wants to be told the name of the file that it started.
fn file_name(path: &OsStr) -> String {
    let name = Path::new(path).file_name().unwrap_or(path);
    name.to_string_lossy().into_owned()
}
