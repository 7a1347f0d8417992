//! The accounting: accepted + recovered = delivered + held + on disk + spooled + dropped
//! + filtered + sampled out, always.

use crate::refusals::Refusals;

/// Counts of units (spans, events, scores) since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Acknowledged to a client.
    pub accepted: u64,
    /// Found on disk, left by earlier processes of this sandbox.
    pub recovered: u64,
    /// Accepted by Langfuse.
    pub delivered: u64,
    /// On disk and not in memory: to be read back when there is room.
    pub on_disk: u64,
    /// Left on disk when the process ended, for the next one in this sandbox.
    pub spooled: u64,
    /// Given up, by reason.
    pub dropped: Dropped,
    /// Spans that the filter let not leave.
    pub filtered: u64,
    /// Units of traces that are sampled out.
    pub sampled_out: u64,
    /// Records, or whole files, of earlier processes of which not even a head could be read. Not part of the sum.
    pub unreadable: u64,
    /// Sent again although Langfuse may have accepted the first copy. Not part of the sum.
    pub maybe_doubled: u64,
    /// Requests that carried data to Langfuse.
    pub requests: u64,
    /// Requests of clients that were not taken. What was in them is in no other column.
    pub refusals: Refusals,
    /// Requests that only asked whether Langfuse is well.
    pub probes: u64,
}

/// Units that the stage before a destination let not leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    /// By the filter.
    pub filtered: u64,
    /// With their traces.
    pub sampled_out: u64,
    /// Because they could not be masked.
    pub not_masked: u64,
}

/// Why data was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The buffer was full, and this was the oldest in it, or too large for it.
    BufferFull,
    /// Langfuse answered that it will never take it.
    Refused,
    /// Langfuse answered 413 to a single unit.
    TooLarge,
    /// It may have arrived, and was not to be sent again.
    Ambiguous,
    /// Langfuse failed on this again and again while it took other data.
    Failed,
    /// `LANGFUSE_TRACING_ENABLED=false`.
    Disabled,
    /// The process ended and there was no spool to leave it in.
    Exit,
    /// It was on disk for longer than [`crate::recovery::MAX_SPOOL_AGE`].
    Expired,
    /// What the disk had of it could not be read back.
    Damaged,
    /// The spool held more than its limits.
    OverLimit,
    /// It was in memory at [`crate::recovery::MAX_CRASHES`] crashes of this process.
    Crashed,
    /// It was accepted before the sandbox was copied (`SnapStart`): every copy would have sent it.
    Snapshot,
    /// A fault kept it from being masked, and it may not leave without.
    NotMasked,
}

impl DropReason {
    /// All reasons, in the order of [`Dropped`].
    pub const ALL: [Self; 13] = [
        Self::BufferFull,
        Self::Refused,
        Self::TooLarge,
        Self::Ambiguous,
        Self::Failed,
        Self::Disabled,
        Self::Exit,
        Self::Expired,
        Self::Damaged,
        Self::OverLimit,
        Self::Crashed,
        Self::Snapshot,
        Self::NotMasked,
    ];

    /// The name used in logs and in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::Ambiguous => "ambiguous",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
            Self::Exit => "exit",
            Self::Expired => "expired",
            Self::Damaged => "damaged",
            Self::OverLimit => "over_limit",
            Self::Crashed => "crashed",
            Self::Snapshot => "snapshot",
            Self::NotMasked => "not_masked",
        }
    }
}

/// Units given up, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u64; DropReason::ALL.len()]);

impl Dropped {
    /// Adds `units` to what was given up for `reason`.
    pub fn add(&mut self, reason: DropReason, units: u64) {
        self.0[reason as usize] += units;
    }

    /// Units given up for `reason`.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Units given up in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason that occurred, with its units.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.of(reason)))
            .filter(|(_, units)| *units > 0)
    }
}

impl Ledger {
    /// Units that must be held somewhere in memory if nothing was lost track of.
    pub fn outstanding(&self) -> u64 {
        let gone = self.delivered + self.on_disk + self.spooled + self.dropped.total();
        (self.accepted + self.recovered).saturating_sub(gone + self.filtered + self.sampled_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reasons_that_occurred_are_told() {
        let mut dropped = Dropped::default();
        assert_eq!(dropped.iter().count(), 0);
        dropped.add(DropReason::Refused, 3);
        assert_eq!(
            dropped.iter().collect::<Vec<_>>(),
            [(DropReason::Refused, 3)]
        );
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
