//! Fields of a serialized message, in their order.

use std::ops::Range;

use crate::payload::proto::{Wire, put_varint, read_varint};

/// One field: the whole of it, and its value.
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) wire: Wire,
    pub(super) whole: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The fields of a message; it was validated, so that nothing is left over at the end.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Field> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let field = field_at(message, at)?;
        at = field.whole.end;
        Some(field)
    })
}

fn field_at(message: &[u8], start: usize) -> Option<Field> {
    let (tag, after_tag) = read_varint(message, start)?;
    let wire = Wire::of(tag)?;
    let value = match wire {
        Wire::Varint => after_tag..read_varint(message, after_tag)?.1,
        Wire::Fixed64 => after_tag..after_tag.checked_add(8)?,
        Wire::Fixed32 => after_tag..after_tag.checked_add(4)?,
        Wire::StartGroup | Wire::EndGroup => after_tag..after_tag,
        Wire::Delimited => {
            let (length, from) = read_varint(message, after_tag)?;
            from..from.checked_add(usize::try_from(length).ok()?)?
        }
    };
    (value.end <= message.len()).then_some(Field {
        number: tag >> 3,
        wire,
        whole: start..value.end,
        value,
    })
}

/// The values of the delimited fields `number`.
pub(super) fn delimited(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(message)
        .filter(move |field| field.number == number && field.wire == Wire::Delimited)
        .map(|field| &message[field.value])
}

/// Appends a delimited field.
pub(super) fn put(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    const DELIMITED: u64 = 2;
    put_varint(out, number << 3 | DELIMITED);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// A delimited field alone.
pub(super) fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 8);
    put(&mut out, number, content);
    out
}
