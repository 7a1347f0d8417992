//! Escapes in JSON text that name half a character, such as `"\ud83d"` alone.
//!
//! JavaScript's `JSON.parse` takes them, so Langfuse's web process answers 200; the text they end up in is no Unicode, and
//! fails later, where it is inserted.

use std::borrow::Cow;
use std::ops::Range;

/// The escape of U+FFFD, as long as those that it takes the place of.
const REPLACEMENT: &[u8] = br"\ufffd";

/// Whether there is half a character in this JSON text.
pub(super) fn is_in(text: &[u8]) -> bool {
    !lone(text).is_empty()
}

/// The same text without half characters, so that a parser that knows Unicode reads it.
pub(super) fn mended(text: &[u8]) -> Cow<'_, [u8]> {
    let places = lone(text);
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut mended = text.to_vec();
    for place in places {
        mended[place].copy_from_slice(REPLACEMENT);
    }
    Cow::Owned(mended)
}

/// Where the escapes are that no other one completes.
fn lone(text: &[u8]) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        match unit(&text[at..]) {
            None => at += 2,
            Some(0xd800..=0xdbff) if matches!(unit(&text[at + 6..]), Some(0xdc00..=0xdfff)) => {
                at += 12;
            }
            Some(code) => {
                if matches!(code, 0xd800..=0xdfff) {
                    places.push(at..at + 6);
                }
                at += 6;
            }
        }
        if at >= text.len() {
            break;
        }
    }
    places
}

/// The code unit of the escape that this begins with.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_halves_without_their_other_half_are_found() {
        for (text, mended_text) in [
            (r#""plain""#, r#""plain""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\\\ud83d""#, r#""\\\ufffd""#),
            (r#""\uD83D""#, r#""\ufffd""#),
            (r"\", r"\"),
        ] {
            assert_eq!(mended(text.as_bytes()), mended_text.as_bytes(), "{text}");
            assert_eq!(is_in(text.as_bytes()), text != mended_text, "{text}");
        }
    }
}
