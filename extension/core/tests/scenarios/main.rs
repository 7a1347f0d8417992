//! Facts and promises, one test each, by the room of the core that they live in.

mod buffer;
mod delivery;
mod driver;
mod end_of_work;
mod keys;
mod lifecycle;
mod outage;
mod shutdown;
mod spool;
mod strategy;
mod thaw;
