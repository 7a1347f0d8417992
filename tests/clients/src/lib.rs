//! Every client that a Langfuse user has, with its real packages, under the emulator: each does everything it can do
//! straight to a fake Langfuse, and again through the extension while Langfuse is healthy, hung and refusing.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test's set-up fails loudly"
)]

pub mod client;
pub mod install;
pub mod normal;
pub mod run;
pub mod table;
pub mod trial;
