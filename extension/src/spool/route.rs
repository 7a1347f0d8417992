//! A route as bytes: `door u8  credential u8 [text]  count u16  (name, value)*`, every text with its length as u32 before
//! it. Codes are part of the file format and never change their meaning.

use langfuse_extension_core::route::{Credential, Door, Route};

const DOORS: [(u8, Door); 4] = [
    (1, Door::TracesProtobuf),
    (2, Door::TracesJson),
    (3, Door::Ingestion),
    (4, Door::Scores),
];
const CONFIGURED: u8 = 0;
const CLIENT: u8 = 1;

/// Appends the route. `None`: it has more headers, or longer ones, than can be counted.
pub(super) fn encode(route: &Route, to: &mut Vec<u8>) -> Option<()> {
    let (code, _) = DOORS.iter().find(|(_, door)| *door == route.door)?;
    to.push(*code);
    match &route.credential {
        Credential::Configured => to.push(CONFIGURED),
        Credential::Client(authorization) => {
            to.push(CLIENT);
            put(authorization.as_bytes(), to)?;
        }
    }
    to.extend(u16::try_from(route.headers.len()).ok()?.to_le_bytes());
    for (name, value) in &route.headers {
        put(name.as_bytes(), to)?;
        put(value, to)?;
    }
    Some(())
}

/// `None`: these bytes are no route.
pub(super) fn decode(bytes: &[u8]) -> Option<Route> {
    let mut rest = bytes;
    let [door, credential] = *take_array(&mut rest)?;
    let (_, door) = *DOORS.iter().find(|(code, _)| *code == door)?;
    let credential = match credential {
        CONFIGURED => Credential::Configured,
        CLIENT => Credential::Client(take_text(&mut rest)?),
        _ => return None,
    };
    let count = u16::from_le_bytes(*take_array(&mut rest)?);
    let headers = (0..count)
        .map(|_| Some((take_text(&mut rest)?, take(&mut rest)?.to_vec())))
        .collect::<Option<_>>()?;
    rest.is_empty().then_some(Route {
        door,
        credential,
        headers,
    })
}

fn put(text: &[u8], to: &mut Vec<u8>) -> Option<()> {
    to.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
    to.extend(text);
    Some(())
}

fn take_text(from: &mut &[u8]) -> Option<String> {
    String::from_utf8(take(from)?.to_vec()).ok()
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = u32::from_le_bytes(*take_array(from)?);
    let (taken, rest) = from.split_at_checked(usize::try_from(bytes).ok()?)?;
    *from = rest;
    Some(taken)
}

fn take_array<'a, const N: usize>(from: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Vec<Route> {
        DOORS
            .iter()
            .flat_map(|(_, door)| {
                [
                    Credential::Configured,
                    Credential::Client("Basic a=".to_owned()),
                ]
                .map(|credential| Route {
                    door: *door,
                    credential,
                    headers: vec![
                        ("x-langfuse-ingestion-version".to_owned(), b"4".to_vec()),
                        ("x-empty".to_owned(), Vec::new()),
                        ("x-latin-1".to_owned(), vec![0xe9]),
                    ],
                })
            })
            .collect()
    }

    #[test]
    fn every_route_comes_back_as_it_was() {
        for route in routes() {
            let mut bytes = Vec::new();
            encode(&route, &mut bytes).unwrap();
            assert_eq!(decode(&bytes), Some(route));
        }
    }

    #[test]
    fn a_route_that_is_cut_or_has_something_behind_it_is_none() {
        for route in routes() {
            let mut bytes = Vec::new();
            encode(&route, &mut bytes).unwrap();
            for length in 0..bytes.len() {
                assert_eq!(decode(&bytes[..length]), None, "cut at {length}");
            }
            bytes.push(0);
            assert_eq!(decode(&bytes), None);
        }
    }

    #[test]
    fn more_headers_than_can_be_counted_are_not_encoded() {
        let route = Route {
            door: Door::Scores,
            credential: Credential::Configured,
            headers: vec![(String::new(), Vec::new()); usize::from(u16::MAX) + 1],
        };
        assert_eq!(encode(&route, &mut Vec::new()), None);
    }
}
