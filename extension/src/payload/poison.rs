//! Forms that Langfuse takes with a 200 and loses later, in its worker, together with what else is in the same request. Their
//! client hears nothing of it, and neither do we; so they are recognised on the way.
//!
//! | Form | Where | What it does there (Langfuse 4.16) | What is done with it |
//! |---|---|---|---|
//! | an attribute without a `value`: in protobuf one without the field, in JSON one without the key, with `null`, or that is no object | span, resource, scope | `undefined` is asked for its `stringValue`, and the request is lost | it travels as it is, [alone](super::Payload::travels_alone) |
//! | half of a surrogate pair, escaped: `"\ud800"` | any JSON text | its row and those inserted with it are lost, sent apart or not | it becomes U+FFFD, as it does wherever text is made of it |

use bytes::Bytes;

use super::{Limits, Refusal};
use crate::memory::Growing;

/// A JSON body as it can be stored. `lone_surrogates`: it holds halves of surrogate pairs.
pub(super) fn storable(
    body: Bytes,
    lone_surrogates: bool,
    limits: &Limits<'_>,
) -> Result<Bytes, Refusal> {
    if lone_surrogates {
        without_lone_surrogates(&body, limits)
    } else {
        Ok(body)
    }
}

/// Replaces every escaped half of a surrogate pair by U+FFFD, which is written in as many bytes. `json` is valid.
fn without_lone_surrogates(json: &Bytes, limits: &Limits<'_>) -> Result<Bytes, Refusal> {
    limits.charge(json.len())?;
    let mut whole = Growing::new(json.len(), json.len());
    let (mut kept, mut at) = (0, 0);
    while let Some(found) = next_escape(json, at) {
        let length = match escaped(json, found) {
            Escaped::Pair => 12,
            Escaped::Half => {
                whole.append(&json[kept..found]);
                whole.append(br"\ufffd");
                kept = found + 6;
                6
            }
            Escaped::Unit => 6,
            Escaped::Other => 2,
        };
        at = found + length;
    }
    whole.append(&json[kept..]);
    Ok(whole.finish())
}

fn next_escape(json: &[u8], from: usize) -> Option<usize> {
    let rest = json.get(from..)?;
    Some(from + rest.iter().position(|byte| *byte == b'\\')?)
}

/// What an escape stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escaped {
    /// Two `\u` that make one character.
    Pair,
    /// A `\u` that is half of one, without the other.
    Half,
    /// A `\u` that is a character.
    Unit,
    /// Something else, or nothing valid.
    Other,
}

/// What the escape at `at`, where a backslash stands, stands for.
pub(super) fn escaped(json: &[u8], at: usize) -> Escaped {
    match unit(json, at) {
        None => Escaped::Other,
        Some(0xd800..=0xdbff) => match unit(json, at + 6) {
            Some(0xdc00..=0xdfff) => Escaped::Pair,
            _ => Escaped::Half,
        },
        Some(0xdc00..=0xdfff) => Escaped::Half,
        Some(_) => Escaped::Unit,
    }
}

/// The UTF-16 unit that is escaped as `\u` and four digits.
fn unit(json: &[u8], at: usize) -> Option<u32> {
    let digits = json.get(at..at + 6)?.strip_prefix(br"\u")?;
    digits.iter().try_fold(0, |unit, digit| {
        Some(unit << 4 | char::from(*digit).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_replaced_where_they_are_alone_and_nothing_else_is() {
        for (text, expected) in [
            (r"\ud800", r"\ufffd"),
            (r"\uDFFF\ud83d", r"\ufffd\ufffd"),
            (r"a\ud83d\ude00b", r"a\ud83d\ude00b"),
            (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
            (r"\ude00\ud83d", r"\ufffd\ufffd"),
            (r"\\ud800", r"\\ud800"),
            (r"\\\ud800", r"\\\ufffd"),
            (r"\n\u0041\ud800\n", r"\n\u0041\ufffd\n"),
            ("é\u{1f600}", "é\u{1f600}"),
        ] {
            let json = Bytes::from(format!("\"{text}\""));
            let repaired = without_lone_surrogates(&json, &Limits::default()).unwrap();
            assert_eq!(repaired, format!("\"{expected}\""), "{text}");
        }
    }
}
