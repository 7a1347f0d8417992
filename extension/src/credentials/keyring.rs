//! Gets the extension's own keys, after registering and never on the handler's path, and gets them again when Langfuse
//! refuses them.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::credentials::{self, AwsEnvironment};
use crate::exporter::upstream::{ReadyKeys, Upstream};
use crate::inputs::{Event, Inputs};
use crate::settings::KeySources;

/// How long one attempt to get the keys may take.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause after a failed attempt; it doubles from there.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The sources of the keys, and what is needed to read them.
#[derive(Debug)]
pub struct Keyring {
    sources: Option<KeySources>,
    aws: AwsEnvironment,
    upstream: Upstream,
}

impl Keyring {
    /// `sources`: none if every client brings keys of its own.
    pub fn new(sources: Option<KeySources>, aws: AwsEnvironment, upstream: Upstream) -> Self {
        Self {
            sources,
            aws,
            upstream,
        }
    }

    /// Whether there are keys to be had.
    pub fn has_sources(&self) -> bool {
        self.sources.is_some()
    }

    /// Gets the keys, and again whenever they are `doubted`. Ends when nobody can doubt them any more.
    pub async fn keep(self, inputs: Inputs, mut doubted: mpsc::UnboundedReceiver<()>) {
        if self.sources.is_none() {
            return;
        }
        loop {
            self.get(&inputs).await;
            if doubted.recv().await.is_none() {
                return;
            }
            // Several doubts at once are one.
            while doubted.try_recv().is_ok() {}
        }
    }

    async fn get(&self, inputs: &Inputs) {
        let (Some(sources), Some(client)) = (&self.sources, aws_client(&self.upstream)) else {
            return;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match credentials::resolve(
                &sources.public,
                &sources.secret,
                &self.aws,
                &client,
                RESOLVE_TIMEOUT,
            )
            .await
            {
                Ok(keys) => {
                    let authorization = keys.basic_authorization();
                    for kind in &keys.trimmed {
                        tracing::warn!(key = ?kind, "white space around this key was taken off; is it stored as meant?");
                    }
                    // The same keys again would be refused again; the core asks anew after its wait.
                    if self
                        .upstream
                        .set_keys(ReadyKeys::new(keys.public, authorization))
                    {
                        inputs.event(Event::KeysReady);
                    }
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot get the keys; their data is held, and this tried again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The client that asks AWS for keys. Container credentials come over plain HTTP from the sandbox itself, so only HTTPS
/// goes through a proxy.
pub fn aws_client(upstream: &Upstream) -> Option<reqwest::Client> {
    let proxy = ["HTTPS_PROXY", "https_proxy"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let proxy = proxy.and_then(|url| reqwest::Proxy::https(url).ok());
    upstream.client_with(|builder| {
        let builder = credentials::client_settings(builder.no_proxy());
        match proxy {
            Some(proxy) => builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_env())),
            None => builder,
        }
    })
}
