//! Facts and promises, one test each, by the room of the core that they live in.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unchecked_time_subtraction,
    reason = "a driver that cannot go on must stop at once"
)]
#![expect(
    clippy::struct_excessive_bools,
    reason = "the driver only notes what was asked for"
)]

mod blame;
mod buffer;
mod delivery;
mod driver;
mod end_of_work;
mod grace;
mod hold;
mod keys;
mod kill_switch;
mod lifecycle;
mod outage;
mod shutdown;
mod spool;
mod strategy;
mod thaw;
