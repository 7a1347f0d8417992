//! What the stage did, for the books.

/// What became of one item. Units are spans, events or scores; values are texts, numbers and lists in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Units that the filter kept here.
    pub filtered: u32,
    /// Units of traces that are sampled out, their scores among them.
    pub sampled_out: u32,
    /// Spans that the filter kept here before a descendant came that would have kept them.
    pub late: u32,
    /// Values with at least one mark.
    pub masked: u32,
    /// Values that went without their content, because nobody could say what is in them.
    pub stripped: u32,
    /// Values that were too long.
    pub shortened: u32,
}

impl Counts {
    /// Units that do not leave.
    pub fn held_back(&self) -> u32 {
        self.filtered.saturating_add(self.sampled_out)
    }

    /// Adds those of another item.
    pub fn add(&mut self, other: &Self) {
        self.filtered = self.filtered.saturating_add(other.filtered);
        self.sampled_out = self.sampled_out.saturating_add(other.sampled_out);
        self.late = self.late.saturating_add(other.late);
        self.masked = self.masked.saturating_add(other.masked);
        self.stripped = self.stripped.saturating_add(other.stripped);
        self.shortened = self.shortened.saturating_add(other.shortened);
    }
}
