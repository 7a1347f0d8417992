//! What a fake Langfuse answers, stores, and does wrong on demand, seen by an ordinary HTTP client.

mod client;
mod command;
mod events;
mod faults;
mod library;
mod recording;
mod rules;
mod tls;
