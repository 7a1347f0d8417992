//! What the extension says about itself: one line for each sandbox, and `GET /status`.

use std::collections::BTreeMap;

use langfuse_extension_core::Core;
use langfuse_extension_core::hold::{Holds, Why};
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::time::Now;
use serde::Serialize;

use crate::egress::Counts;
use crate::payload::Payload;

/// Losses are logged when they begin, and then each time they have grown by this factor.
const LOG_LOSSES_AT_GROWTH: u64 = 10;

/// The books beside the core's own.
#[derive(Debug, Default)]
pub struct Report {
    invocations: u64,
    shutdown_reason: Option<String>,
    said_untold: bool,
    losses: BTreeMap<DropReason, Losses>,
    repaired: u64,
    passed: Counts,
}

#[derive(Debug, Default)]
struct Losses {
    units: u64,
    log_from: u64,
}

/// What `GET /status` answers. No payloads, no secrets. Units are spans, events and scores.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    invocations: u64,
    /// The equation: accepted + recovered = delivered + held + on disk + spooled + dropped
    /// + filtered + sampled out.
    accepted: u64,
    recovered: u64,
    delivered: u64,
    held: u64,
    on_disk: u64,
    spooled: u64,
    dropped: u64,
    dropped_by_reason: BTreeMap<&'static str, u64>,
    filtered: u64,
    sampled_out: u64,
    /// Values that left with a mark in them, without their content, or shorter than they were.
    masked: u32,
    stripped: u32,
    shortened: u32,
    /// Ancestors that were filtered before what they are ancestors of came.
    filtered_too_early: u32,
    /// Requests of clients that were not taken; how many units were in them is not known.
    refused: u64,
    refused_by_reason: BTreeMap<&'static str, Refused>,
    /// Requests with text that Langfuse cannot store, which was replaced.
    repaired: u64,
    /// Records or files of the spool that could not be read at all.
    unreadable: u64,
    maybe_doubled: u64,
    requests: u64,
    probes: u64,
    held_bytes: usize,
    langfuse_is_bad: bool,
    end_of_invocation_is_told: bool,
    /// Why sandboxes were held after the end of work.
    held_by_reason: BTreeMap<&'static str, Held>,
}

/// What one reason to hold the sandbox amounted to.
#[derive(Debug, Serialize)]
struct Held {
    ms: u64,
    /// Invocations that it held last, and so released. `none`: those that were not held at all.
    invocations: u64,
}

fn held_by_reason(holds: &Holds) -> BTreeMap<&'static str, Held> {
    let held = |why| Held {
        ms: holds.held(why).as_millis().try_into().unwrap_or(u64::MAX),
        invocations: holds.releases(why),
    };
    let all = Why::ALL.into_iter().map(|why| (why.name(), held(why)));
    all.filter(|(_, held)| held.ms > 0 || held.invocations > 0)
        .collect()
}

/// Requests that were not taken for one reason.
#[derive(Debug, Serialize)]
struct Refused {
    requests: u64,
    bytes: u64,
}

impl Report {
    /// Why telemetry is silent has been logged: it need not be said again.
    pub fn silence_is_known(&mut self) {
        self.said_untold = true;
    }

    /// An invocation has come. `told`: the Telemetry API had spoken by then.
    pub fn invoked(&mut self, told: bool) {
        self.invocations += 1;
        if self.invocations == 2 && !told && !self.said_untold {
            self.said_untold = true;
            tracing::info!(
                "Lambda's Telemetry API is silent here; the end of an invocation is guessed from idle time"
            );
        }
    }

    /// The sandbox ends.
    pub fn shutting_down(&mut self, reason: String) {
        self.shutdown_reason = Some(reason);
    }

    /// A client's data has come.
    pub fn accepted(&mut self, payload: &Payload) {
        if payload.was_repaired() {
            self.repaired += 1;
            if self.repaired == 1 {
                tracing::warn!(
                    "text with half of a surrogate pair, which Langfuse cannot store, was sent: U+FFFD stands in for it; \
                     further requests are counted and not logged"
                );
            }
        }
    }

    /// The stage before Langfuse has done something.
    pub fn passed(&mut self, counts: &Counts) {
        self.passed.add(counts);
    }

    /// Something was given up.
    pub fn dropped(&mut self, reason: DropReason, units: u64) {
        let losses = self.losses.entry(reason).or_default();
        losses.units += units;
        if losses.units >= losses.log_from && reason != DropReason::Disabled {
            tracing::warn!(
                reason = reason.name(),
                units = losses.units,
                "data was given up"
            );
            losses.log_from = losses.units * LOG_LOSSES_AT_GROWTH;
        }
    }

    /// How things stand.
    pub fn status(&self, core: &Core<Payload>, now: Now) -> Status {
        let ledger = core.ledger();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            invocations: self.invocations,
            accepted: ledger.accepted,
            recovered: ledger.recovered,
            delivered: ledger.delivered,
            held: core.held_units(),
            on_disk: ledger.on_disk,
            spooled: ledger.spooled,
            dropped: ledger.dropped.total(),
            dropped_by_reason: ledger
                .dropped
                .iter()
                .map(|(reason, units)| (reason.name(), units))
                .collect(),
            filtered: ledger.filtered,
            sampled_out: ledger.sampled_out,
            masked: self.passed.masked,
            stripped: self.passed.stripped,
            shortened: self.passed.shortened,
            filtered_too_early: self.passed.late,
            refused: ledger.refusals.total(),
            refused_by_reason: ledger
                .refusals
                .iter()
                .map(|(reason, it)| {
                    (
                        reason.name(),
                        Refused {
                            requests: it.requests,
                            bytes: it.bytes,
                        },
                    )
                })
                .collect(),
            repaired: self.repaired,
            unreadable: ledger.unreadable,
            maybe_doubled: ledger.maybe_doubled,
            requests: ledger.requests,
            probes: ledger.probes,
            held_bytes: core.held_bytes(),
            langfuse_is_bad: core.langfuse_is_bad(now),
            end_of_invocation_is_told: core.is_told(),
            held_by_reason: held_by_reason(core.holds()),
        }
    }

    /// Logs the one line of this sandbox. Terraform's alarm on losses looks for its message and its `dropped`.
    pub fn log(&self, core: &Core<Payload>, now: Now) {
        let status = self.status(core, now);
        let reason = self.shutdown_reason.as_deref().unwrap_or_default();
        let dropped_by_reason =
            serde_json::to_string(&status.dropped_by_reason).unwrap_or_default();
        let refused_by_reason =
            serde_json::to_string(&status.refused_by_reason).unwrap_or_default();
        let held_by_reason = serde_json::to_string(&status.held_by_reason).unwrap_or_default();
        tracing::info!(
            reason,
            invocations = status.invocations,
            accepted = status.accepted,
            recovered = status.recovered,
            delivered = status.delivered,
            spooled = status.spooled,
            dropped = status.dropped,
            dropped_by_reason,
            filtered = status.filtered,
            sampled_out = status.sampled_out,
            masked = status.masked,
            stripped = status.stripped,
            refused = status.refused,
            refused_by_reason,
            unreadable = status.unreadable,
            maybe_doubled = status.maybe_doubled,
            requests = status.requests,
            probes = status.probes,
            held_by_reason,
            "langfuse-extension report"
        );
    }
}
