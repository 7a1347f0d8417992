//! Masking: what is found in a text, and what becomes of it.
//!
//! A match is replaced by a mark that names what was found. A text is searched again until nothing is found outside of
//! the marks, because a replacement may bring two harmless halves together; what still matches then loses all of its
//! content. Nothing here falls back to clear text.

mod card;
mod email;
mod iban;
mod keys;
mod phone;
mod secret;

use std::ops::Range;

use regex::{Regex, RegexBuilder};

use keys::Keys;
pub(super) use keys::Traits;

/// What stands for a whole value.
pub const MASKED: &str = "[masked]";
/// What stands for a value that was not searched, because a pattern does not compile.
pub const STRIPPED: &str = "[stripped]";
/// How often a text is searched before it loses all of its content.
const PASSES: usize = 6;
/// Matches in one text above which it loses all of its content. Finding very many is quadratic in the worst case.
const MATCHES_LIMIT: usize = 10_000;
/// The most a compiled pattern may occupy, so that `\w{1000}{1000}` does not cost the sandbox its memory.
const PATTERN_LIMIT_BYTES: usize = 1 << 20;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// Addresses, also with `%40`.
    Email,
    /// Payment cards: a valid check digit, and separators or a key or word that speaks of a card.
    Card,
    /// International bank account numbers, by the length of their country and their check digits.
    Iban,
    /// Phone numbers with a leading `+`, or under a key that speaks of one.
    Phone,
    /// Keys of known services, and what follows `Bearer` and `Basic`.
    ApiKey,
    /// JSON web tokens.
    Jwt,
}

impl Detector {
    /// All of them, by the names that the setting takes.
    pub const NAMES: [(&str, Self); 6] = [
        ("email", Self::Email),
        ("card", Self::Card),
        ("iban", Self::Iban),
        ("phone", Self::Phone),
        ("api-key", Self::ApiKey),
        ("jwt", Self::Jwt),
    ];

    fn find(self, traits: Traits, text: &str, found: &mut Vec<Found<'_>>) {
        match self {
            Self::Email => email::find(text, found),
            Self::Card => card::find(text, traits.card, found),
            Self::Iban => iban::find(text, found),
            Self::Phone => phone::find(text, traits.phone, found),
            Self::ApiKey => secret::find_keys(text, found),
            Self::Jwt => secret::find_tokens(text, found),
        }
    }
}

/// Something that must not leave, and what its mark says.
struct Found<'a> {
    range: Range<usize>,
    what: &'a str,
}

/// What is masked.
#[derive(Debug, Default)]
pub struct Mask {
    detectors: Vec<Detector>,
    keys: Keys,
    patterns: Vec<(String, Regex)>,
    broken: Vec<String>,
}

impl Mask {
    /// Langfuse's secret keys, and what is named here. `keys` match in any case, whole or as parts between dots.
    pub fn new(detectors: &[Detector], keys: &[String], patterns: &[(String, String)]) -> Self {
        let mut mask = Self {
            detectors: detectors.to_vec(),
            keys: Keys::new(
                keys,
                detectors.contains(&Detector::Card),
                detectors.contains(&Detector::Phone),
            ),
            ..Self::default()
        };
        for (name, pattern) in patterns {
            let name = name.to_ascii_lowercase();
            let compiled = RegexBuilder::new(pattern)
                .size_limit(PATTERN_LIMIT_BYTES)
                .build();
            match compiled {
                Ok(regex) => mask.patterns.push((name, regex)),
                Err(_) => mask.broken.push(name),
            }
        }
        mask
    }

    /// The patterns that do not compile. As long as there is one, all values are stripped.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Whether anything is masked beside Langfuse's own secret keys.
    pub fn is_configured(&self) -> bool {
        !(self.detectors.is_empty()
            && self.keys.is_empty()
            && self.patterns.is_empty()
            && self.broken.is_empty())
    }

    pub(super) fn strips(&self) -> bool {
        !self.broken.is_empty()
    }

    /// What the key of a value says about it.
    pub(super) fn traits(&self, key: &str) -> Traits {
        self.keys.traits(key)
    }

    /// Whether keys matter at all, so that looking for them is worth the time.
    pub(super) fn reads_keys(&self) -> bool {
        self.keys.matter()
    }

    /// The text with marks for what was found in it; `None`: it may leave as it is.
    pub(super) fn text(&self, traits: Traits, text: &str) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        if traits.masked {
            return Some(MASKED.to_owned());
        }
        if self.strips() {
            return Some(STRIPPED.to_owned());
        }
        let mut marked: Option<Marked> = None;
        for _ in 0..PASSES {
            let now = marked.as_ref().map_or(text, |marked| &marked.text);
            let marks = marked.as_ref().map_or(&[][..], |marked| &marked.marks);
            let Some(found) = self.find(traits, now, marks) else {
                return Some(MASKED.to_owned());
            };
            if found.is_empty() {
                return marked.map(|marked| marked.text);
            }
            marked = Some(Marked::new(now, marks, found));
        }
        Some(MASKED.to_owned())
    }

    /// What was found outside of the marks. `None`: too much.
    fn find(&self, traits: Traits, text: &str, marks: &[Range<usize>]) -> Option<Vec<Found<'_>>> {
        let mut found = Vec::new();
        secret::find_langfuse(text, &mut found);
        for detector in &self.detectors {
            detector.find(traits, text, &mut found);
        }
        for (name, regex) in &self.patterns {
            let matches = regex.find_iter(text).take(MATCHES_LIMIT + 1);
            found.extend(
                matches
                    .filter(|found| !found.is_empty())
                    .map(|found| Found {
                        range: found.range(),
                        what: name,
                    }),
            );
        }
        found.retain(|found| !marks.iter().any(|mark| within(&found.range, mark)));
        (found.len() <= MATCHES_LIMIT).then_some(found)
    }
}

fn within(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// A text and where its marks lie.
struct Marked {
    text: String,
    marks: Vec<Range<usize>>,
}

impl Marked {
    fn new(text: &str, marks: &[Range<usize>], mut found: Vec<Found<'_>>) -> Self {
        // Marks of earlier passes stay what they are, unless something reaches into them.
        found.extend(marks.iter().map(|mark| Found {
            range: mark.clone(),
            what: "",
        }));
        found.sort_by_key(|found| (found.range.start, usize::MAX - found.range.end));
        let mut out = Self {
            text: String::with_capacity(text.len()),
            marks: Vec::with_capacity(found.len()),
        };
        let (mut at, mut rest) = (0, found.into_iter().peekable());
        while let Some(mut first) = rest.next() {
            while let Some(next) = rest.next_if(|next| next.range.start < first.range.end) {
                first.range.end = first.range.end.max(next.range.end);
                if first.what.is_empty() {
                    first.what = next.what;
                }
            }
            out.text.push_str(&text[at..first.range.start]);
            let start = out.text.len();
            if first.what.is_empty() {
                out.text.push_str(&text[first.range.clone()]);
            } else {
                out.text.push_str("[masked:");
                out.text.push_str(first.what);
                out.text.push(']');
            }
            out.marks.push(start..out.text.len());
            at = first.range.end;
        }
        out.text.push_str(&text[at..]);
        out
    }
}

#[cfg(test)]
mod tests;
