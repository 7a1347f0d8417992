//! What the simulated clients send: no bytes, only a size and which numbered units are in it.

use std::ops::Range;

use langfuse_extension_core::buffer::Payload;

/// The body of one client request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Load {
    /// Its units, by the world's numbers.
    pub(crate) units: Range<u32>,
    pub(crate) bytes: usize,
    /// The route that it came by.
    pub(crate) route: usize,
    /// A unit that Langfuse answers 400 to.
    pub(crate) refused: Option<u32>,
    /// A unit that Langfuse fails on each time.
    pub(crate) poison: Option<u32>,
}

impl Load {
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some_and(|unit| self.units.contains(&unit))
    }

    pub(crate) fn is_poison(&self) -> bool {
        self.poison.is_some_and(|unit| self.units.contains(&unit))
    }
}

impl Payload for Load {
    fn stored_bytes(&self) -> usize {
        self.bytes
    }

    fn request_bytes(&self) -> usize {
        self.bytes
    }

    fn units(&self) -> u32 {
        self.units.end - self.units.start
    }
}

impl Load {
    /// As the exporter cuts it. A single unit cannot be cut.
    pub(crate) fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.units.start + self.units() / 2;
        let part = |units, bytes| Self {
            units,
            bytes,
            ..self.clone()
        };
        let parts = [
            part(self.units.start..middle, self.bytes / 2),
            part(middle..self.units.end, self.bytes - self.bytes / 2),
        ];
        (self.units() > 1).then_some(parts)
    }
}
