//! Who starts, freezes and ends this process, and what every such host starts alike.

pub mod attach;
pub mod exec;
pub mod lambda;
pub mod process;
pub mod supervise;

use std::sync::Arc;

use langfuse_extension_core::memory::Memory;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::agent::{self, Agent};
use crate::credentials::keyring::Keyring;
use crate::egress::Stage;
use crate::exporter::langfuse::Exporter;
use crate::exporter::upstream::Upstream;
use crate::inputs::Inputs;
use crate::memory::Budget;
use crate::receiver::{self, Receiver};
use crate::settings::Config;
use crate::spool::disk::Disk;

/// The ports that clients come to.
#[derive(Debug)]
struct Doors(Vec<TcpListener>);

impl Doors {
    /// Without a port there is nothing to do, but no harm in it either.
    async fn bind(config: &Config) -> Self {
        let mut doors = Vec::new();
        // Many sandboxes have no IPv6, and then nobody can ask for it.
        if let Some(address) = config.also_listen
            && let Ok(listener) = TcpListener::bind(address).await
        {
            doors.push(listener);
        }
        match TcpListener::bind(config.listen).await {
            Ok(listener) => doors.push(listener),
            Err(error) => tracing::error!(
                address = %config.listen,
                %error,
                "cannot listen, so nothing is traced: does another collector (ADOT, Datadog) hold this port? \
                 Set LANGFUSE_EXTENSION_LISTEN and the app's LANGFUSE_BASE_URL to another one"
            ),
        }
        Self(doors)
    }
}

/// What a host goes on with: it tells `inputs` what happens, is asked for the next event by `next_asked`, and runs the agent.
struct Opened {
    agent: Agent,
    inputs: Inputs,
    next_asked: mpsc::UnboundedReceiver<()>,
}

/// Opens everything between the doors and Langfuse. Nothing is waited for.
fn open(mut config: Config, doors: Doors) -> Opened {
    let (inputs, events) = Inputs::channel();
    let (ask_next, next_asked) = mpsc::unbounded_channel();
    let (reread_keys, keys_doubted) = mpsc::unbounded_channel();
    config.core.seed = agent::random_seed();
    let upstream = Upstream::open(config.upstream.take(), config.ca_file.as_deref());

    let memory = Memory::of_function(config.function_bytes);
    let mut limits = receiver::Limits::within(config.core.buffer_bytes, &memory);
    if !config.egress.are_off() {
        limits = limits.looked_into(&memory);
    }
    let budget = Budget::new(memory);
    let bodies_stay = config.egress.mask.is_configured() && !config.mask_passthrough;
    let rules = std::mem::take(&mut config.egress);
    let stage = (!rules.are_off()).then(|| Arc::new(Stage::new(rules)));
    let exporter = Exporter::new(upstream.clone(), inputs.clone(), budget.clone()).behind(stage);
    let disk = config
        .core
        .spool
        .then(|| open_disk(&config, &inputs))
        .flatten();
    config.core.spool = disk.is_some();
    let keyring = Keyring::new(config.keys.take(), config.aws.clone(), upstream.clone());
    let receiver = Arc::new(Receiver::new(
        inputs.clone(),
        upstream,
        budget,
        receiver::Settings {
            passthrough: config.passthrough,
            accept: config.accept,
            scores: config.scores,
            bodies_stay,
            prompt_cache: config.prompt_cache,
            has_keys: keyring.has_sources(),
            route_headers: std::mem::take(&mut config.route_headers),
            limits,
        },
    ));
    tokio::spawn(keyring.keep(inputs.clone(), keys_doubted));
    for listener in doors.0 {
        tokio::spawn(Arc::clone(&receiver).serve(listener));
    }
    let agent = Agent::new(config.core, events, ask_next, exporter, disk, reread_keys);
    Opened {
        agent,
        inputs,
        next_asked,
    }
}

fn open_disk(config: &Config, inputs: &Inputs) -> Option<Disk> {
    Disk::open(config, inputs.clone())
        .inspect_err(|error| tracing::warn!(%error, dir = %config.spool_dir.display(), "going on without a spool"))
        .ok()
}
