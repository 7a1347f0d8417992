//! The stage on the wire: the same rules for every encoding, nothing that is configured leaves, and what no rule touches
//! leaves byte for byte.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test fails like the test itself"
)]

mod corpus;
mod events;
mod properties;
mod spans;
mod support;
