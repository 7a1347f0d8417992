//! What the wire code promises, on recorded client requests and on made-up ones.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails like the test itself"
)]

mod corpus;
mod limits;
mod poison;
mod properties;
mod refusals;
mod support;
