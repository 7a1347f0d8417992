//! What the spans of a request say about their traces.

/// The ids and times of one accepted span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanFacts {
    /// The trace that the span belongs to.
    pub trace_id: [u8; 16],
    /// The span's own id.
    pub span_id: [u8; 8],
    /// The parent, where the span names one.
    pub parent_span_id: Option<[u8; 8]>,
    /// Whether the parent lies in another process, where the SDK says so (OTLP `flags`, bits 8 and 9:
    /// <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto>).
    pub parent_is_remote: Option<bool>,
    /// When it began, in nanoseconds since the Unix epoch; 0 where it does not say.
    pub start_unix_nano: u64,
    /// When it ended, the same way.
    pub end_unix_nano: u64,
}

impl SpanFacts {
    /// `None` when an id has an unusual length: Langfuse stores such spans, but nothing can be said of their trace.
    pub(super) fn new(
        trace_id: &[u8],
        span_id: &[u8],
        parent: Option<&[u8]>,
        flags: u32,
        [start_unix_nano, end_unix_nano]: [u64; 2],
    ) -> Option<Self> {
        const HAS_IS_REMOTE: u32 = 0x100;
        const IS_REMOTE: u32 = 0x200;
        Some(Self {
            trace_id: trace_id.try_into().ok()?,
            span_id: span_id.try_into().ok()?,
            parent_span_id: parent
                .filter(|id| id.iter().any(|byte| *byte != 0))
                .and_then(|id| id.try_into().ok()),
            parent_is_remote: (flags & HAS_IS_REMOTE != 0).then_some(flags & IS_REMOTE != 0),
            start_unix_nano,
            end_unix_nano,
        })
    }
}

/// The ids of the spans of one accepted OTLP request, in their order, bounded by [`super::Limits::facts_spans`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// One entry per span, as far as kept.
    pub spans: Vec<SpanFacts>,
    /// Spans of the request that have no entry: beyond the limit, or with ids of unusual length.
    pub omitted: u32,
}

impl Facts {
    pub(super) fn note(&mut self, span: Option<SpanFacts>, limit: usize) {
        match span {
            Some(span) if self.spans.len() < limit => self.spans.push(span),
            _ => self.omitted = self.omitted.saturating_add(1),
        }
    }
}
