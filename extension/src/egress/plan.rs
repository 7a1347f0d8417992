//! Which units leave, decided before anything is rewritten, the same for every encoding.

/// What is known of a span before it is decided on. Ids are hexadecimal in lower case, or as the client wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) trace: String,
    pub(super) span: String,
    pub(super) parent: String,
    pub(super) standing: Standing,
}

/// How the filter sees a span on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It leaves.
    #[default]
    Kept,
    /// It leaves only as an ancestor of one that does.
    Passed,
    /// It does not leave.
    Excluded,
}

/// What becomes of each unit, in the order in which they stand in the body.
#[derive(Debug, Default)]
pub(super) struct Plan {
    keep: Vec<bool>,
    next: usize,
}

impl Plan {
    /// Everything leaves.
    pub(super) fn everything() -> Self {
        Self::default()
    }

    pub(super) fn new(keep: Vec<bool>) -> Self {
        Self { keep, next: 0 }
    }

    /// Whether there are some, and none of them leaves.
    pub(super) fn keeps_none(&self) -> bool {
        !self.keep.is_empty() && self.keep.iter().all(|keep| !keep)
    }

    /// Units that do not leave.
    pub(super) fn held_back(&self) -> u32 {
        held_back(&self.keep)
    }

    /// What becomes of the next unit.
    pub(super) fn next(&mut self) -> bool {
        self.next += 1;
        self.keep.get(self.next - 1).copied().unwrap_or(true)
    }
}

/// How many do not leave.
pub(super) fn held_back(keep: &[bool]) -> u32 {
    let held = keep.iter().filter(|keep| !**keep).count();
    u32::try_from(held).unwrap_or(u32::MAX)
}
