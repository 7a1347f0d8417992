//! Receiver, loop and exporter in one process, between real requests and a fake Langfuse.

mod fixture;
mod hygiene;
mod limits;
mod merges;
mod passthrough;
mod prompts;
mod replay;
mod support;
