//! Keys of services, and tokens.

use super::Found;

/// Beginnings of keys, and how many characters follow at least.
const PREFIXES: [(&str, usize); 27] = [
    ("sk-", 20),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("rk_live_", 16),
    ("whsec_", 16),
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("ghr_", 30),
    ("github_pat_", 30),
    ("glpat-", 16),
    ("xoxb-", 16),
    ("xoxp-", 16),
    ("xoxa-", 16),
    ("xoxr-", 16),
    ("xoxs-", 16),
    ("AIza", 35),
    ("ya29.", 20),
    ("hf_", 30),
    ("gsk_", 30),
    ("pplx-", 30),
    ("npm_", 30),
    ("SG.", 30),
    ("r8_", 30),
];
/// Words of an `Authorization` header, in any case, and how long the secret behind them is at least.
const SCHEMES: [(&str, usize); 2] = [("bearer ", 16), ("basic ", 16)];
const LANGFUSE: &str = "sk-lf-";
const LANGFUSE_CHARACTERS: usize = 8;

/// Finds Langfuse's secret keys. They stand at no boundary of a word: nothing is a key of Langfuse by accident.
pub(super) fn find_langfuse(text: &str, found: &mut Vec<Found<'_>>) {
    let mut from = 0;
    while let Some(start) = text[from..].find(LANGFUSE).map(|start| start + from) {
        let end = end_of(text, start + LANGFUSE.len(), is_key);
        if end - start >= LANGFUSE.len() + LANGFUSE_CHARACTERS {
            found.push(Found {
                range: start..end,
                what: "api-key",
            });
        }
        from = end;
    }
}

/// Finds keys by how services begin them, and what follows `Bearer` and `Basic`.
pub(super) fn find_keys(text: &str, found: &mut Vec<Found<'_>>) {
    let bytes = text.as_bytes();
    let mut boundary = true;
    let mut at = 0;
    while at < bytes.len() {
        let end = boundary.then(|| key_at(text, at)).flatten();
        if let Some(end) = end {
            found.push(Found {
                range: at..end,
                what: "api-key",
            });
            at = end;
            boundary = true;
        } else {
            boundary = !bytes[at].is_ascii_alphanumeric();
            at += 1;
        }
    }
}

fn key_at(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if !matches!(
        bytes[start],
        b's' | b'r' | b'w' | b'A' | b'g' | b'x' | b'y' | b'h' | b'p' | b'n' | b'S' | b'b' | b'B'
    ) {
        return None;
    }
    let rest = &bytes[start..];
    let known = PREFIXES
        .iter()
        .filter(|(prefix, _)| rest.starts_with(prefix.as_bytes()))
        .find_map(|(prefix, least)| tail(text, start + prefix.len(), *least, is_key));
    known.or_else(|| {
        let (scheme, least) = SCHEMES.iter().find(|(scheme, _)| {
            rest.get(..scheme.len())
                .is_some_and(|word| word.eq_ignore_ascii_case(scheme.as_bytes()))
        })?;
        tail(text, start + scheme.len(), *least, is_token)
    })
}

fn tail(text: &str, from: usize, least: usize, belongs: fn(u8) -> bool) -> Option<usize> {
    let end = end_of(text, from, belongs);
    (end - from >= least).then_some(end)
}

/// Finds JSON web tokens (RFC 7519): a header and claims, each an object in base64url, and a signature.
pub(super) fn find_tokens(text: &str, found: &mut Vec<Found<'_>>) {
    const OBJECT: &str = "eyJ";
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(start) = text[from..].find(OBJECT).map(|start| start + from) {
        let header = end_of(text, start, is_base64url);
        from = header.max(start + OBJECT.len());
        if bytes.get(header) != Some(&b'.') {
            continue;
        }
        let claims = end_of(text, header + 1, is_base64url);
        if claims < header + 8 {
            continue;
        }
        let signed = bytes.get(claims) == Some(&b'.');
        let end = if signed {
            end_of(text, claims + 1, is_base64url)
        } else {
            claims
        };
        found.push(Found {
            range: start..end,
            what: "jwt",
        });
        from = end;
    }
}

fn end_of(text: &str, from: usize, belongs: fn(u8) -> bool) -> usize {
    let length = text.as_bytes()[from..]
        .iter()
        .position(|byte| !belongs(*byte));
    length.map_or(text.len(), |length| from + length)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_token(byte: u8) -> bool {
    is_key(byte) || matches!(byte, b'+' | b'/' | b'=' | b'~')
}
