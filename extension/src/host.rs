//! Who starts, freezes and ends this process.

pub mod lambda;
