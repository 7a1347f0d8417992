//! Mail addresses.

use super::Found;

/// Finds addresses with a domain that has a dot and ends in letters. `%40` is `@` in the query of a URL.
pub(super) fn find(text: &str, found: &mut Vec<Found<'_>>) {
    let mut from = 0;
    while let Some((at, after)) = next_at(text, from) {
        let start = local_start(&text[from..at]) + from;
        let end = domain_end(&text[after..]).map(|end| end + after);
        from = after;
        if let Some(end) = end
            && start < at
        {
            found.push(Found {
                range: start..end,
                what: "email",
            });
            from = end;
        }
    }
}

fn next_at(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        at += bytes
            .get(at..)?
            .iter()
            .position(|b| matches!(b, b'@' | b'%'))?;
        if bytes[at] == b'@' {
            return Some((at, at + 1));
        }
        if bytes[at..].starts_with(b"%40") {
            return Some((at, at + 3));
        }
        at += 1;
    }
}

/// Where the local part begins that ends with `before`.
fn local_start(before: &str) -> usize {
    let mut start = before.len();
    for (at, c) in before.char_indices().rev() {
        if !(c.is_alphanumeric()
            || matches!(c, '.' | '_' | '%' | '+' | '-' | '\'' | '&' | '#' | '~'))
        {
            break;
        }
        start = at;
    }
    start
}

/// Where the domain ends that `after` begins with.
fn domain_end(after: &str) -> Option<usize> {
    let length = after
        .find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '-')))
        .unwrap_or(after.len());
    let mut domain = &after[..length];
    // What was written behind it, such as `-1`, is no part of it.
    while !is_domain(domain) {
        domain = &domain[..domain.rfind(['.', '-'])?];
    }
    Some(domain.len())
}

fn is_domain(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(host, top)| {
        let letters = top.chars().count() >= 2 && top.chars().all(char::is_alphabetic);
        let encoded = top.starts_with("xn--") && !top.ends_with('-');
        !host.is_empty() && !host.ends_with(['.', '-']) && (letters || encoded)
    })
}
