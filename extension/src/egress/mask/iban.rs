//! International bank account numbers.

use super::Found;

/// Length by country (the registry of ISO 13616).
const LENGTHS: [(&[u8; 2], usize); 84] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
];

/// Finds numbers in any case, bare or in groups, whose check digits are right.
pub(super) fn find(text: &str, found: &mut Vec<Found<'_>>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 4 < bytes.len() {
        let end = (at == 0 || !bytes[at - 1].is_ascii_alphanumeric())
            .then(|| end_at(bytes, at))
            .flatten();
        if let Some(end) = end {
            found.push(Found {
                range: at..end,
                what: "iban",
            });
        }
        at = end.unwrap_or(at + 1);
    }
}

/// Where the number ends that begins at `start`.
fn end_at(bytes: &[u8], start: usize) -> Option<usize> {
    let [a, b, c, d] = *bytes.get(start..)?.first_chunk()?;
    if !(c.is_ascii_digit() && d.is_ascii_digit()) {
        return None;
    }
    let country = [a.to_ascii_uppercase(), b.to_ascii_uppercase()];
    let (_, length) = LENGTHS.iter().find(|(known, _)| **known == country)?;
    let (mut characters, mut at) = (Vec::with_capacity(*length), start);
    while characters.len() < *length {
        match bytes.get(at)? {
            byte if byte.is_ascii_alphanumeric() => characters.push(byte.to_ascii_uppercase()),
            b' ' | b'-' if bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) => {}
            _ => return None,
        }
        at += 1;
    }
    let ends = bytes
        .get(at)
        .is_none_or(|byte| !byte.is_ascii_alphanumeric());
    (ends && checks(&characters)).then_some(at)
}

/// ISO 7064, modulo 97.
fn checks(characters: &[u8]) -> bool {
    let (head, rest) = characters.split_at(4);
    rest.iter().chain(head).fold(0_u32, |sum, byte| {
        if byte.is_ascii_digit() {
            (sum * 10 + u32::from(byte - b'0')) % 97
        } else {
            (sum * 100 + u32::from(byte - b'A') + 10) % 97
        }
    }) == 1
}
