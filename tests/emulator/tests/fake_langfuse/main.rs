//! What a fake Langfuse answers, stores, and does wrong on demand, seen by an ordinary HTTP client.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test that called it"
)]

mod answers;
mod client;
mod command;
mod events;
mod faults;
mod library;
mod recording;
mod rules;
mod tls;
mod worker;
