//! The rules of the local Lambda, each shown by small extensions and runtimes in Python's standard library.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what the helpers of tests meet unexpectedly fails the test"
)]

mod crashes;
mod faults;
mod freeze;
mod front;
mod init;
mod invoke;
mod setup;
mod shutdown;
mod streaming;
mod telemetry;
mod timeout;
