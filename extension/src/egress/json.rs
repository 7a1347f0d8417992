//! JSON as bytes to be edited: what is not touched stays as it was written.
//!
//! Bodies were validated at the door. Text inside of strings was not, so nothing here stops at what is no JSON: a string
//! without an end reaches to the end, and a broken object is read as far as it goes.

use std::borrow::Cow;
use std::ops::Range;

use super::edits::Edits;
use super::mask::Traits;
use super::texts::Texts;

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).unwrap_or_else(|_| b"\"\"".to_vec())
}

/// What stands between two places that matter.
enum Token {
    Open {
        object: bool,
    },
    Close,
    Comma,
    Colon,
    /// A string, with its quotes.
    Text(Range<usize>),
    /// A number, `true`, `false`, `null`, or something else.
    Word(Range<usize>),
    End,
}

/// Reads tokens.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn token(&mut self) -> Token {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        while self.bytes.get(self.at).is_some_and(blank) {
            self.at += 1;
        }
        let start = self.at;
        let Some(byte) = self.bytes.get(start) else {
            return Token::End;
        };
        self.at += 1;
        match byte {
            b'{' => Token::Open { object: true },
            b'[' => Token::Open { object: false },
            b'}' | b']' => Token::Close,
            b',' => Token::Comma,
            b':' => Token::Colon,
            b'"' => Token::Text(self.string(start)),
            _ => {
                let ends = |byte: &u8| {
                    matches!(byte, b'{' | b'[' | b'}' | b']' | b',' | b':' | b'"') || blank(byte)
                };
                let length = self.bytes[self.at..].iter().position(ends);
                self.at = length.map_or(self.bytes.len(), |length| self.at + length);
                Token::Word(start..self.at)
            }
        }
    }

    fn string(&mut self, start: usize) -> Range<usize> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else {
                self.at = self.bytes.len();
                return start..self.at;
            };
            self.at += length + 1;
            if rest[length] == b'"' {
                return start..self.at;
            }
            self.at = (self.at + 1).min(self.bytes.len());
        }
    }

    /// Passes over the value that begins here.
    fn skip(&mut self) -> Range<usize> {
        let (mut depth, mut start) = (0_usize, None);
        loop {
            let token = self.token();
            let begins = match &token {
                Token::Text(range) | Token::Word(range) => range.start,
                _ => self.at.saturating_sub(1),
            };
            match token {
                Token::Open { .. } => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                Token::End => return start.unwrap_or(self.at)..self.at,
                _ => {}
            }
            let start = *start.get_or_insert(begins);
            if depth == 0 {
                return start..self.at;
            }
        }
    }
}

/// A member of an object.
pub(super) struct Member<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) key_range: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The members of the object at `range`; `None`: it is none.
pub(super) fn members<'a>(bytes: &'a [u8], range: &Range<usize>) -> Option<Vec<Member<'a>>> {
    let mut scan = scan(bytes, range)?;
    let mut members = Vec::new();
    let Token::Open { object: true } = scan.token() else {
        return None;
    };
    loop {
        match scan.token() {
            Token::Text(key_range) => {
                scan.token();
                members.push(Member {
                    key: decoded(bytes, &key_range),
                    key_range,
                    value: scan.skip(),
                });
            }
            Token::Comma => {}
            _ => return Some(members),
        }
    }
}

/// The elements of the list at `range`; `None`: it is none.
pub(super) fn elements(bytes: &[u8], range: &Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut scan = scan(bytes, range)?;
    let mut elements = Vec::new();
    let Token::Open { object: false } = scan.token() else {
        return None;
    };
    loop {
        let before = scan.at;
        match scan.token() {
            Token::Comma => {}
            Token::Close | Token::Colon | Token::End => return Some(elements),
            _ => {
                scan.at = before;
                elements.push(scan.skip());
            }
        }
    }
}

fn scan<'a>(bytes: &'a [u8], range: &Range<usize>) -> Option<Scan<'a>> {
    Some(Scan {
        bytes: bytes.get(..range.end)?,
        at: range.start,
    })
}

/// Whether a string stands at `range`.
pub(super) fn is_string(bytes: &[u8], range: &Range<usize>) -> bool {
    bytes.get(range.start) == Some(&b'"')
}

/// Whether an id, a time, a number or one of a few words stands at `range`: nothing that a person would say.
pub(super) fn is_plain(bytes: &[u8], range: &Range<usize>) -> bool {
    const LIMIT_BYTES: usize = 64;
    let word = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'"' | b'-' | b'_' | b'+' | b'.' | b':')
    };
    let value = bytes.get(range.clone()).unwrap_or_default();
    value.len() <= LIMIT_BYTES && value.iter().all(word)
}

/// The string at `range`, as `JSON.parse` would see it. What is no Unicode becomes U+FFFD.
pub(super) fn decoded<'a>(bytes: &'a [u8], range: &Range<usize>) -> Cow<'a, str> {
    let quoted = bytes.get(range.clone()).unwrap_or_default();
    let raw = quoted.strip_prefix(b"\"").unwrap_or(quoted);
    let raw = match raw {
        // A string without an end has no quote there, or one that is escaped.
        [inner @ .., b'"'] if !ends_in_escape(inner) => inner,
        _ => raw,
    };
    if raw.contains(&b'\\') {
        Cow::Owned(unescaped(raw))
    } else {
        String::from_utf8_lossy(raw)
    }
}

fn ends_in_escape(inner: &[u8]) -> bool {
    let escapes = inner
        .iter()
        .rev()
        .take_while(|byte| **byte == b'\\')
        .count();
    !escapes.is_multiple_of(2)
}

fn unescaped(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(run) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..run]);
        let escape = &rest[run..];
        let (character, length) = match escape.get(1) {
            Some(b'u') => unicode(escape),
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(byte) if byte.is_ascii() => (char::from(*byte), 2),
            _ => ('\\', 1),
        };
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &escape[length..];
    }
    out.extend_from_slice(rest);
    String::from_utf8_lossy(&out).into_owned()
}

/// The character of `\uXXXX`, or of two of them, and how long the escape is.
fn unicode(escape: &[u8]) -> (char, usize) {
    let unit = |at: usize| -> Option<u32> {
        let digits = escape.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let Some(first) = unit(0) else {
        return ('\u{fffd}', escape.len().min(6));
    };
    if let Some(character) = char::from_u32(first) {
        return (character, 6);
    }
    let pair = unit(6)
        .filter(|second| first < 0xdc00 && (0xdc00..0xe000).contains(second))
        .and_then(|second| char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)));
    pair.map_or(('\u{fffd}', 6), |character| (character, 12))
}

/// How free JSON is to be read.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Strings may hold JSON themselves.
    pub(super) look_into: bool,
    /// Numbers are text that a pattern may match.
    pub(super) numbers: bool,
}

/// An object or list that is being read.
struct Open {
    object: bool,
    /// What the keys around it say of everything in it.
    around: Traits,
    /// What they and its own latest key say of the next value.
    value: Traits,
    /// Whether the next string is a key.
    key_next: bool,
}

/// Masks the values at `range`, of whatever shape they are, and all within them.
pub(super) fn mask_values(
    bytes: &[u8],
    range: &Range<usize>,
    traits: Traits,
    manner: Manner,
    texts: &mut Texts<'_>,
    edits: &mut Edits,
) {
    let Some(mut scan) = scan(bytes, range) else {
        return;
    };
    let mut open: Vec<Open> = Vec::new();
    loop {
        let value = open.last().map_or(traits, |open| open.value);
        let before = scan.at;
        let token = scan.token();
        let is_value = !matches!(
            token,
            Token::Close | Token::Comma | Token::Colon | Token::End
        ) && !open.last().is_some_and(|open| open.key_next);
        if is_value && value.masked {
            scan.at = before;
            let whole = scan.skip();
            edits.replace_string(whole, texts.whole());
            continue;
        }
        match token {
            Token::Open { object } => open.push(Open {
                object,
                around: value,
                value,
                key_next: object,
            }),
            Token::Close => {
                open.pop();
            }
            Token::Comma => {
                if let Some(open) = open.last_mut() {
                    open.key_next = open.object;
                }
            }
            Token::Colon => {
                if let Some(open) = open.last_mut() {
                    open.key_next = false;
                }
            }
            Token::Text(at) => {
                let text = decoded(bytes, &at);
                let edited = match open.last_mut().filter(|open| open.key_next) {
                    Some(open) => {
                        open.value = texts.traits(&text).or(open.around);
                        texts.key(&text)
                    }
                    None => texts.value(value, &text, manner.look_into),
                };
                if let Some(edited) = edited {
                    edits.replace_string(at, &edited);
                }
            }
            Token::Word(at) => {
                if let Some(edited) = word(bytes, &at)
                    .filter(|_| manner.numbers)
                    .and_then(|word| texts.number(value, word))
                {
                    edits.replace_string(at, &edited);
                }
            }
            Token::End => return,
        }
    }
}

/// A word that is none of JSON's own.
fn word<'a>(bytes: &'a [u8], at: &Range<usize>) -> Option<&'a str> {
    let word = std::str::from_utf8(bytes.get(at.clone())?).ok()?;
    (!matches!(word, "true" | "false" | "null")).then_some(word)
}
