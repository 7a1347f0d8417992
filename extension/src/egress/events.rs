//! Rewriting what goes to `/api/public/ingestion` and `/api/public/scores`.

use std::ops::Range;
use std::time::Duration;

use super::edits::Edits;
use super::enrich::Enrich;
use super::json::{
    Manner, Member, decoded, elements, is_plain, is_string, mask_values, members, quoted,
};
use super::mask::Traits;
use super::plan::Plan;
use super::sample::Sample;
use super::texts::Texts;
use crate::payload::Kind;

/// Members of a score or of the body of an event that Langfuse reads as ids, times, or one of a few words. They are left
/// alone as long as they look like it; users and sessions are names that people choose.
const PLAIN: [&str; 21] = [
    "id",
    "traceId",
    "observationId",
    "parentObservationId",
    "datasetRunId",
    "configId",
    "queueId",
    "timestamp",
    "startTime",
    "endTime",
    "completionStartTime",
    "type",
    "level",
    "dataType",
    "environment",
    "unit",
    "source",
    "value",
    "public",
    "promptVersion",
    "totalCost",
];
/// Members that hold what the app traces, in any shape.
const VALUES: [&str; 3] = ["input", "output", "metadata"];

/// Whether each unit leaves, by its trace. What belongs to no trace, such as the score of a session, does.
pub(super) fn sampled(kind: Kind, body: &[u8], sample: Sample) -> Plan {
    Plan::new(
        units(kind, body)
            .iter()
            .map(|unit| trace_of(kind, body, unit).is_none_or(|trace| sample.keeps(&trace)))
            .collect(),
    )
}

fn units(kind: Kind, body: &[u8]) -> Vec<Range<usize>> {
    let whole = 0..body.len();
    match kind {
        Kind::Scores => elements(body, &whole).unwrap_or_default(),
        Kind::Ingestion => all(body, &whole, "batch")
            .iter()
            .flat_map(|batch| elements(body, batch).unwrap_or_default())
            .collect(),
        _ => vec![whole],
    }
}

fn all(body: &[u8], object: &Range<usize>, key: &str) -> Vec<Range<usize>> {
    let members = members(body, object).unwrap_or_default();
    members
        .into_iter()
        .filter(|it| it.key == key)
        .map(|it| it.value)
        .collect()
}

fn text(body: &[u8], object: &Range<usize>, key: &str) -> Option<String> {
    let value = all(body, object, key)
        .pop()
        .filter(|value| is_string(body, value))?;
    Some(decoded(body, &value).into_owned()).filter(|text| !text.is_empty())
}

fn trace_of(kind: Kind, body: &[u8], unit: &Range<usize>) -> Option<String> {
    if kind != Kind::Ingestion {
        return text(body, unit, "traceId");
    }
    let inner = all(body, unit, "body").pop()?;
    match text(body, unit, "type")?.as_str() {
        "trace-create" => text(body, &inner, "id"),
        _ => text(body, &inner, "traceId"),
    }
}

/// The body as it leaves; `None`: as it came.
pub(super) fn rewritten(
    kind: Kind,
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
    let whole = 0..body.len();
    match kind {
        Kind::Ingestion => rewriter.request(&whole),
        Kind::Scores => rewriter.list(&whole, Rewriter::unit),
        _ => rewriter.unit(&whole),
    }
    let edits = rewriter.edits;
    (!edits.is_empty()).then(|| edits.apply(body, whole))
}

struct Rewriter<'a, 't, 'm> {
    body: &'a [u8],
    plan: Plan,
    enrich: &'a Enrich,
    texts: &'t mut Texts<'m>,
    edits: Edits,
}

impl Rewriter<'_, '_, '_> {
    fn request(&mut self, whole: &Range<usize>) {
        for member in members(self.body, whole).unwrap_or_default() {
            if member.key == "batch" && elements(self.body, &member.value).is_some() {
                self.list(&member.value, Self::event);
            } else {
                self.anything(&member);
            }
        }
    }

    fn list(&mut self, list: &Range<usize>, mut unit: impl FnMut(&mut Self, &Range<usize>)) {
        let elements = elements(self.body, list).unwrap_or_default();
        let keep: Vec<bool> = elements
            .iter()
            .map(|element| {
                let keep = self.plan.next();
                if keep {
                    unit(self, element);
                }
                keep
            })
            .collect();
        self.edits.retain(&elements, &keep);
    }

    fn event(&mut self, event: &Range<usize>) {
        let Some(members) = members(self.body, event) else {
            self.free(event, Traits::default(), true);
            return;
        };
        let creates = text(self.body, event, "type").is_some_and(|it| creates_what_is_seen(&it));
        for member in &members {
            match &*member.key {
                "id" | "type" | "timestamp" if is_plain(self.body, &member.value) => {}
                "body" => {
                    self.unit(&member.value);
                    if creates {
                        self.enrich(&member.value);
                    }
                }
                _ => self.anything(member),
            }
        }
    }

    /// A score, or the body of an event.
    fn unit(&mut self, unit: &Range<usize>) {
        let Some(members) = members(self.body, unit) else {
            self.free(unit, Traits::default(), true);
            return;
        };
        for member in &members {
            let plain = PLAIN.contains(&&*member.key) && is_plain(self.body, &member.value);
            let traits = self.texts.traits(&member.key);
            if plain && !traits.masked {
                continue;
            }
            if VALUES.contains(&&*member.key) && !traits.masked {
                self.value(member, traits);
            } else {
                self.anything(member);
            }
        }
    }

    /// A value in any shape, which on the way of OTLP would be one attribute: too long, it is cut as its text.
    fn value(&mut self, member: &Member<'_>, traits: Traits) {
        let limit = self.texts.limit_bytes();
        let long = |bytes: &[u8]| limit.is_some_and(|limit| bytes.len() > limit);
        if is_string(self.body, &member.value) || !long(&self.body[member.value.clone()]) {
            self.free(&member.value, traits, true);
            return;
        }
        let before = std::mem::take(&mut self.edits);
        self.free(&member.value, traits, true);
        let within = std::mem::replace(&mut self.edits, before);
        let value = within.apply(self.body, member.value.clone());
        if !long(&value) {
            self.edits.replace(member.value.clone(), value);
        } else if let Some(short) =
            self.texts
                .value(traits, &String::from_utf8_lossy(&value), false)
        {
            self.edits.replace_string(member.value.clone(), &short);
        }
    }

    fn anything(&mut self, member: &Member<'_>) {
        if let Some(key) = self.texts.key(&member.key) {
            self.edits.replace_string(member.key_range.clone(), &key);
        }
        self.free(&member.value, self.texts.traits(&member.key), false);
    }

    fn free(&mut self, range: &Range<usize>, traits: Traits, numbers: bool) {
        let manner = Manner {
            look_into: true,
            numbers,
        };
        mask_values(
            self.body,
            range,
            traits,
            manner,
            self.texts,
            &mut self.edits,
        );
    }

    /// Adds what is known of the invocation to the metadata of an event's body, where they are an object or none.
    fn enrich(&mut self, unit: &Range<usize>) {
        let began =
            text(self.body, unit, "startTime").or_else(|| text(self.body, unit, "timestamp"));
        let known = self.enrich.metadata(began.as_deref().and_then(since_epoch));
        let Some(of_unit) = members(self.body, unit).filter(|_| !known.is_empty()) else {
            return;
        };
        let metadata = of_unit.iter().rfind(|it| it.key == "metadata");
        let has = metadata.map(|it| members(self.body, &it.value));
        let of_metadata = match &has {
            Some(None) => return,
            Some(Some(members)) => members.as_slice(),
            None => &[],
        };
        let mut added = Vec::new();
        for (key, value) in known {
            if of_metadata.iter().all(|it| it.key != key) {
                let traits = self.texts.traits(key);
                let value = self.texts.value(traits, &value, false).unwrap_or(value);
                added.push([&quoted(key), b":".as_slice(), &quoted(&value)].concat());
            }
        }
        let (added, comma): (_, &[u8]) = (added.join(&b','), b",");
        match metadata.map(|it| it.value.start + 1) {
            _ if added.is_empty() => {}
            Some(at) if of_metadata.is_empty() => self.edits.replace(at..at, added),
            Some(at) => self.edits.replace(at..at, [&added, comma].concat()),
            None => {
                let comma = if of_unit.is_empty() { b"" } else { comma };
                let at = unit.start + 1;
                self.edits.replace(
                    at..at,
                    [b"\"metadata\":{".as_slice(), &added, b"}", comma].concat(),
                );
            }
        }
    }
}

/// Events that make something that Langfuse shows with metadata.
fn creates_what_is_seen(kind: &str) -> bool {
    matches!(
        kind,
        "trace-create"
            | "span-create"
            | "generation-create"
            | "event-create"
            | "observation-create"
    )
}

/// An ISO 8601 time in UTC or with an offset, as Langfuse's SDKs write it.
fn since_epoch(text: &str) -> Option<Duration> {
    let number = |range: Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let fraction: String = rest
        .strip_prefix('.')
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect())
        .unwrap_or_default();
    let zone = rest.get(fraction.len() + usize::from(!fraction.is_empty())..)?;
    let offset = match zone.as_bytes().first() {
        None | Some(b'Z' | b'z') => 0,
        Some(sign @ (b'+' | b'-')) => {
            let zone: String = zone.chars().filter(char::is_ascii_digit).collect();
            let minutes =
                zone.get(..2)?.parse::<i64>().ok()? * 60 + zone.get(2..4)?.parse::<i64>().ok()?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        Some(_) => return None,
    };
    let days = days_since_epoch(year, month, day);
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(Duration::new(u64::try_from(seconds).ok()?, nanos))
}

/// Days of the Gregorian calendar, counted in eras of 400 years that begin in March, when leap days come last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_sdks_write_them() {
        for (text, nanos) in [
            ("2025-11-24T23:00:00Z", 1_764_025_200_000_000_000),
            (
                "2025-11-25T00:00:00.123456+01:00",
                1_764_025_200_123_456_000,
            ),
            ("2025-11-24T23:00:00.5-0000", 1_764_025_200_500_000_000),
            ("2024-02-29T00:00:00", 1_709_164_800_000_000_000),
        ] {
            assert_eq!(
                since_epoch(text),
                Some(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in ["", "yesterday", "2025-11-24", "2025-11-24T23:00:00 CET"] {
            assert_eq!(since_epoch(text), None, "{text}");
        }
    }
}
