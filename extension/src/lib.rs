//! The leaves of langfuse-lambda-extension: everything that touches bytes, sockets, files and clocks.

pub mod credentials;
