//! Rewriting an `ExportTraceServiceRequest` as OTLP/JSON
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>).

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::edits::Edits;
use super::enrich::{Enrich, SERVICE_NAME, Value};
use super::filter::{Filter, is_gen_ai, is_javascript};
use super::json::{
    self, Manner, Member, decoded, elements, is_string, mask_values, members, quoted,
};
use super::mask::Traits;
use super::plan::{Head, Plan};
use super::texts::Texts;
use super::{DEPTH_LIMIT_VALUES, SDK_LANGUAGE};

/// Members that OTLP does not know may hold anything.
const FREE: Manner = Manner {
    look_into: true,
    numbers: false,
};

/// The messages that are walked by their members; all others are values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    ResourceSpans,
    Resource,
    ScopeSpans,
    Scope,
    Span,
    Event,
    Link,
    Status,
    KeyValue,
}

/// What a member holds.
enum Holds {
    One(Message),
    List(Message),
    /// An id, a time, a number or one of a few words.
    Plain,
    Anything,
}

impl Message {
    fn member(self, key: &str) -> Holds {
        match (self, key) {
            (Self::Request, "resourceSpans") => Holds::List(Self::ResourceSpans),
            (Self::ResourceSpans, "resource") => Holds::One(Self::Resource),
            (Self::ResourceSpans, "scopeSpans") => Holds::List(Self::ScopeSpans),
            (Self::ScopeSpans, "scope") => Holds::One(Self::Scope),
            (Self::ScopeSpans, "spans") => Holds::List(Self::Span),
            (Self::Span, "events") => Holds::List(Self::Event),
            (Self::Span, "links") => Holds::List(Self::Link),
            (Self::Span, "status") => Holds::One(Self::Status),
            (
                Self::Resource | Self::Scope | Self::Span | Self::Event | Self::Link,
                "attributes",
            ) => Holds::List(Self::KeyValue),
            (Self::Span | Self::Link, "traceId" | "spanId")
            | (Self::Span, "parentSpanId" | "kind" | "startTimeUnixNano" | "endTimeUnixNano")
            | (Self::Event, "timeUnixNano")
            | (Self::Status, "code")
            | (
                _,
                "flags" | "droppedAttributesCount" | "droppedEventsCount" | "droppedLinksCount",
            ) => Holds::Plain,
            _ => Holds::Anything,
        }
    }
}

/// What is known of every span, in the order in which they stand.
pub(super) fn heads(body: &[u8], filter: &Filter) -> Vec<Head> {
    let mut heads = Vec::new();
    for resource_spans in lists(body, &(0..body.len()), "resourceSpans") {
        let javascript = all(body, &resource_spans, "resource")
            .iter()
            .flat_map(|resource| lists(body, resource, "attributes"))
            .any(|it| key(body, &it) == SDK_LANGUAGE && is_javascript(&text_of(body, &it)));
        for scope_spans in lists(body, &resource_spans, "scopeSpans") {
            let scope =
                last(body, &scope_spans, "scope").and_then(|scope| last(body, &scope, "name"));
            let scope = scope.map(|name| decoded(body, &name)).unwrap_or_default();
            for span in lists(body, &scope_spans, "spans") {
                let mut attributes = lists(body, &span, "attributes");
                let has_gen_ai = attributes.any(|it| is_gen_ai(&key(body, &it)));
                heads.push(Head {
                    trace: id(body, &span, "traceId"),
                    span: id(body, &span, "spanId"),
                    parent: id(body, &span, "parentSpanId"),
                    standing: filter.standing(&scope, javascript, has_gen_ai),
                });
            }
        }
    }
    heads
}

/// All members `key` of an object.
fn all(body: &[u8], object: &Range<usize>, key: &str) -> Vec<Range<usize>> {
    let members = members(body, object).unwrap_or_default();
    members
        .into_iter()
        .filter(|it| it.key == key)
        .map(|it| it.value)
        .collect()
}

fn last(body: &[u8], object: &Range<usize>, key: &str) -> Option<Range<usize>> {
    all(body, object, key).pop()
}

/// The elements of all lists `key` of an object.
fn lists(body: &[u8], object: &Range<usize>, key: &str) -> impl Iterator<Item = Range<usize>> {
    all(body, object, key)
        .into_iter()
        .flat_map(|list| elements(body, &list).unwrap_or_default())
}

/// An id, in lower case where it is hexadecimal.
fn id(body: &[u8], span: &Range<usize>, key: &str) -> String {
    let id = last(body, span, key).filter(|id| is_string(body, id));
    let id = id.map(|id| decoded(body, &id)).unwrap_or_default();
    if id.bytes().all(|byte| byte == b'0') {
        String::new()
    } else if id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        id.to_ascii_lowercase()
    } else {
        id.into_owned()
    }
}

fn key<'a>(body: &'a [u8], attribute: &Range<usize>) -> Cow<'a, str> {
    last(body, attribute, "key")
        .map(|key| decoded(body, &key))
        .unwrap_or_default()
}

fn text_of<'a>(body: &'a [u8], attribute: &Range<usize>) -> Cow<'a, str> {
    let text = last(body, attribute, "value").and_then(|value| last(body, &value, "stringValue"));
    text.map(|text| decoded(body, &text)).unwrap_or_default()
}

/// The body as it leaves; `None`: as it came.
pub(super) fn rewritten(
    body: &[u8],
    plan: Plan,
    enrich: &Enrich,
    texts: &mut Texts<'_>,
) -> Option<Vec<u8>> {
    let mut rewriter = Rewriter {
        body,
        plan,
        enrich,
        texts,
        edits: Edits::default(),
    };
    rewriter.message(Message::Request, &(0..body.len()), Traits::default());
    let edits = rewriter.edits;
    (!edits.is_empty()).then(|| edits.apply(body, 0..body.len()))
}

struct Rewriter<'a, 't, 'm> {
    body: &'a [u8],
    plan: Plan,
    enrich: &'a Enrich,
    texts: &'t mut Texts<'m>,
    edits: Edits,
}

impl Rewriter<'_, '_, '_> {
    /// Walks what should be a message. Returns whether it holds spans that all stay here.
    fn message(&mut self, message: Message, range: &Range<usize>, around: Traits) -> bool {
        if message == Message::KeyValue {
            self.key_value(range, around, 0);
            return false;
        }
        let Some(members) = members(self.body, range) else {
            self.free(range, around);
            return false;
        };
        let (mut had, mut has) = (false, false);
        for member in &members {
            match message.member(&member.key) {
                Holds::One(inner) => {
                    self.message(inner, &member.value, around);
                }
                Holds::List(inner) => match elements(self.body, &member.value) {
                    Some(elements) => {
                        let kept = self.list(inner, &elements);
                        had |= !elements.is_empty();
                        has |= kept;
                    }
                    None => self.free(&member.value, around),
                },
                Holds::Plain => self.plain(&member.value),
                Holds::Anything => self.anything(member, around),
            }
        }
        match message {
            Message::ResourceSpans => self.enrich_resource(range, &members),
            Message::Span => self.enrich_span(range, &members),
            _ => {}
        }
        matches!(message, Message::ResourceSpans | Message::ScopeSpans) && had && !has
    }

    /// Walks a list of messages, and takes out what stays here. Returns whether any is left.
    fn list(&mut self, message: Message, elements: &[Range<usize>]) -> bool {
        let mut keep = Vec::with_capacity(elements.len());
        for element in elements {
            if message == Message::Span && !self.plan.next() {
                keep.push(false);
                continue;
            }
            let before = self.edits.len();
            let emptied = self.message(message, element, Traits::default());
            if emptied {
                self.edits.forget_from(before);
            }
            keep.push(!emptied);
        }
        self.edits.retain(elements, &keep);
        keep.contains(&true)
    }

    fn free(&mut self, range: &Range<usize>, traits: Traits) {
        mask_values(self.body, range, traits, FREE, self.texts, &mut self.edits);
    }

    /// Ids and times are left alone, as long as they look like some.
    fn plain(&mut self, range: &Range<usize>) {
        if !json::is_plain(self.body, range) {
            self.free(range, Traits::default());
        }
    }

    fn anything(&mut self, member: &Member<'_>, around: Traits) {
        if let Some(key) = self.texts.key(&member.key) {
            self.edits.replace_string(member.key_range.clone(), &key);
        }
        self.free(&member.value, around);
    }

    fn key_value(&mut self, range: &Range<usize>, around: Traits, depth: usize) {
        let Some(members) = members(self.body, range) else {
            self.free(range, around);
            return;
        };
        let keys = members.iter().filter(|it| it.key == "key");
        let traits = keys
            .map(|it| self.texts.traits(&decoded(self.body, &it.value)))
            .fold(around, Traits::or);
        for member in &members {
            match &*member.key {
                "key" if is_string(self.body, &member.value) => {
                    if let Some(key) = self.texts.key(&decoded(self.body, &member.value)) {
                        self.edits.replace_string(member.value.clone(), &key);
                    }
                }
                "value" => self.any_value(&member.value, traits, depth),
                _ => self.anything(member, traits),
            }
        }
    }

    fn any_value(&mut self, range: &Range<usize>, traits: Traits, depth: usize) {
        let Some(members) = members(self.body, range) else {
            self.free(range, traits);
            return;
        };
        if members.is_empty() {
            return;
        }
        let instead = if traits.masked {
            Some(self.texts.whole())
        } else if depth >= DEPTH_LIMIT_VALUES {
            self.texts.stripped()
        } else {
            None
        };
        if let Some(instead) = instead {
            self.edits.replace(range.clone(), string_value(instead));
            return;
        }
        if depth >= DEPTH_LIMIT_VALUES {
            return;
        }
        for member in &members {
            self.alternative(member, traits, depth);
        }
    }

    fn alternative(&mut self, member: &Member<'_>, traits: Traits, depth: usize) {
        let value = &member.value;
        match &*member.key {
            "intValue" => self.number(member, traits, &decoded(self.body, value)),
            "doubleValue" => {
                let text = decoded(self.body, value);
                let text = text
                    .parse()
                    .map_or_else(|_| text.into_owned(), |number: f64| number.to_string());
                self.number(member, traits, &text);
            }
            "boolValue" => self.plain(value),
            "bytesValue" => self.bytes(value, traits),
            "arrayValue" | "kvlistValue" => self.values(member, traits, depth),
            // `stringValue`, and what OTLP does not know.
            _ => self.free(value, traits),
        }
    }

    fn number(&mut self, member: &Member<'_>, traits: Traits, decimal: &str) {
        if let Some(masked) = self.texts.number(traits, decimal) {
            self.edits
                .replace_string(member.key_range.clone(), "stringValue");
            self.edits.replace_string(member.value.clone(), &masked);
        }
    }

    fn bytes(&mut self, value: &Range<usize>, traits: Traits) {
        let text = decoded(self.body, value);
        let Ok(bytes) = STANDARD.decode(&*text) else {
            self.free(value, traits);
            return;
        };
        if let Some(masked) = self.texts.bytes(traits, &bytes) {
            self.edits
                .replace_string(value.clone(), &STANDARD.encode(masked));
        }
    }

    fn values(&mut self, member: &Member<'_>, traits: Traits, depth: usize) {
        let Some(members) = members(self.body, &member.value) else {
            self.free(&member.value, traits);
            return;
        };
        for inner in &members {
            let elements = elements(self.body, &inner.value).filter(|_| inner.key == "values");
            let Some(elements) = elements else {
                self.free(&inner.value, traits);
                continue;
            };
            for element in &elements {
                if member.key == "kvlistValue" {
                    self.key_value(element, traits, depth + 1);
                } else {
                    self.any_value(element, traits, depth + 1);
                }
            }
        }
    }

    fn enrich_resource(&mut self, resource_spans: &Range<usize>, members: &[Member<'_>]) {
        if self.enrich.is_off() {
            return;
        }
        let resource = members
            .iter()
            .filter(|it| it.key == "resource")
            .map(|it| it.value.clone())
            .next_back();
        let resource = resource.filter(|it| json::members(self.body, it).is_some());
        let attributes: Vec<_> = resource
            .iter()
            .flat_map(|it| lists(self.body, it, "attributes"))
            .collect();
        let mut has: HashSet<String> = HashSet::new();
        let mut keep = Vec::new();
        for attribute in &attributes {
            let key = key(self.body, attribute);
            let replaced =
                key == SERVICE_NAME && self.enrich.replaces_service(&text_of(self.body, attribute));
            keep.push(!replaced);
            if !replaced {
                has.insert(key.into_owned());
            }
        }
        let added = self.enrich.of_resource(|key| has.contains(key), self.texts);
        if added.is_empty() {
            return;
        }
        for (attribute, _) in attributes.iter().zip(&keep).filter(|(_, keep)| !**keep) {
            self.edits.forget_within(attribute);
        }
        let added: Vec<_> = added
            .iter()
            .map(|(key, value)| key_value(key, value))
            .collect();
        if let Some(resource) = resource {
            self.add_attributes(&resource, &added, &keep);
        } else {
            let resource = [b"{\"attributes\":".as_slice(), &list_of(&added), b"}"].concat();
            self.set_member(resource_spans, "resource", &resource);
        }
    }

    fn enrich_span(&mut self, span: &Range<usize>, members: &[Member<'_>]) {
        if !self.enrich.invocation {
            return;
        }
        let started_at = members.iter().rfind(|it| it.key == "startTimeUnixNano");
        let started_at = started_at
            .and_then(|it| decoded(self.body, &it.value).parse().ok())
            .map(Duration::from_nanos);
        let body = self.body;
        let list = members.iter().rfind(|it| it.key == "attributes");
        let list = list.and_then(|it| Some((elements(body, &it.value)?, it.value.clone())));
        let known = list.as_ref().map_or(&[][..], |(known, _)| known);
        let has = |wanted: &str| known.iter().any(|it| key(body, it) == wanted);
        let added = self.enrich.of_span(started_at, has, self.texts);
        let added: Vec<_> = added
            .iter()
            .map(|(key, value)| key_value(key, value))
            .collect();
        match &list {
            Some((known, list)) => self.add_elements(list, &added, known.is_empty()),
            None if added.is_empty() => {}
            None => self.set_member(span, "attributes", &list_of(&added)),
        }
    }

    fn add_attributes(&mut self, object: &Range<usize>, added: &[Vec<u8>], keep: &[bool]) {
        match last(self.body, object, "attributes")
            .and_then(|list| Some((elements(self.body, &list)?, list)))
        {
            Some((elements, list)) => {
                let keep = &keep[keep.len().saturating_sub(elements.len())..];
                self.edits.retain(&elements, keep);
                self.add_elements(&list, added, !keep.contains(&true));
            }
            None => self.set_member(object, "attributes", &list_of(added)),
        }
    }

    fn add_elements(&mut self, list: &Range<usize>, added: &[Vec<u8>], is_empty: bool) {
        if added.is_empty() {
            return;
        }
        let comma: &[u8] = if is_empty { b"" } else { b"," };
        let end = list.end - 1;
        self.edits
            .replace(end..end, [comma, &added.join(&b',')].concat());
    }

    /// Sets a member that is of no use as it is, or adds it in front of all others.
    fn set_member(&mut self, object: &Range<usize>, key: &str, value: &[u8]) {
        let members = members(self.body, object).unwrap_or_default();
        if let Some(member) = members.iter().rfind(|it| it.key == key) {
            self.edits.forget_within(&member.value);
            self.edits.replace(member.value.clone(), value);
            return;
        }
        let comma: &[u8] = if members.is_empty() { b"" } else { b"," };
        let at = object.start + 1;
        self.edits.replace(
            at..at,
            [&quoted(key), b":".as_slice(), value, comma].concat(),
        );
    }
}

fn list_of(elements: &[Vec<u8>]) -> Vec<u8> {
    [b"[".as_slice(), &elements.join(&b','), b"]"].concat()
}

fn string_value(text: &str) -> Vec<u8> {
    [b"{\"stringValue\":".as_slice(), &quoted(text), b"}"].concat()
}

fn key_value(key: &str, value: &Value) -> Vec<u8> {
    let value = match value {
        Value::Text(text) => string_value(text),
        // 64-bit integers are strings in OTLP/JSON.
        Value::Integer(number) => format!(r#"{{"intValue":"{number}"}}"#).into_bytes(),
    };
    [
        b"{\"key\":".as_slice(),
        &quoted(key),
        b",\"value\":",
        &value,
        b"}",
    ]
    .concat()
}
