//! Receiver, loop and exporter in one process, between real requests and a fake Langfuse.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod fixture;
mod hygiene;
mod limits;
mod merges;
mod passthrough;
mod prompts;
mod replay;
mod support;
