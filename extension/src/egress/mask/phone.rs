//! Phone numbers.

use super::Found;

/// Digits of a number with its country's code (ITU-T E.164), and at least so many that it can be called.
const DIGITS: std::ops::RangeInclusive<usize> = 8..=15;
/// Digits of a number under a key that speaks of a phone, where the country may be missing.
const DIGITS_UNDER_KEY: std::ops::RangeInclusive<usize> = 5..=15;

/// Finds numbers with a leading `+`. Under a key that speaks of a phone, a number without one is found too.
pub(super) fn find(text: &str, speaks_of_phone: bool, found: &mut Vec<Found<'_>>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| match byte {
        b'+' => true,
        b'0'..=b'9' | b'(' => speaks_of_phone,
        _ => false,
    }) {
        let start = at + next;
        let (digits, end) = number(bytes, start);
        let before = text[..start].chars().next_back();
        let starts = before.is_none_or(|c| !c.is_alphanumeric());
        let first = bytes[start..end].iter().find(|byte| byte.is_ascii_digit());
        let with_country = bytes[start] == b'+' && first != Some(&b'0') && DIGITS.contains(&digits);
        let under_key = speaks_of_phone && DIGITS_UNDER_KEY.contains(&digits);
        if starts && (with_country || under_key) {
            found.push(Found {
                range: start..end,
                what: "phone",
            });
        }
        at = end.max(start + 1);
    }
}

/// How many digits follow, and where the last of them ends.
fn number(bytes: &[u8], start: usize) -> (usize, usize) {
    let (mut digits, mut end, mut gap) = (0, start, 0);
    for (place, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'0'..=b'9' => (digits, end, gap) = (digits + 1, place + 1, 0),
            b' ' | b'-' | b'.' | b'(' | b')' | b'/' | b'+'
                if gap < 3 && (*byte != b'+' || place == start) =>
            {
                gap += 1;
            }
            _ => break,
        }
    }
    (digits, end)
}
