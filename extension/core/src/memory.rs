//! The memory that bodies on their way in and requests on their way out may take: one budget, in bytes.
//!
//! What is not bounded here is bounded elsewhere: what waits to be sent by the [`buffer`](crate::buffer), and a few
//! megabytes for the process itself. Nobody waits for memory on the way in: a client that is kept waiting keeps its
//! handler waiting. Who does not fit is told so at once.

/// The most that all of them take together, however large the function is.
pub const MEMORY_LIMIT_BYTES: usize = 64 << 20;

/// The part of the function's memory that they take together at the most: one in so many bytes.
pub const MEMORY_DIVISOR: usize = 8;

/// A body that holds no more than this, in all its forms, is small: large ones cannot take its share.
pub const SMALL_BODY_BYTES: usize = 64 << 10;

/// What memory is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client's body: as it came, and inflated.
    Body,
    /// A request to Langfuse, or the parts of what it found too large.
    Export,
}

/// Memory that somebody holds. It has to be given back with [`Memory::release`].
#[derive(Debug)]
pub struct Held {
    purpose: Purpose,
    /// Out of the share of its own kind.
    own: usize,
    /// Out of what is there for all.
    common: usize,
}

impl Held {
    /// Nothing yet.
    #[must_use]
    pub fn nothing(purpose: Purpose) -> Self {
        Self {
            purpose,
            own: 0,
            common: 0,
        }
    }

    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.own.saturating_add(self.common)
    }
}

/// The budget: a share for small bodies, one for exports, and the rest for all.
#[derive(Debug)]
pub struct Memory {
    small: Share,
    exports: Share,
    common: Share,
    /// Held by exports, in whichever share.
    exporting: usize,
}

#[derive(Debug)]
struct Share {
    limit: usize,
    held: usize,
}

impl Share {
    fn new(limit: usize) -> Self {
        Self { limit, held: 0 }
    }

    fn room(&self) -> usize {
        self.limit.saturating_sub(self.held)
    }
}

impl Memory {
    /// The budget beside a function of this size.
    #[must_use]
    pub fn of_function(function_bytes: usize) -> Self {
        Self::new(MEMORY_LIMIT_BYTES.min(function_bytes / MEMORY_DIVISOR))
    }

    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        let small = limit_bytes / 16;
        let exports = limit_bytes / 16 * 5;
        Self {
            small: Share::new(small),
            exports: Share::new(exports),
            common: Share::new(limit_bytes - small - exports),
            exporting: 0,
        }
    }

    /// A body that needs more than this never fits.
    #[must_use]
    pub fn largest_body_bytes(&self) -> usize {
        self.common.limit
    }

    /// Whether a body of so many bytes would fit now. Nothing is taken.
    #[must_use]
    pub fn has_room_for_body(&self, bytes: usize) -> bool {
        bytes <= self.common.room() || bytes <= SMALL_BODY_BYTES && bytes <= self.small.room()
    }

    /// Takes so many bytes more. `false`: they are not there, and nothing has changed.
    ///
    /// While no other export holds anything, an export is never refused: what waits to be sent could fill all memory,
    /// and sending is what frees it.
    pub fn grow(&mut self, held: &mut Held, more: usize) -> bool {
        let wanted = held.bytes().saturating_add(more);
        self.give_back(held);
        let place = match held.purpose {
            Purpose::Body if wanted <= SMALL_BODY_BYTES && wanted <= self.small.room() => {
                Some((wanted, 0))
            }
            Purpose::Body => (wanted <= self.common.room()).then_some((0, wanted)),
            Purpose::Export => {
                let own = wanted.min(self.exports.room());
                let common = wanted - own;
                (common <= self.common.room() || self.exporting == 0).then_some((own, common))
            }
        };
        if let Some((own, common)) = place {
            (held.own, held.common) = (own, common);
        }
        self.take(held);
        place.is_some()
    }

    /// Gives back all but so many bytes.
    pub fn shrink(&mut self, held: &mut Held, bytes: usize) {
        self.give_back(held);
        held.common = held.common.min(bytes);
        held.own = held.own.min(bytes - held.common);
        self.take(held);
    }

    /// Gives all of it back.
    pub fn release(&mut self, mut held: Held) {
        self.shrink(&mut held, 0);
    }

    /// What is held in all.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.small
            .held
            .saturating_add(self.exports.held)
            .saturating_add(self.common.held)
    }

    fn take(&mut self, held: &Held) {
        self.common.held += held.common;
        match held.purpose {
            Purpose::Body => self.small.held += held.own,
            Purpose::Export => {
                self.exports.held += held.own;
                self.exporting += held.bytes();
            }
        }
    }

    fn give_back(&mut self, held: &Held) {
        self.common.held -= held.common;
        match held.purpose {
            Purpose::Body => self.small.held -= held.own,
            Purpose::Export => {
                self.exports.held -= held.own;
                self.exporting -= held.bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT_BYTES: usize = 16 << 20;

    fn body() -> Held {
        Held::nothing(Purpose::Body)
    }

    fn export() -> Held {
        Held::nothing(Purpose::Export)
    }

    /// Takes as many bodies of this size as there is room for.
    fn fill(memory: &mut Memory, bytes: usize) -> Vec<Held> {
        let mut all = Vec::new();
        loop {
            let mut held = body();
            if !memory.grow(&mut held, bytes) {
                return all;
            }
            all.push(held);
        }
    }

    #[test]
    fn large_bodies_cannot_take_the_share_of_small_ones_nor_that_of_an_export() {
        let mut memory = Memory::new(LIMIT_BYTES);
        fill(&mut memory, SMALL_BODY_BYTES + 1);
        assert!(!memory.has_room_for_body(SMALL_BODY_BYTES + 1));
        assert!(memory.has_room_for_body(SMALL_BODY_BYTES));
        assert!(memory.grow(&mut body(), SMALL_BODY_BYTES));
        assert!(memory.grow(&mut export(), LIMIT_BYTES / 16 * 5));
    }

    #[test]
    fn small_bodies_may_take_what_is_there_for_all() {
        let mut memory = Memory::new(LIMIT_BYTES);
        let held = fill(&mut memory, SMALL_BODY_BYTES);
        assert_eq!(held.len(), LIMIT_BYTES / 16 * 11 / SMALL_BODY_BYTES);
        assert!(!memory.has_room_for_body(1));
    }

    #[test]
    fn an_export_alone_always_fits_and_a_second_one_only_within_the_limit() {
        let mut memory = Memory::new(LIMIT_BYTES);
        fill(&mut memory, SMALL_BODY_BYTES);
        let (mut first, mut second) = (export(), export());
        assert!(memory.grow(&mut first, 2 * LIMIT_BYTES));
        assert!(!memory.grow(&mut second, 1));
        memory.release(first);
        assert!(memory.grow(&mut second, 2 * LIMIT_BYTES));
    }

    #[test]
    fn a_body_that_grows_leaves_the_share_of_small_ones() {
        let mut memory = Memory::new(LIMIT_BYTES);
        let mut held = body();
        assert!(memory.grow(&mut held, SMALL_BODY_BYTES));
        assert_eq!(memory.small.held, SMALL_BODY_BYTES);
        assert!(memory.grow(&mut held, 1));
        assert_eq!(
            (memory.small.held, memory.common.held),
            (0, SMALL_BODY_BYTES + 1)
        );
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut memory = Memory::new(LIMIT_BYTES);
        let mut held = body();
        assert!(memory.grow(&mut held, 1000));
        assert!(!memory.grow(&mut held, LIMIT_BYTES));
        assert!(!memory.grow(&mut held, usize::MAX));
        assert_eq!((held.bytes(), memory.held_bytes()), (1000, 1000));
    }

    #[test]
    fn everything_comes_back() {
        let mut memory = Memory::new(LIMIT_BYTES);
        let mut all = fill(&mut memory, 3 * SMALL_BODY_BYTES);
        all.extend(fill(&mut memory, 100));
        let mut sent = export();
        assert!(memory.grow(&mut sent, LIMIT_BYTES));
        memory.shrink(&mut sent, 10);
        assert_eq!(sent.bytes(), 10);
        all.push(sent);
        for held in all {
            memory.release(held);
        }
        assert_eq!((memory.held_bytes(), memory.exporting), (0, 0));
    }

    #[test]
    fn the_budget_grows_with_the_function_up_to_its_limit() {
        assert_eq!(
            Memory::of_function(128 << 20).largest_body_bytes(),
            10 << 20
        );
        let large = [512 << 20, usize::MAX].map(|size| Memory::of_function(size).common.limit);
        assert_eq!(large, [40 << 20; 2]);
    }
}
