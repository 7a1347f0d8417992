//! The measurements, each a function over the subjects, which take turns so that the machine's mood meets all of them.

pub(crate) mod ack;
pub(crate) mod cost;
pub(crate) mod function;
pub(crate) mod memory;
pub(crate) mod start;
