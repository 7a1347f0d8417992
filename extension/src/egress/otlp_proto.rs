//! Rewriting a serialized `ExportTraceServiceRequest`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use super::edits::Edits;
use super::enrich::{Enrich, SERVICE_NAME, Value};
use super::filter::{Filter, is_gen_ai, is_javascript};
use super::mask::Traits;
use super::plan::{Head, Plan};
use super::texts::Texts;
use super::wire::{delimited, field, fields, put};
use super::{DEPTH_LIMIT_VALUES, SDK_LANGUAGE};
use crate::payload::proto::{Field, Message, Wire};

/// What is known of every span, in the order in which they stand.
pub(super) fn heads(request: &[u8], filter: &Filter) -> Vec<Head> {
    let mut heads = Vec::new();
    for resource_spans in delimited(request, 1) {
        let javascript = delimited(resource_spans, 1)
            .flat_map(|resource| delimited(resource, 1))
            .any(|attribute| key(attribute) == SDK_LANGUAGE && is_javascript(&text_of(attribute)));
        for scope_spans in delimited(resource_spans, 2) {
            let scope = delimited(scope_spans, 1)
                .flat_map(|scope| delimited(scope, 1))
                .last()
                .map(String::from_utf8_lossy)
                .unwrap_or_default();
            heads.extend(delimited(scope_spans, 2).map(|span| {
                let has_gen_ai = delimited(span, 9).any(|attribute| is_gen_ai(&key(attribute)));
                Head {
                    trace: id(span, 1),
                    span: id(span, 2),
                    parent: id(span, 4),
                    standing: filter.standing(&scope, javascript, has_gen_ai),
                }
            }));
        }
    }
    heads
}

fn id(span: &[u8], number: u64) -> String {
    let bytes = delimited(span, number).last().unwrap_or_default();
    if bytes.iter().all(|byte| *byte == 0) {
        return String::new();
    }
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// The key of a serialized `KeyValue`.
fn key(attribute: &[u8]) -> Cow<'_, str> {
    delimited(attribute, 1)
        .last()
        .map(String::from_utf8_lossy)
        .unwrap_or_default()
}

/// Its value, where that is a string.
fn text_of(attribute: &[u8]) -> Cow<'_, str> {
    let value = delimited(attribute, 2).last().unwrap_or_default();
    delimited(value, 1)
        .last()
        .map(String::from_utf8_lossy)
        .unwrap_or_default()
}

/// The request as it leaves; `None`: as it came.
pub(super) fn rewritten(
    request: &[u8],
    plan: Plan,
    enrich: &Enrich,
    texts: &mut Texts<'_>,
) -> Option<Vec<u8>> {
    let mut rewriter = Rewriter {
        plan,
        enrich,
        texts,
    };
    rewriter.message(Message::Request, request)
}

struct Rewriter<'a, 't, 'm> {
    plan: Plan,
    enrich: &'a Enrich,
    texts: &'t mut Texts<'m>,
}

impl Rewriter<'_, '_, '_> {
    fn message(&mut self, message: Message, bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut edits, mut groups) = (Edits::default(), 0_usize);
        for it in fields(bytes) {
            groups = match it.wire {
                Wire::StartGroup => groups + 1,
                Wire::EndGroup => groups.saturating_sub(1),
                _ => groups,
            };
            if it.wire != Wire::Delimited {
                continue;
            }
            let content = &bytes[it.value.clone()];
            let known = (groups == 0).then(|| message.field(it.number)).flatten();
            let edited = match known {
                Some(Field::Message(Message::Span)) if !self.plan.next() => Edited::Removed,
                Some(Field::Message(inner @ (Message::ScopeSpans | Message::ResourceSpans))) => {
                    self.spans(inner, content)
                }
                Some(Field::Message(Message::KeyValue)) => {
                    self.key_value(content, Traits::default(), 0).into()
                }
                Some(Field::Message(inner)) => self.message(inner, content).into(),
                Some(Field::Scalar(_)) if is_id(message, it.number) => Edited::Not,
                Some(Field::Scalar(_)) => self.text(content, Traits::default()).into(),
                None => self.texts.bytes(Traits::default(), content).into(),
            };
            match edited {
                Edited::Not => {}
                Edited::Removed => edits.replace(it.whole, Vec::new()),
                Edited::Changed(with) => edits.replace(it.whole, field(it.number, &with)),
            }
        }
        match message {
            Message::ResourceSpans if !self.enrich.is_off() => {
                self.enrich_resource(bytes, &mut edits);
            }
            Message::Span if self.enrich.invocation => self.enrich_span(bytes, &mut edits),
            _ => {}
        }
        (!edits.is_empty()).then(|| edits.apply(bytes, 0..bytes.len()))
    }

    /// What holds spans goes with the last of them.
    fn spans(&mut self, message: Message, bytes: &[u8]) -> Edited {
        let edited = self.message(message, bytes);
        let holds = |bytes: &[u8]| delimited(bytes, 2).next().is_some();
        match edited {
            Some(edited) if holds(bytes) && !holds(&edited) => Edited::Removed,
            edited => edited.into(),
        }
    }

    fn text(&mut self, content: &[u8], traits: Traits) -> Option<Vec<u8>> {
        let text = String::from_utf8_lossy(content);
        self.texts
            .value(traits, &text, true)
            .map(String::into_bytes)
    }

    fn key_value(&mut self, bytes: &[u8], around: Traits, depth: usize) -> Option<Vec<u8>> {
        let traits = if self.texts.reads_keys() {
            delimited(bytes, 1)
                .map(|key| self.texts.traits(&String::from_utf8_lossy(key)))
                .fold(around, Traits::or)
        } else {
            around
        };
        let mut edits = Edits::default();
        for it in fields(bytes).filter(|it| it.wire == Wire::Delimited) {
            let content = &bytes[it.value];
            let edited = match it.number {
                1 => self
                    .texts
                    .key(&String::from_utf8_lossy(content))
                    .map(String::into_bytes),
                2 => self.any_value(content, traits, depth),
                _ => self.texts.bytes(traits, content),
            };
            if let Some(edited) = edited {
                edits.replace(it.whole, field(it.number, &edited));
            }
        }
        (!edits.is_empty()).then(|| edits.apply(bytes, 0..bytes.len()))
    }

    fn any_value(&mut self, bytes: &[u8], traits: Traits, depth: usize) -> Option<Vec<u8>> {
        if bytes.is_empty() {
            return None;
        }
        if traits.masked {
            return Some(string_value(self.texts.whole()));
        }
        if depth >= DEPTH_LIMIT_VALUES {
            return self.texts.stripped().map(string_value);
        }
        let mut edits = Edits::default();
        for it in fields(bytes) {
            let content = &bytes[it.value.clone()];
            let edited = match (it.number, it.wire) {
                (1, Wire::Delimited) => self.text(content, traits).map(|text| field(1, &text)),
                (3, Wire::Varint) => self.number(&integer(content).to_string(), traits),
                (4, Wire::Fixed64) => self.number(&double(content).to_string(), traits),
                (5, Wire::Delimited) => self
                    .list(content, traits, depth)
                    .map(|list| field(5, &list)),
                (6, Wire::Delimited) => self
                    .list_of_keys(content, traits, depth)
                    .map(|list| field(6, &list)),
                (number, Wire::Delimited) => self
                    .texts
                    .bytes(traits, content)
                    .map(|bytes| field(number, &bytes)),
                _ => None,
            };
            if let Some(edited) = edited {
                edits.replace(it.whole, edited);
            }
        }
        (!edits.is_empty()).then(|| edits.apply(bytes, 0..bytes.len()))
    }

    fn number(&mut self, decimal: &str, traits: Traits) -> Option<Vec<u8>> {
        self.texts
            .number(traits, decimal)
            .map(|text| string_value(&text))
    }

    fn list(&mut self, bytes: &[u8], traits: Traits, depth: usize) -> Option<Vec<u8>> {
        self.each(bytes, traits, |this, content| {
            this.any_value(content, traits, depth + 1)
        })
    }

    fn list_of_keys(&mut self, bytes: &[u8], traits: Traits, depth: usize) -> Option<Vec<u8>> {
        self.each(bytes, traits, |this, content| {
            this.key_value(content, traits, depth + 1)
        })
    }

    fn each(
        &mut self,
        bytes: &[u8],
        traits: Traits,
        mut element: impl FnMut(&mut Self, &[u8]) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let mut edits = Edits::default();
        for it in fields(bytes).filter(|it| it.wire == Wire::Delimited) {
            let content = &bytes[it.value];
            let edited = match it.number {
                1 => element(self, content),
                _ => self.texts.bytes(traits, content),
            };
            if let Some(edited) = edited {
                edits.replace(it.whole, field(it.number, &edited));
            }
        }
        (!edits.is_empty()).then(|| edits.apply(bytes, 0..bytes.len()))
    }

    /// Adds to the last `Resource`, or one where there is none.
    fn enrich_resource(&mut self, bytes: &[u8], edits: &mut Edits) {
        let mut has: HashSet<String> = HashSet::new();
        let mut replaced = false;
        for attribute in delimited(bytes, 1).flat_map(|resource| delimited(resource, 1)) {
            let key = key(attribute);
            if key == SERVICE_NAME && self.enrich.replaces_service(&text_of(attribute)) {
                replaced = true;
            } else {
                has.insert(key.into_owned());
            }
        }
        let added = self.enrich.of_resource(|key| has.contains(key), self.texts);
        if added.is_empty() {
            return;
        }
        let mut attributes = Vec::new();
        for (key, value) in &added {
            put(&mut attributes, 1, &key_value(key, value));
        }
        let mut last = None;
        for it in fields(bytes).filter(|it| it.number == 1 && it.wire == Wire::Delimited) {
            let masked = edits
                .take(&it.whole)
                .and_then(|with| delimited(&with, 1).next().map(<[u8]>::to_vec));
            let resource = masked.unwrap_or_else(|| bytes[it.value.clone()].to_vec());
            let resource = if replaced {
                self.without_service(&resource)
            } else {
                resource
            };
            if let Some((whole, resource)) = last.replace((it.whole, resource)) {
                edits.replace(whole, field(1, &resource));
            }
        }
        match last {
            Some((whole, resource)) => {
                edits.replace(whole, field(1, &[resource, attributes].concat()));
            }
            None => edits.replace(0..0, field(1, &attributes)),
        }
    }

    fn without_service(&self, resource: &[u8]) -> Vec<u8> {
        let mut edits = Edits::default();
        for it in fields(resource).filter(|it| it.number == 1 && it.wire == Wire::Delimited) {
            let attribute = &resource[it.value];
            if key(attribute) == SERVICE_NAME && self.enrich.replaces_service(&text_of(attribute)) {
                edits.replace(it.whole, Vec::new());
            }
        }
        edits.apply(resource, 0..resource.len())
    }

    fn enrich_span(&mut self, bytes: &[u8], edits: &mut Edits) {
        let started_at = fields(bytes)
            .filter(|it| it.number == 7 && it.wire == Wire::Fixed64)
            .last()
            .and_then(|it| bytes[it.value].try_into().ok())
            .map(|nanos| Duration::from_nanos(u64::from_le_bytes(nanos)));
        let has = |key: &str| delimited(bytes, 9).any(|attribute| self::key(attribute) == key);
        let added = self.enrich.of_span(started_at, has, self.texts);
        let mut attributes = Vec::new();
        for (key, value) in &added {
            put(&mut attributes, 9, &key_value(key, value));
        }
        if !attributes.is_empty() {
            edits.replace(bytes.len()..bytes.len(), attributes);
        }
    }
}

enum Edited {
    Not,
    Removed,
    Changed(Vec<u8>),
}

impl From<Option<Vec<u8>>> for Edited {
    fn from(edited: Option<Vec<u8>>) -> Self {
        edited.map_or(Self::Not, Self::Changed)
    }
}

fn is_id(message: Message, number: u64) -> bool {
    matches!(
        (message, number),
        (Message::Span, 1 | 2 | 4) | (Message::Link, 1 | 2)
    )
}

fn string_value(text: &str) -> Vec<u8> {
    field(1, text.as_bytes())
}

fn key_value(key: &str, value: &Value) -> Vec<u8> {
    const INTEGER: u64 = 3 << 3;
    let value = match value {
        Value::Text(text) => string_value(text),
        Value::Integer(number) => {
            let mut out = Vec::new();
            crate::payload::proto::put_varint(&mut out, INTEGER);
            crate::payload::proto::put_varint(&mut out, number.cast_unsigned());
            out
        }
    };
    let mut out = field(1, key.as_bytes());
    put(&mut out, 2, &value);
    out
}

fn integer(varint: &[u8]) -> i64 {
    crate::payload::proto::read_varint(varint, 0).map_or(0, |(value, _)| value.cast_signed())
}

fn double(fixed: &[u8]) -> f64 {
    fixed.try_into().map_or(0.0, f64::from_le_bytes)
}
