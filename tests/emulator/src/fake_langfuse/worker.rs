//! What becomes of data after the web process has answered 200: the worker reads each request from the object store, and
//! `ClickHouse` takes the rows in inserts that neighbouring requests share. What fails here no client ever hears of.
//!
//! As measured on Langfuse 4.16.0 with all its parts.

use std::time::{Duration, Instant};

use serde_json::Value;

/// How long Langfuse's `ClickHouse` writer gathers rows for one insert.
/// <https://github.com/langfuse/langfuse/blob/62751446149b702b419a9292ddfc2280cdf74b8c/packages/shared/src/env.ts>
pub const INSERT_WINDOW: Duration = Duration::from_secs(1);

/// Whether the worker fails on this request, and loses everything in it: one attribute of a span, a resource or a scope
/// has no `value` ("Cannot read properties of undefined").
pub(super) fn fails_on(resource_spans: &Value) -> bool {
    list(Some(resource_spans)).iter().any(|resource_span| {
        lacks_a_value(resource_span.pointer("/resource/attributes"))
            || list(resource_span.get("scopeSpans"))
                .iter()
                .any(|scope_span| {
                    lacks_a_value(scope_span.pointer("/scope/attributes"))
                        || list(scope_span.get("spans"))
                            .iter()
                            .any(|span| lacks_a_value(span.get("attributes")))
                })
    })
}

fn lacks_a_value(attributes: Option<&Value>) -> bool {
    list(attributes)
        .iter()
        .any(|attribute| attribute.get("value").is_none_or(Value::is_null))
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The insert that is being gathered for one table. A row that `ClickHouse` refuses takes all others along.
#[derive(Debug, Default)]
pub(super) struct Insert {
    opened: Option<Instant>,
    fails: bool,
    rows: Vec<usize>,
}

impl Insert {
    /// Adds a row by its number, and returns the rows that are lost because of it: all so far if it is the one that is
    /// refused, itself alone if that one is here already.
    pub(super) fn add(&mut self, row: usize, refused: bool, now: Instant) -> Vec<usize> {
        if self
            .opened
            .is_none_or(|opened| now >= opened + INSERT_WINDOW)
        {
            *self = Self {
                opened: Some(now),
                ..Self::default()
            };
        }
        self.rows.push(row);
        self.fails |= refused;
        if self.fails {
            std::mem::take(&mut self.rows)
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_row_takes_the_whole_insert_along_and_no_other() {
        let (mut insert, start) = (Insert::default(), Instant::now());
        assert!(insert.add(0, false, start).is_empty());
        assert_eq!(insert.add(1, true, start), [0, 1]);
        assert_eq!(insert.add(2, false, start), [2]);
        assert!(insert.add(3, false, start + INSERT_WINDOW).is_empty());
        assert_eq!(insert.add(4, true, start + INSERT_WINDOW), [3, 4]);
    }
}
