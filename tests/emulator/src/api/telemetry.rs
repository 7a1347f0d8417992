//! The Telemetry API, 2022-07-01: subscriptions.

use super::{Reply, body, error as refusal, extensions::identify, reply};
use crate::Event;
use crate::config::{Mode, Telemetry};
use crate::state::{Shared, Stage};
use crate::telemetry::Subscription;
use http::{Request, Uri};
use hyper::body::Incoming;
use serde_json::json;
use std::sync::Arc;

/// The smallest values that Lambda takes for `maxItems`, `maxBytes` and `timeoutMs`.
const ITEMS_MIN: usize = 1_000;
const BYTES_MIN: usize = 262_144;
const TIMEOUT_MS_MIN: u64 = 25;
/// The port of Lambda's own API, which no listener may use.
const RESERVED_PORT: u16 = 9_001;

pub(super) async fn subscribe(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let name = match identify(shared, &request) {
        Ok(name) => name,
        // Where there is no such API, AWS's emulator does not look who asks.
        Err(_) if shared.config.telemetry == Telemetry::NotSupported => String::new(),
        Err(answer) => return *answer,
    };
    let body = body(request).await.unwrap_or_default();
    let answer = answer(shared, &name, &body);
    shared.timeline.add(Event::TelemetrySubscribed {
        process: name,
        status: answer.status().as_u16(),
    });
    answer
}

fn answer(shared: &Shared, name: &str, body: &[u8]) -> Reply {
    match shared.config.telemetry {
        Telemetry::NotSupported => {
            return refusal(
                202,
                "Telemetry.NotSupported",
                "Telemetry API is not supported",
            );
        }
        Telemetry::Refused(status) => return refusal(status, "Telemetry.Refused", "injected"),
        _ => {}
    }
    if !matches!(
        shared.look().stage,
        Stage::Registering | Stage::Initialising
    ) {
        return refusal(403, "Telemetry.SubscriptionClosed", "init is over");
    }
    let Ok(subscription) = serde_json::from_slice::<Subscription>(body) else {
        return refusal(400, "ValidationError", "not a subscription");
    };
    let (port, path) = match check(&subscription, shared.config.mode) {
        Ok(destination) => destination,
        Err(problem) => return refusal(400, "ValidationError", problem),
    };
    let record = json!({ "name": name, "state": "Subscribed", "types": subscription.types });
    shared
        .telemetry
        .subscribe(name.to_owned(), subscription, port, path);
    shared
        .telemetry
        .platform("platform.telemetrySubscription", &record);
    reply(200, "\"OK\"")
}

/// The port and path to post to, which is on loopback whatever the name says.
fn check(subscription: &Subscription, mode: Mode) -> Result<(u16, String), &'static str> {
    let schemas: &[&str] = if mode == Mode::ManagedInstances {
        &["2025-01-29"]
    } else {
        &["2022-07-01", "2022-12-13", "2025-01-29"]
    };
    if !schemas.contains(&subscription.schema_version.as_str()) {
        return Err("the schema version is not available");
    }
    let known = |kind: &String| ["platform", "function", "extension"].contains(&kind.as_str());
    if subscription.types.is_empty() || !subscription.types.iter().all(known) {
        return Err("types are of platform, function, extension");
    }
    let buffering = &subscription.buffering;
    if buffering.max_items < ITEMS_MIN
        || buffering.max_bytes < BYTES_MIN
        || buffering.timeout_ms < TIMEOUT_MS_MIN
    {
        return Err("buffering is below the minimum");
    }
    if subscription.destination.protocol != "HTTP" {
        return Err("only HTTP is supported");
    }
    let uri: Uri = subscription
        .destination
        .uri
        .parse()
        .map_err(|_| "the URI is not one")?;
    if !matches!(
        uri.host(),
        Some("sandbox.localdomain" | "sandbox" | "127.0.0.1" | "localhost")
    ) {
        return Err("the URI's host is not sandbox.localdomain");
    }
    let port = uri.port_u16().unwrap_or(80);
    if port == RESERVED_PORT {
        return Err("the port is reserved");
    }
    // In Managed Instances mode AWS's emulator posts to `/`, whatever path was asked for.
    let path = if mode == Mode::ManagedInstances {
        "/"
    } else {
        uri.path()
    };
    Ok((port, path.to_owned()))
}
