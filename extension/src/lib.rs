//! The leaves of langfuse-lambda-extension: everything that touches bytes, sockets, files and clocks. What to do is
//! decided in the crate `langfuse-extension-core`; [`agent`] is the loop between the two.

pub mod agent;
pub mod aside;
pub mod check;

pub mod credentials;
pub mod egress;
pub mod exporter;
pub mod host;
pub mod inputs;
pub mod logging;
pub mod memory;
pub mod payload;
pub mod receiver;
pub mod replay;
pub mod report;
pub mod settings;
pub mod spool;
