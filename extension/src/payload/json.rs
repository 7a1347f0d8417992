//! A JSON reader that walks a body in place and builds nothing.
//!
//! It accepts what `JSON.parse` of Langfuse's Node accepts and nothing else. `serde_json` cannot stand in: it refuses
//! lone surrogates and bytes that are not UTF-8, which Node replaces.

use std::borrow::Cow;
use std::ops::Range;

use super::poison::{Escaped, escaped};
use super::{DEPTH_LIMIT, Refusal};

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Object,
    Array,
    Text,
    Number,
    True,
    False,
    Null,
}

/// A string as it stands in the body, without its quotes.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) range: Range<usize>,
    escaped: bool,
}

/// The reader and its position.
pub(super) struct Json<'a> {
    bytes: &'a [u8],
    at: usize,
    lone_surrogates: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            lone_surrogates: false,
        }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether some text that was read holds half of a surrogate pair.
    pub(super) fn has_lone_surrogates(&self) -> bool {
        self.lone_surrogates
    }

    /// The text as `JSON.parse` would see it; `None` for one that is not UTF-8 or holds lone surrogates.
    pub(super) fn text(&self, text: &Text) -> Option<Cow<'a, str>> {
        let raw = self.bytes.get(text.range.clone())?;
        if !text.escaped {
            return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
        }
        let quoted = self.bytes.get(text.range.start - 1..=text.range.end)?;
        serde_json::from_slice(quoted).ok().map(Cow::Owned)
    }

    pub(super) fn raw(&self, range: Range<usize>) -> &'a [u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Moves to the next value and says what it is.
    pub(super) fn shape(&mut self) -> Result<Shape, Refusal> {
        Ok(match self.next_byte()? {
            b'{' => Shape::Object,
            b'[' => Shape::Array,
            b'"' => Shape::Text,
            b'-' | b'0'..=b'9' => Shape::Number,
            b't' => Shape::True,
            b'f' => Shape::False,
            b'n' => Shape::Null,
            _ => return Err(self.malformed("a value was expected")),
        })
    }

    /// Moves to the next key of the object whose `{` (`first`) or last value was read. `None` is its end.
    pub(super) fn next_key(&mut self, first: &mut bool) -> Result<Option<Text>, Refusal> {
        if !self.next_item(first, b'{', b'}')? {
            return Ok(None);
        }
        self.key().map(Some)
    }

    /// Moves to the next element of the array whose `[` (`first`) or last element was read. `false` is its end.
    pub(super) fn next_element(&mut self, first: &mut bool) -> Result<bool, Refusal> {
        self.next_item(first, b'[', b']')
    }

    /// Reads a string whose opening quote is the current byte.
    pub(super) fn string(&mut self) -> Result<Text, Refusal> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = self.raw(self.at..self.bytes.len());
            let Some(run) = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
            else {
                return Err(self.malformed("a string does not end"));
            };
            self.at += run;
            match rest[run] {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.malformed("a control character in a string")),
            }
        }
        self.at += 1;
        Ok(Text {
            range: start..self.at - 1,
            escaped,
        })
    }

    /// Passes over the next value, whatever it is, and says where it lies.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, Refusal> {
        let mut open: Vec<u8> = Vec::new();
        self.next_byte()?;
        let start = self.at;
        loop {
            let mut first = match self.shape()? {
                Shape::Object => self.nest(&mut open, b'{')?,
                Shape::Array => self.nest(&mut open, b'[')?,
                Shape::Text => self.string().map(|_| false)?,
                Shape::Number => self.number().map(|()| false)?,
                Shape::True => self.literal(b"true").map(|()| false)?,
                Shape::False => self.literal(b"false").map(|()| false)?,
                Shape::Null => self.literal(b"null").map(|()| false)?,
            };
            loop {
                let more = match open.last() {
                    None => return Ok(start..self.at),
                    Some(b'{') => self.next_key(&mut first)?.is_some(),
                    Some(_) => self.next_element(&mut first)?,
                };
                if more {
                    break;
                }
                open.pop();
            }
        }
    }

    /// Makes sure that nothing follows the value that was read.
    pub(super) fn end(&mut self) -> Result<(), Refusal> {
        self.whitespace();
        if self.at < self.bytes.len() {
            Err(self.malformed("something follows the value"))
        } else {
            Ok(())
        }
    }

    pub(super) fn malformed(&self, reason: &'static str) -> Refusal {
        Refusal::Malformed {
            what: "JSON",
            at: self.at,
            reason,
        }
    }

    fn nest(&self, open: &mut Vec<u8>, bracket: u8) -> Result<bool, Refusal> {
        if open.len() >= DEPTH_LIMIT {
            return Err(self.malformed("values are nested too deeply"));
        }
        open.push(bracket);
        Ok(true)
    }

    fn next_item(&mut self, first: &mut bool, open: u8, close: u8) -> Result<bool, Refusal> {
        let byte = self.next_byte()?;
        if *first {
            *first = false;
            debug_assert_eq!(byte, open, "the caller has seen the opening bracket");
            self.at += 1;
            if self.next_byte()? == close {
                self.at += 1;
                return Ok(false);
            }
            return Ok(true);
        }
        self.at += 1;
        match byte {
            b',' => self.next_byte().map(|_| true),
            byte if byte == close => Ok(false),
            _ => Err(self.malformed("a comma or a closing bracket was expected")),
        }
    }

    fn key(&mut self) -> Result<Text, Refusal> {
        if self.next_byte()? != b'"' {
            return Err(self.malformed("a key was expected"));
        }
        let key = self.string()?;
        if self.next_byte()? != b':' {
            return Err(self.malformed("a colon was expected"));
        }
        self.at += 1;
        Ok(key)
    }

    fn escape(&mut self) -> Result<(), Refusal> {
        let length = match (escaped(self.bytes, self.at), self.bytes.get(self.at + 1)) {
            (Escaped::Pair, _) => Some(12),
            (Escaped::Half, _) => {
                self.lone_surrogates = true;
                Some(6)
            }
            (Escaped::Unit, _) => Some(6),
            (_, Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => Some(2),
            _ => None,
        };
        self.at += length.ok_or_else(|| self.malformed("an unknown escape in a string"))?;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Refusal> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits()?;
        if leading_zero && digits > 1 {
            return Err(self.malformed("a number begins with 0"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, Refusal> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            Err(self.malformed("a digit was expected"))
        } else {
            Ok(self.at - start)
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Refusal> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.malformed("a value was expected"));
        }
        self.at += word.len();
        Ok(())
    }

    fn next_byte(&mut self) -> Result<u8, Refusal> {
        self.whitespace();
        self.peek()
            .ok_or_else(|| self.malformed("the text is cut short"))
    }

    fn whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}
