//! The stage on the wire: the same rules for every encoding, nothing that is configured leaves, and what no rule touches
//! leaves byte for byte.

mod corpus;
mod events;
mod properties;
mod spans;
mod support;
