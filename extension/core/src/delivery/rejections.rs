//! Refusals in a row, for each endpoint: a few are the fault of what was sent, more than that are the fault of whoever
//! refuses.

use std::time::Duration;

use super::host::backoff;
use crate::buffer::ItemId;
use crate::time::{Now, Timer};

/// Single items of different client requests that are given up in a row, with nothing taken in between. Whoever refuses
/// one more refuses whatever it is sent: that and what follows is held.
pub const MAX_REFUSED_IN_A_ROW: usize = 3;

/// Refusals of parts of one client request in a row, after which its parts are not cut any further: it is refused for
/// something that all of them have.
pub const MAX_REFUSED_PARTS: u32 = 16;

/// What has been refused at one endpoint since it last took something.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    given_up: Vec<ItemId>,
    parts: Option<(ItemId, u32)>,
    held: Option<Timer>,
    failures: u32,
}

impl Rejections {
    /// How long nothing is to be sent here.
    pub(super) fn wait(&self, now: Now) -> Duration {
        self.held.map_or(Duration::ZERO, |held| held.left(now))
    }

    /// Everything is refused here: single items find out whether that is over.
    pub(super) fn are_held(&self) -> bool {
        self.held.is_some()
    }

    /// A single item may find out at once.
    pub(super) fn may_be_asked(&mut self, now: Now) {
        self.held = self.held.map(|_| Timer::new(now, Duration::ZERO));
    }

    pub(super) fn took_data(&mut self) {
        *self = Self::default();
    }

    /// A request that consisted of a part of what the client sent as `origin`, or of all of it, was refused. Whether it
    /// pays to look for what in it is refused.
    pub(super) fn pays_to_cut(&mut self, origin: ItemId) -> bool {
        let before = self.parts.filter(|(of, _)| *of == origin);
        let refused = before.map_or(0, |(_, refused)| refused) + 1;
        self.parts = Some((origin, refused));
        refused < MAX_REFUSED_PARTS && !self.are_held()
    }

    /// What cannot be cut any further was refused. Whether to give it up; if not, it is held.
    pub(super) fn gives_up(&mut self, origin: ItemId, now: Now) -> bool {
        if self.held.is_none() && self.given_up.contains(&origin) {
            return true;
        }
        if self.held.is_none() && self.given_up.len() < MAX_REFUSED_IN_A_ROW {
            self.given_up.push(origin);
            return true;
        }
        self.failures = self.failures.saturating_add(1);
        self.held = Some(Timer::new(now, backoff(self.failures)));
        false
    }
}
