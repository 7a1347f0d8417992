//! The life of the process under AWS Lambda, from registration to SHUTDOWN.

pub mod platform;
pub mod telemetry;

use std::process::ExitCode;

use tokio::sync::mpsc;

use super::{Doors, Opened, open};
use crate::inputs::{Event, Input, Inputs, PlatformEvent};
use crate::logging;
use crate::settings::{Config, DEFAULT_BASE_URL, ProcessEnvironment};
use platform::Platform;
use telemetry::Telemetry;

/// From registration to SHUTDOWN. The sandbox starts the function's runtime once every extension is registered, so
/// nothing slow may come before that. The port is bound before, which takes microseconds: so whoever is started after
/// the registration finds it, and waits for the answer instead of being refused.
pub async fn live(name: &str) -> ExitCode {
    let config = Config::read(&ProcessEnvironment);
    logging::start(config.log_level);
    let Some(api) = &config.runtime_api else {
        tracing::error!(
            "AWS_LAMBDA_RUNTIME_API is not set: this program is started by AWS Lambda from /opt/extensions"
        );
        return ExitCode::from(2);
    };
    let doors = Doors::bind(&config).await;
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
    if config.upstream_is_default && config.core.enabled {
        tracing::warn!(
            "nothing says where Langfuse is, so data goes to its EU cloud, as with its SDKs; \
             LANGFUSE_EXTENSION_BASE_URL={DEFAULT_BASE_URL} says that this is meant"
        );
    }
    serve(config, doors, platform).await
}

async fn serve(config: Config, doors: Doors, mut platform: Platform) -> ExitCode {
    let Opened {
        mut agent,
        inputs,
        next_asked,
    } = open(config, doors);
    let subscribed = subscribe(&mut platform, &inputs).await;

    inputs.event(Event::Registered {
        invoke: platform.told_of_invocations,
    });
    let mut events_of_lambda = tokio::spawn(follow(platform, next_asked, inputs));
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

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
