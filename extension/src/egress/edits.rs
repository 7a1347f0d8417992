//! Replacements in bytes: what is not touched stays as it was written.

use std::ops::Range;

use super::json::quoted;

/// Replacements in a body. None overlaps another, and each range lies where the source has whole tokens.
#[derive(Default)]
pub(super) struct Edits(Vec<(Range<usize>, Vec<u8>)>);

impl Edits {
    pub(super) fn replace(&mut self, range: Range<usize>, with: impl Into<Vec<u8>>) {
        self.0.push((range, with.into()));
    }

    pub(super) fn replace_string(&mut self, range: Range<usize>, with: &str) {
        self.replace(range, quoted(with));
    }

    /// Deletes the elements of a list for which `keep` says no, each with one comma.
    pub(super) fn retain(&mut self, elements: &[Range<usize>], keep: &[bool]) {
        let mut kept_before = false;
        for (place, element) in elements.iter().enumerate() {
            if keep.get(place).copied().unwrap_or(true) {
                kept_before = true;
                continue;
            }
            let from = match place.checked_sub(1) {
                Some(previous) if kept_before => elements[previous].end,
                _ => element.start,
            };
            let to = match elements.get(place + 1) {
                Some(next) if !kept_before => next.start,
                _ => element.end,
            };
            self.replace(from..to, Vec::new());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets all replacements but the first `length`.
    pub(super) fn forget_from(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Forgets the replacements within `range`, which goes as a whole.
    pub(super) fn forget_within(&mut self, range: &Range<usize>) {
        self.0
            .retain(|(edited, _)| edited.start < range.start || edited.end > range.end);
    }

    /// Forgets the replacement of `range`, and returns it.
    pub(super) fn take(&mut self, range: &Range<usize>) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(edited, _)| edited == range)?;
        Some(self.0.remove(at).1)
    }

    /// The bytes of `range` of the source, edited.
    pub(super) fn apply(mut self, source: &[u8], range: Range<usize>) -> Vec<u8> {
        self.0.sort_by_key(|(range, _)| (range.start, range.end));
        let mut out = Vec::with_capacity(range.len());
        let mut at = range.start;
        for (edited, with) in self.0 {
            out.extend_from_slice(source.get(at..edited.start).unwrap_or_default());
            out.extend_from_slice(&with);
            at = edited.end;
        }
        out.extend_from_slice(source.get(at..range.end).unwrap_or_default());
        out
    }
}
