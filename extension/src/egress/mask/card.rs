//! Payment cards.

use std::ops::Range;

use super::Found;

/// How issuers print numbers in groups. Every other grouping needs a word that speaks of a card.
const PRINTED: [&[usize]; 5] = [
    &[4, 4, 4, 4, 3],
    &[4, 4, 4, 4],
    &[4, 6, 5],
    &[4, 6, 4],
    &[4, 5, 6],
];
const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// How far before a number a word may stand that speaks of a card.
const WORD_REACH_BYTES: usize = 32;

/// Finds numbers with a valid check digit (ISO/IEC 7812) in printed groups; where a key or a word before it speaks of a
/// card, in any groups or none. Times in nanoseconds and ids are bare digits, and a tenth of them has a valid check digit.
pub(super) fn find(text: &str, speaks_of_card: bool, found: &mut Vec<Found<'_>>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(u8::is_ascii_digit) {
        let start = at + next;
        let groups = groups(text, start);
        at = groups.last().map_or(start + 1, |group| group.end);
        if !is_part_of_word(text, start) {
            find_in(text, &groups, speaks_of_card, found);
        }
    }
}

fn find_in(text: &str, groups: &[Range<usize>], speaks_of_card: bool, found: &mut Vec<Found<'_>>) {
    let mut first = 0;
    while first < groups.len() {
        let speaks = speaks_of_card || word_before(text, groups[first].start);
        let length = printed(groups, first)
            .filter(|length| valid(text, &groups[first..first + length]))
            .or_else(|| speaks.then(|| any_groups(text, &groups[first..])).flatten());
        if let Some(length) = length {
            found.push(Found {
                range: groups[first].start..groups[first + length - 1].end,
                what: "card",
            });
        }
        first += length.unwrap_or(1);
    }
}

fn printed(groups: &[Range<usize>], first: usize) -> Option<usize> {
    PRINTED
        .iter()
        .find(|sizes| {
            groups
                .get(first..first + sizes.len())
                .is_some_and(|groups| {
                    groups
                        .iter()
                        .zip(**sizes)
                        .all(|(group, size)| group.len() == *size)
                })
        })
        .map(|sizes| sizes.len())
}

/// How many of the first groups make a number.
fn any_groups(text: &str, groups: &[Range<usize>]) -> Option<usize> {
    (1..=groups.len().min(*DIGITS.end()))
        .rev()
        .find(|length| valid(text, &groups[..*length]))
}

fn valid(text: &str, groups: &[Range<usize>]) -> bool {
    let digits: usize = groups.iter().map(Range::len).sum();
    let all = groups.iter().flat_map(|group| text[group.clone()].bytes());
    DIGITS.contains(&digits)
        && matches!(all.clone().next(), Some(b'2'..=b'6'))
        && luhn(all.map(|byte| u32::from(byte - b'0')), digits)
}

fn luhn(digits: impl Iterator<Item = u32>, count: usize) -> bool {
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| {
            let doubled = digit << u32::from((count - place).is_multiple_of(2));
            doubled / 10 + doubled % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The groups of digits from `start` on, with a single separator between them.
fn groups(text: &str, start: usize) -> Vec<Range<usize>> {
    let (mut groups, mut at) = (Vec::new(), start);
    loop {
        let end = text[at..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(text.len(), |length| at + length);
        if text[end..]
            .chars()
            .next()
            .is_some_and(|c| c.is_alphanumeric() || c == '_')
        {
            // The last digits belong to a word.
            return groups;
        }
        groups.push(at..end);
        let mut rest = text[end..].chars();
        let separator = rest.next().filter(|c| is_separator(*c));
        let digit = rest.next().filter(char::is_ascii_digit);
        match (separator, digit) {
            (Some(separator), Some(_)) => at = end + separator.len_utf8(),
            _ => return groups,
        }
    }
}

/// Blanks, hyphens and dots, also those that do not break a line.
fn is_separator(c: char) -> bool {
    matches!(
        c,
        ' ' | '-' | '.' | '\u{a0}' | '\u{202f}' | '\u{2009}' | '\u{2010}'..='\u{2013}'
    )
}

fn is_part_of_word(text: &str, start: usize) -> bool {
    let before = text[..start].chars().next_back();
    before.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

fn word_before(text: &str, start: usize) -> bool {
    let from = text.floor_char_boundary(start.saturating_sub(WORD_REACH_BYTES));
    let before = text[from..start].to_lowercase();
    ["card", "visa", "amex", "karte", "carte"]
        .iter()
        .any(|word| before.contains(word))
}
