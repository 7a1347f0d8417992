//! What is true of one run as a whole: settings, traffic, and how unkind the world is.

use std::sync::Arc;
use std::time::Duration;

use langfuse_extension_core::Settings;
use langfuse_extension_core::route::{Credential, Door, Route};
use langfuse_extension_core::strategy::Strategy;

use crate::rng::Rng;
use crate::world::PLATFORM_EPOCH;

/// How the Telemetry API behaves in this run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Telemetry {
    Told,
    Silent,
    Flaky,
}

/// How the app's spans reach the extension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Style {
    /// `flush()` before the handler answers.
    Flushed,
    /// An SDK thread that sends at most 0.1 s after a span's end.
    Batched,
    /// Spans of tasks that go on after the answer.
    Background,
    Anything,
}

#[derive(Debug)]
pub(crate) struct Nature {
    pub(crate) settings: Settings,
    pub(crate) managed: bool,
    pub(crate) telemetry: Telemetry,
    pub(crate) style: Style,
    pub(crate) routes: Vec<Arc<Route>>,
    pub(crate) gaps_ms: (u64, u64),
    pub(crate) handlers_ms: (u64, u64),
    pub(crate) large_bodies: bool,
    pub(crate) odd_clocks: bool,
    /// What the sandbox's wall clock is ahead of the world's time.
    pub(crate) wall_offset: Duration,
    /// The function's.
    pub(crate) timeout: Duration,
    pub(crate) odd_deadlines: bool,
    pub(crate) outages: bool,
    pub(crate) kills: bool,
    pub(crate) spool_limit_units: u64,
    pub(crate) invocations: u64,
    pub(crate) shutdown_first: bool,
}

impl Nature {
    /// Whether all goes well but for what the app does: what could be sent can be asked for.
    pub(crate) fn is_kind(&self) -> bool {
        let roomy = self.settings.buffer_bytes == Settings::default().buffer_bytes;
        let kind = !self.outages && !self.kills && !self.odd_clocks && !self.odd_deadlines;
        kind && roomy && !self.large_bodies && !self.managed
    }

    /// Whether a sandbox is held until everything is sent.
    pub(crate) fn holds(&self) -> bool {
        let sparse = self.gaps_ms.1 > 10_000;
        let told = self.telemetry == Telemetry::Told;
        self.is_kind()
            && told
            && match self.settings.strategy {
                Strategy::Adaptive => sparse,
                Strategy::End => true,
                Strategy::Background => false,
            }
    }
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let dense = rng.one_in(3);
        let mut settings = settings(rng);
        let managed = rng.one_in(16);
        settings.snapshot &= !managed;
        let many_routes = rng.one_in(40);
        let spool_limit_units = if rng.one_in(6) {
            rng.between(0, 200)
        } else {
            u64::MAX
        };
        if rng.one_in(4) {
            settings.buffer_bytes = usize::try_from(rng.between(0, 60_000)).unwrap_or_default();
        }
        let handlers_ms = rng.pick(&[(1, 30), (20, 900), (200, 25_000)]);
        let odd_clocks = rng.one_in(3);
        Self {
            wall_offset: wall_offset(odd_clocks, rng),
            timeout: timeout(handlers_ms.1, rng),
            settings,
            managed,
            telemetry: rng.pick(&[
                Telemetry::Told,
                Telemetry::Told,
                Telemetry::Silent,
                Telemetry::Flaky,
            ]),
            style: rng.pick(&[
                Style::Flushed,
                Style::Batched,
                Style::Background,
                Style::Anything,
            ]),
            routes: routes(if many_routes { 80 } else { rng.between(1, 6) }),
            gaps_ms: if dense { (0, 600) } else { (100, 400_000) },
            handlers_ms,
            large_bodies: rng.one_in(5),
            odd_clocks,
            odd_deadlines: rng.one_in(5),
            outages: !rng.one_in(6),
            kills: rng.one_in(4),
            spool_limit_units,
            invocations: rng.between(1, 24),
            shutdown_first: rng.one_in(50),
        }
    }
}

/// A clock that is right, or minutes behind or ahead from the start.
fn wall_offset(odd: bool, rng: &mut Rng) -> Duration {
    let off = rng.ms(0, 200_000);
    match (odd, rng.between(0, 3)) {
        (true, 0) => PLATFORM_EPOCH - off,
        (true, 1) => PLATFORM_EPOCH + off,
        _ => PLATFORM_EPOCH,
    }
}

/// Whole seconds, as Lambda has it, that nearly all handlers keep to.
fn timeout(longest_handler_ms: u64, rng: &mut Rng) -> Duration {
    let seconds = rng.pick(&[1, 3, 10, 60, 900]);
    Duration::from_secs((longest_handler_ms + 600) / 1_000 + seconds)
}

fn settings(rng: &mut Rng) -> Settings {
    let defaults = Settings::default();
    let ms = Duration::from_millis;
    Settings {
        strategy: rng.pick(&[
            Strategy::Adaptive,
            Strategy::Adaptive,
            Strategy::End,
            Strategy::Background,
        ]),
        flush_budget: rng.pick(&[defaults.flush_budget, defaults.flush_budget, ms(500), ms(0)]),
        grace_limit: rng.pick(&[defaults.grace_limit, defaults.grace_limit, ms(50), ms(0)]),
        max_data_age: rng.pick(&[defaults.max_data_age, ms(1_000), ms(60_000)]),
        request_timeout: rng.pick(&[defaults.request_timeout, ms(3_000)]),
        resend_ambiguous: !rng.one_in(4),
        spool: !rng.one_in(4),
        seed: rng.next(),
        snapshot: rng.one_in(8),
        ..defaults
    }
}

fn routes(count: u64) -> Vec<Arc<Route>> {
    let doors = [
        Door::TracesProtobuf,
        Door::Ingestion,
        Door::TracesJson,
        Door::Scores,
    ];
    let route = |n: u64| {
        let door = doors[usize::try_from(n % 4).unwrap_or_default()];
        let credential = if n % 3 == 1 {
            Credential::Configured
        } else {
            Credential::Client("Basic cGs6c2s=".into())
        };
        let headers = vec![("x-langfuse-sdk-version".into(), n.to_string().into_bytes())];
        Arc::new(Route {
            door,
            credential,
            headers,
        })
    };
    (0..count).map(route).collect()
}
