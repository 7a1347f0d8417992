//! Values that are too long.

use std::fmt::Write;

/// The least that the setting may ask for: a mark has to find room, and a value be recognised.
pub const MAX_ATTRIBUTE_LEAST_BYTES: usize = 128;

/// `text` in at most `limit_bytes`, with a mark that says that it was `original_bytes` long. Media in data URIs go first, because half of
/// an image is none. `None`: it is short enough.
pub(super) fn shortened(text: &str, limit_bytes: usize, original_bytes: usize) -> Option<String> {
    if text.len() <= limit_bytes {
        return None;
    }
    let short = without_media(text);
    if short.len() <= limit_bytes {
        return Some(short);
    }
    let mark = format!("…[cut, {original_bytes} bytes]");
    let room = limit_bytes.saturating_sub(mark.len());
    let end = short.floor_char_boundary(room);
    Some([&short[..end], &mark].concat())
}

/// Puts a mark with type and size where base64 stands in a data URI (RFC 2397).
fn without_media(text: &str) -> String {
    const ENCODED: &str = ";base64,";
    const MEDIA_TYPE_LIMIT_BYTES: usize = 100;
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("data:") {
        let after = &rest[start + "data:".len()..];
        let head = &after[..after.floor_char_boundary(MEDIA_TYPE_LIMIT_BYTES)];
        let Some(media_type) = head
            .find(ENCODED)
            .map(|end| &head[..end])
            .filter(|it| is_media_type(it))
        else {
            let (passed, left) = rest.split_at(start + "data:".len());
            out.push_str(passed);
            rest = left;
            continue;
        };
        let encoded = &after[media_type.len() + ENCODED.len()..];
        let length = encoded
            .find(|c: char| {
                !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '='))
            })
            .unwrap_or(encoded.len());
        let characters = encoded[..length].trim_end_matches('=').len();
        out.push_str(&rest[..start]);
        let _ = write!(out, "[{media_type}, {} bytes]", characters * 3 / 4);
        rest = &encoded[length..];
    }
    out.push_str(rest);
    out
}

fn is_media_type(text: &str) -> bool {
    text.bytes().all(|byte| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'/' | b'-' | b'+' | b'.' | b';' | b'=' | b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_at_a_character_and_says_how_long_it_was() {
        let text = "ä".repeat(500);
        for limit in MAX_ATTRIBUTE_LEAST_BYTES..MAX_ATTRIBUTE_LEAST_BYTES + 4 {
            let short = shortened(&text, limit, 1000).unwrap();
            assert!(
                short.len() <= limit && short.len() + 2 > limit,
                "{}",
                short.len()
            );
            assert!(short.ends_with("ä…[cut, 1000 bytes]"));
        }
        assert_eq!(shortened(&text, 1000, 1000), None);
    }

    #[test]
    fn media_become_their_type_and_size() {
        let image = "A".repeat(4000);
        let text =
            format!(r#"{{"a":"data:image/png;base64,{image}==","b":"data: not one","c":1}}"#);
        assert_eq!(
            shortened(&text, 200, 1).unwrap(),
            r#"{"a":"[image/png, 3000 bytes]","b":"data: not one","c":1}"#
        );
    }
}
