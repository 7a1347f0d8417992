//! The life of the process.

use std::process::ExitCode;
use std::sync::Arc;

use langfuse_extension::agent::{self, Agent, Event, Input, Inputs};
use langfuse_extension::config::{Config, ProcessEnvironment};
use langfuse_extension::disk::Disk;
use langfuse_extension::exporter::Exporter;
use langfuse_extension::keys::Keyring;
use langfuse_extension::platform::{Platform, PlatformEvent};
use langfuse_extension::receiver::{self, Receiver};
use langfuse_extension::telemetry::Telemetry;
use langfuse_extension::upstream::Upstream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// The C library's own costs more: musl's, in the layer, gives memory back at once, so that every body is paid for in page
/// faults again (an answer beside 4 MB bodies took 0.9 ms with it, and takes 0.15 ms).
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(live(file_name(&name))),
        ["--version"] => {
            println!("langfuse-extension {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["check"] => run(check()),
        ["replay", ref files @ ..] if !files.is_empty() => run(replay(files)),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

const USAGE: &str = "usage: langfuse-extension [check | replay FILE… | --version]
Without arguments it is started by AWS Lambda, from /opt/extensions.
  check          say whether data would arrive with these settings, and what to change if not
  replay FILE…   send what spool files still hold
The settings are environment variables; see the README.";

async fn check() -> ExitCode {
    start_logging(tracing::Level::ERROR);
    let (findings, good) = langfuse_extension::check::check(&ProcessEnvironment).await;
    print!("{findings}");
    ExitCode::from(u8::from(!good))
}

async fn replay(files: &[&str]) -> ExitCode {
    start_logging(tracing::Level::WARN);
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

/// From registration to SHUTDOWN. The sandbox starts the function's runtime once every extension is registered, so
/// nothing slow may come before that.
async fn live(name: &str) -> ExitCode {
    let config = Config::read(&ProcessEnvironment);
    start_logging(config.log_level);
    let Some(api) = &config.runtime_api else {
        tracing::error!(
            "AWS_LAMBDA_RUNTIME_API is not set: this program is started by AWS Lambda from /opt/extensions"
        );
        return ExitCode::from(2);
    };
    let platform = match Platform::register(api, name).await {
        Ok(platform) => platform,
        Err(error) => {
            tracing::error!(%error, "Lambda refused to register this extension, so the function cannot start");
            return ExitCode::FAILURE;
        }
    };
    for problem in &config.problems {
        tracing::error!("{problem}");
    }
    serve(config, platform).await
}

async fn serve(mut config: Config, mut platform: Platform) -> ExitCode {
    let (inputs, events) = Inputs::channel();
    let (ask_next, next_asked) = mpsc::unbounded_channel();
    let (reread_keys, keys_doubted) = mpsc::unbounded_channel();
    config.core.seed = agent::random_seed();
    let upstream = Upstream::open(config.upstream.take(), config.ca_file.as_deref());
    config.core.enabled &= upstream.has_address();

    let exporter = Exporter::new(upstream.clone(), inputs.clone());
    let disk = config.core.spool.then(|| open_disk(&config)).flatten();
    config.core.spool = disk.is_some();
    let keyring = Keyring::new(config.keys.take(), config.aws.clone(), upstream.clone());
    let receiver = Receiver::new(
        inputs.clone(),
        upstream,
        receiver::Settings {
            passthrough: config.passthrough,
            accept: config.accept,
            prompt_cache: config.prompt_cache,
            has_keys: keyring.has_sources(),
            limits: receiver::Limits::default(),
        },
    );
    tokio::spawn(keyring.keep(inputs.clone(), keys_doubted));
    listen(&config, receiver).await;
    let subscribed = subscribe(&mut platform, &inputs).await;

    inputs.event(Event::Registered {
        invoke: platform.told_of_invocations,
    });
    let mut events_of_lambda = tokio::spawn(follow(platform, next_asked, inputs));
    let mut agent = Agent::new(config.core, events, ask_next, exporter, disk, reread_keys);
    if !subscribed {
        agent.silence_is_known();
    }
    // A task of its own, so that a panic anywhere in it does not end the process, and with it the invocation.
    tokio::select! {
        end = tokio::spawn(agent.run()) => match end {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => events_of_lambda.await.unwrap_or(ExitCode::FAILURE),
        },
        end = &mut events_of_lambda => end.unwrap_or(ExitCode::FAILURE),
    }
}

/// Asks Lambda for the next event whenever the agent says so, and by itself once the agent is gone before SHUTDOWN.
/// Ends with SHUTDOWN then, or when Lambda's API has failed for good.
async fn follow(
    mut platform: Platform,
    mut next_asked: mpsc::UnboundedReceiver<()>,
    inputs: Inputs,
) -> ExitCode {
    let mut shutting_down = false;
    loop {
        let agent_is_gone = next_asked.recv().await.is_none();
        if agent_is_gone && shutting_down {
            return ExitCode::SUCCESS;
        }
        match platform.next().await {
            Ok(event) => {
                shutting_down = matches!(event, PlatformEvent::Shutdown { .. });
                inputs.send(Input::Platform(event));
            }
            Err(error) => {
                tracing::error!(%error, "Lambda's API gives no next event, so the extension ends");
                let _ = platform.exit_error("Extension.NextFailed").await;
                return ExitCode::FAILURE;
            }
        }
    }
}

/// Without a port there is nothing to do, but no harm in it either.
async fn listen(config: &Config, receiver: Receiver) {
    let receiver = Arc::new(receiver);
    // Many sandboxes have no IPv6, and then nobody can ask for it.
    if let Some(address) = config.also_listen
        && let Ok(listener) = TcpListener::bind(address).await
    {
        tokio::spawn(Arc::clone(&receiver).serve(listener));
    }
    match TcpListener::bind(config.listen).await {
        Ok(listener) => {
            tokio::spawn(receiver.serve(listener));
        }
        Err(error) => tracing::error!(
            address = %config.listen,
            %error,
            "cannot listen, so nothing is traced: does another collector (ADOT, Datadog) hold this port? \
             Set LANGFUSE_EXTENSION_LISTEN and the app's LANGFUSE_BASE_URL to another one"
        ),
    }
}

/// Says whether the end of each invocation will be told.
async fn subscribe(platform: &mut Platform, inputs: &Inputs) -> bool {
    match Telemetry::bind().await {
        Ok(telemetry) => match platform.subscribe(&telemetry.destination()).await {
            Ok(()) => {
                tokio::spawn(telemetry.serve(inputs.clone()));
                return true;
            }
            Err(error) => {
                tracing::info!(%error, "no telemetry here; the end of an invocation is guessed");
            }
        },
        Err(error) => {
            tracing::warn!(%error, "cannot listen for telemetry; the end of an invocation is guessed");
        }
    }
    false
}

fn open_disk(config: &Config) -> Option<Disk> {
    Disk::open(config)
        .inspect_err(|error| tracing::warn!(%error, dir = %config.spool_dir.display(), "going on without a spool"))
        .ok()
}

fn start_logging(level: tracing::Level) {
    // Lambda stamps each line with the time itself.
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .with_writer(std::io::stdout)
        .init();
}

/// Lambda wants to be told the name of the file that it started.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Registers whoever asks, and then gives these events, one for each request.
    async fn lambda(events: &'static [&'static str]) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for body in std::iter::once(&"{}").chain(events) {
                // Each request comes in one segment or two: its head, and a body that does not matter.
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nlambda-extension-identifier: x\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, served)
    }

    #[tokio::test]
    async fn without_its_agent_it_still_asks_for_every_event_until_shutdown() {
        let invoke = r#"{"eventType":"INVOKE","requestId":"r","deadlineMs":1}"#;
        let events = [invoke, invoke, r#"{"eventType":"SHUTDOWN","deadlineMs":1}"#];
        let (address, served) = lambda(Box::leak(Box::new(events))).await;
        let platform = Platform::register(&address, "x").await.unwrap();
        let (inputs, _) = Inputs::channel();
        let (ask_next, next_asked) = mpsc::unbounded_channel();
        drop(ask_next);
        let end = follow(platform, next_asked, inputs).await;
        assert_eq!(end, ExitCode::SUCCESS);
        served.await.unwrap();
    }
}
