//! Is a trace whole? What the spans themselves say about spans still to come.

use std::collections::{BTreeMap, BTreeSet};

/// The sixteen bytes of a trace id.
pub type TraceId = [u8; 16];

/// The eight bytes of a span id.
pub type SpanId = [u8; 8];

/// What one accepted span tells about its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanFact {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its own id.
    pub span_id: SpanId,
    /// What it hangs from.
    pub parent: Parent,
    /// When it began, in nanoseconds since the Unix epoch by the app's clock, which is the sandbox's. 0: it does not say.
    pub start_unix_nano: u64,
    /// When it ended, the same way.
    pub end_unix_nano: u64,
}

/// The parent of a span, as OTLP's `flags` tell it (bit 8: known to be remote or local, bit 9: remote).
/// <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// It is a root.
    None,
    /// Another process has it; it will never come from here.
    Remote,
    /// This process has it; it ends later and will come, unless a filter withholds it.
    Local(SpanId),
    /// An older SDK that does not say.
    Unknown(SpanId),
}

/// What is known of the traces of the current invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// No span came, or too many to keep track of, or their SDK does not say enough.
    Unknown,
    /// A local parent has not arrived.
    Torn,
    /// Every span's parent is here or elsewhere.
    Whole,
}

/// Spans that are kept track of; past that nothing is known until the next invocation.
pub const MAX_TRACKED_SPANS: usize = 4096;

/// Torn traces remembered over the end of an invocation, to recognise what completes them late.
pub const MAX_REMEMBERED_TRACES: usize = 64;

/// The traces of the current invocation, and the torn ones of earlier ones.
#[derive(Debug, Default)]
pub struct Traces {
    open: BTreeMap<u128, Trace>,
    left_torn: BTreeSet<u128>,
    tracked: usize,
    overflowed: bool,
    /// Local parents that have not arrived, over all traces.
    missing: usize,
    says_too_little: bool,
}

/// Spans by their ids as numbers, which compare at once.
#[derive(Debug, Default)]
struct Trace {
    seen: BTreeSet<u64>,
    missing: BTreeSet<u64>,
}

impl Traces {
    /// Takes in a span of this invocation.
    pub fn add(&mut self, fact: &SpanFact) {
        if self.tracked == MAX_TRACKED_SPANS {
            self.overflowed = true;
        } else {
            self.tracked += 1;
            self.track(fact);
        }
    }

    /// Whether other spans of its trace came in this invocation.
    pub fn knows(&self, fact: &SpanFact) -> bool {
        self.open.contains_key(&u128::from_be_bytes(fact.trace_id))
    }

    /// Whether it belongs to a trace that the last invocation left torn.
    pub fn was_left_torn(&self, fact: &SpanFact) -> bool {
        self.left_torn.contains(&u128::from_be_bytes(fact.trace_id))
    }

    /// What is known by now.
    pub fn completeness(&self) -> Completeness {
        if self.open.is_empty() || self.overflowed || self.says_too_little {
            Completeness::Unknown
        } else if self.missing > 0 {
            Completeness::Torn
        } else {
            Completeness::Whole
        }
    }

    /// What arrives from here on belongs to another invocation, or comes late.
    pub fn next_invocation(&mut self) {
        let torn = std::mem::take(&mut self.open)
            .into_iter()
            .filter(|(_, trace)| !trace.missing.is_empty())
            .map(|(id, _)| id);
        self.left_torn = torn.take(MAX_REMEMBERED_TRACES).collect();
        *self = Self {
            left_torn: std::mem::take(&mut self.left_torn),
            ..Self::default()
        };
    }

    fn track(&mut self, fact: &SpanFact) {
        let trace = self
            .open
            .entry(u128::from_be_bytes(fact.trace_id))
            .or_default();
        let id = u64::from_be_bytes(fact.span_id);
        trace.seen.insert(id);
        self.missing -= usize::from(trace.missing.remove(&id));
        match fact.parent {
            Parent::Local(parent) => {
                let parent = u64::from_be_bytes(parent);
                if !trace.seen.contains(&parent) {
                    self.missing += usize::from(trace.missing.insert(parent));
                }
            }
            Parent::Unknown(parent) => {
                self.says_too_little |= !trace.seen.contains(&u64::from_be_bytes(parent));
            }
            Parent::None | Parent::Remote => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(span_id: u8, parent: Parent) -> SpanFact {
        SpanFact {
            trace_id: [1; 16],
            span_id: [span_id; 8],
            parent,
            start_unix_nano: 0,
            end_unix_nano: 0,
        }
    }

    #[test]
    fn a_child_whose_local_parent_is_missing_tears_the_trace_until_it_comes() {
        let mut traces = Traces::default();
        traces.add(&span(2, Parent::Local([1; 8])));
        assert_eq!(traces.completeness(), Completeness::Torn);
        traces.add(&span(1, Parent::None));
        assert_eq!(traces.completeness(), Completeness::Whole);
    }

    #[test]
    fn a_remote_parent_is_not_waited_for() {
        let mut traces = Traces::default();
        traces.add(&span(2, Parent::Remote));
        assert_eq!(traces.completeness(), Completeness::Whole);
    }

    #[test]
    fn an_sdk_that_does_not_say_leaves_it_unknown() {
        let mut traces = Traces::default();
        traces.add(&span(2, Parent::Unknown([1; 8])));
        assert_eq!(traces.completeness(), Completeness::Unknown);
    }

    #[test]
    fn an_sdk_that_does_not_say_is_understood_where_the_parent_is_here() {
        let mut traces = Traces::default();
        traces.add(&span(1, Parent::None));
        traces.add(&span(2, Parent::Unknown([1; 8])));
        assert_eq!(traces.completeness(), Completeness::Whole);
    }

    #[test]
    fn what_completes_an_earlier_invocation_is_recognised() {
        let mut traces = Traces::default();
        traces.add(&span(2, Parent::Local([1; 8])));
        traces.next_invocation();
        assert_eq!(traces.completeness(), Completeness::Unknown);
        assert!(traces.was_left_torn(&span(1, Parent::None)));
        assert!(!traces.knows(&span(1, Parent::None)));
    }

    #[test]
    fn tracking_ends_at_its_limit_and_then_claims_nothing() {
        let mut traces = Traces::default();
        for _ in 0..=MAX_TRACKED_SPANS {
            traces.add(&span(1, Parent::None));
        }
        assert_eq!(traces.completeness(), Completeness::Unknown);
        assert_eq!(traces.tracked, MAX_TRACKED_SPANS);
    }
}
