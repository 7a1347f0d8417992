//! The fault matrix: what Langfuse does × what happens to the sandbox, each cell a run of the release binary.

mod cell;
mod table;

pub use cell::{Cell, Measured, baseline};
pub use table::table;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::{FakeLangfuse, Fault, FaultRule};
use lambda_emulator::fake_langfuse::TlsFailure;

/// What Langfuse, or the way to it, is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is told by its name in the table")]
pub enum Condition {
    Healthy,
    Refusing,
    HungBefore,
    HungAfter,
    Slow,
    Dripping,
    TooMany,
    Error500,
    Error503,
    TooLarge,
    WrongKeys,
    ResetMidAnswer,
    Tls,
    Dns,
    BackAtShutdown,
    StorageDown,
    StorageHung,
    RolledOut,
    Balancer503,
    StallsMidAnswer,
    Firewall403,
    Firewall413,
    Gateway504,
    NoValue,
    HalfCharacter,
}

impl Condition {
    /// In the order of the table.
    pub const ALL: [Self; 25] = [
        Self::Healthy,
        Self::Refusing,
        Self::HungBefore,
        Self::HungAfter,
        Self::Slow,
        Self::Dripping,
        Self::TooMany,
        Self::Error500,
        Self::Error503,
        Self::TooLarge,
        Self::WrongKeys,
        Self::ResetMidAnswer,
        Self::Tls,
        Self::Dns,
        Self::BackAtShutdown,
        Self::StorageDown,
        Self::StorageHung,
        Self::RolledOut,
        Self::Balancer503,
        Self::StallsMidAnswer,
        Self::Firewall403,
        Self::Firewall413,
        Self::Gateway504,
        Self::NoValue,
        Self::HalfCharacter,
    ];

    /// In the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Refusing => "refuses connections",
            Self::HungBefore => "hung before accepting",
            Self::HungAfter => "hung after accepting",
            Self::Slow => "answers after 10 s",
            Self::Dripping => "drips its answer",
            Self::TooMany => "429",
            Self::Error500 => "500",
            Self::Error503 => "503",
            Self::TooLarge => "413 above 900 bytes",
            Self::WrongKeys => "401",
            Self::ResetMidAnswer => "resets mid-answer",
            Self::Tls => "TLS failure",
            Self::Dns => "DNS failure",
            Self::BackAtShutdown => "down, back at SHUTDOWN",
            Self::StorageDown => "storage down, probes good",
            Self::StorageHung => "storage hung, probes good",
            Self::RolledOut => "404 of a roll-out",
            Self::Balancer503 => "503 of a load balancer",
            Self::StallsMidAnswer => "stalls mid-answer",
            Self::Firewall403 => "firewall: 403 of one span",
            Self::Firewall413 => "firewall: 413 of one span",
            Self::Gateway504 => "one span times out: 504",
            Self::NoValue => "one attribute without value",
            Self::HalfCharacter => "one half of a character",
        }
    }

    /// Langfuse may have stored what it did not answer in time: only then may anything be doubled.
    pub fn is_ambiguous(self) -> bool {
        matches!(
            self,
            Self::HungAfter | Self::Slow | Self::Dripping | Self::StallsMidAnswer
        )
    }

    /// What is wrong with one request of the first invocation, as `tests/apps/raw/app.py` knows it. Nothing is wrong with
    /// Langfuse then, and nothing but that request may be lost.
    pub(crate) fn poison(self) -> Option<&'static str> {
        match self {
            Self::Firewall403 | Self::Firewall413 | Self::Gateway504 => Some("text"),
            Self::NoValue => Some("no_value"),
            Self::HalfCharacter => Some("half"),
            _ => None,
        }
    }

    /// Begins, in front of what is in force already.
    pub(crate) fn begin(self, langfuse: &FakeLangfuse) {
        let fault = match self {
            Self::Healthy | Self::Dns | Self::NoValue | Self::HalfCharacter => return,
            Self::StorageDown => return langfuse.add_fault(FaultRule::storage_down()),
            Self::StorageHung => return langfuse.add_fault(FaultRule::storage_hung()),
            Self::Firewall403 => return firewall(langfuse, 403),
            Self::Firewall413 => return firewall(langfuse, 413),
            Self::Gateway504 => return firewall(langfuse, 504),
            Self::RolledOut => Fault::edge(404),
            Self::Balancer503 => Fault::edge(503),
            Self::StallsMidAnswer => Fault::StallMidResponse,
            Self::Refusing | Self::BackAtShutdown => Fault::Refuse,
            Self::HungBefore => Fault::HangBeforeAccepting,
            Self::HungAfter => Fault::HangAfterAccepting,
            Self::Slow => Fault::latency(Duration::from_secs(10)),
            Self::Dripping => Fault::slow_drip(Duration::from_millis(100)),
            Self::TooMany => Fault::too_many_requests(1),
            Self::Error500 => Fault::status(500),
            Self::Error503 => Fault::status(503),
            Self::TooLarge => return langfuse.set_max_request_bytes(900),
            Self::WrongKeys => Fault::status(401),
            Self::ResetMidAnswer => Fault::ResetMidResponse,
            Self::Tls => Fault::tls(TlsFailure::UnknownAuthority),
        };
        langfuse.add_fault(FaultRule::from(fault));
    }
}

/// Answers with this page whatever has the poisonous text in it.
fn firewall(langfuse: &FakeLangfuse, status: u16) {
    langfuse.add_fault(FaultRule::from(Fault::edge(status)).on_content("DROP TABLE"));
}

/// What happens to the sandbox meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is told by its name in the table")]
pub enum Situation {
    Steady,
    Dense,
    Frozen,
    DeadConnections,
    HalfOpen,
    TimeoutReset,
    Killed,
    ShutdownFirst,
    Overfull,
}

impl Situation {
    /// In the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Steady,
        Self::Dense,
        Self::Frozen,
        Self::DeadConnections,
        Self::HalfOpen,
        Self::TimeoutReset,
        Self::Killed,
        Self::ShutdownFirst,
        Self::Overfull,
    ];

    /// In the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Dense => "dense",
            Self::Frozen => "frozen for 2 s",
            Self::DeadConnections => "dead connections after a thaw",
            Self::HalfOpen => "half-open connection after a thaw",
            Self::TimeoutReset => "function timeout",
            Self::Killed => "extension killed",
            Self::ShutdownFirst => "SHUTDOWN first",
            Self::Overfull => "1.5 buffers, by two processes",
        }
    }
}

/// Every combination, in the order of the table.
pub fn all() -> Vec<(Condition, Situation)> {
    combine(&Condition::ALL, &Situation::ALL)
}

/// The combinations that `make test` runs.
pub fn short() -> Vec<(Condition, Situation)> {
    use Condition::{HungAfter, HungBefore, Refusing};
    use Situation::{Killed, Steady, TimeoutReset};
    combine(
        &[Condition::Healthy, Refusing, HungBefore, HungAfter],
        &[Steady, TimeoutReset, Killed],
    )
}

fn combine(conditions: &[Condition], situations: &[Situation]) -> Vec<(Condition, Situation)> {
    conditions
        .iter()
        .flat_map(|condition| situations.iter().map(|situation| (*condition, *situation)))
        .collect()
}

/// Runs them, so many at once, and tells of each that is done. In their order.
pub fn run(
    cells: &[(Condition, Situation)],
    at_once: usize,
    done: impl Fn(&Cell) + Sync,
) -> Vec<Cell> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                while let Some((condition, situation)) =
                    cells.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let cell = runtime.block_on(cell::measure(*condition, *situation));
                    done(&cell);
                    let place = cells
                        .iter()
                        .position(|one| *one == (*condition, *situation));
                    results.lock().expect("no panic").push((place, cell));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no panic");
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, cell)| cell).collect()
}
