//! Cutting a JSON body whose units stand in a list, or in lists within lists.

use crate::payload::Refusal;
use crate::payload::json::{Json, Shape};

/// Cuts `body`; `keys` name the lists from the outside in. Without any, the body itself is the list.
pub(super) fn split(body: &[u8], keys: &[&str]) -> Option<(Vec<u8>, Vec<u8>)> {
    let lists = keys.len().max(1);
    let mut cutter = Cutter {
        json: Json::new(body),
        keys,
        lists,
        goal: body.len() / 2,
        open: Vec::new(),
        cut: None,
        units: 0,
        twice: false,
    };
    let walked = if keys.is_empty() {
        cutter.list(0)
    } else {
        cutter.value(0)
    };
    walked.ok()?;
    // A list given twice counts only once, but which one is not worth finding out here.
    if cutter.twice {
        return None;
    }
    let mut cut = cutter.cut?.places;
    // Where the cut falls on the first element of a list, it lies between the elements of an outer one.
    while cut.last()?.previous_end.is_none() {
        cut.pop();
    }
    Some((left(body, &cut)?, right(body, &cut)?))
}

/// Everything up to the cut, and what closes the lists around it.
fn left(body: &[u8], cut: &[Place]) -> Option<Vec<u8>> {
    let mut out = body.get(..cut.last()?.previous_end?)?.to_vec();
    for level in (0..cut.len()).rev() {
        let outer_end = match level.checked_sub(1) {
            Some(outer) => cut[outer].element_end,
            None => body.len(),
        };
        out.extend_from_slice(body.get(cut[level].list_end..outer_end)?);
    }
    Some(out)
}

/// What opens the lists around the cut, and everything after it.
fn right(body: &[u8], cut: &[Place]) -> Option<Vec<u8>> {
    let mut out = body.get(..cut.first()?.list_start)?.to_vec();
    for (outer, inner) in cut.iter().zip(&cut[1..]) {
        out.extend_from_slice(body.get(outer.element_start..inner.list_start)?);
    }
    out.extend_from_slice(body.get(cut.last()?.element_start..)?);
    Some(out)
}

/// An element of a list, and the list. The ends are known once the walk has passed them.
#[derive(Clone)]
struct Place {
    list_start: usize,
    previous_end: Option<usize>,
    element_start: usize,
    element_end: usize,
    list_end: usize,
}

struct Cut {
    places: Vec<Place>,
    /// Whether it lies in the second half, so that no later one is better.
    final_one: bool,
}

struct Cutter<'a> {
    json: Json<'a>,
    keys: &'a [&'a str],
    lists: usize,
    goal: usize,
    open: Vec<Place>,
    cut: Option<Cut>,
    units: usize,
    twice: bool,
}

impl Cutter<'_> {
    /// Walks an element of list `level - 1`, which either holds list `level` or is a unit.
    fn value(&mut self, level: usize) -> Result<(), Refusal> {
        let shape = self.json.shape()?;
        if level == self.lists {
            self.unit();
        }
        if level == self.lists || shape != Shape::Object {
            return self.json.skip().map(|_| ());
        }
        let (mut first, mut seen) = (true, false);
        while let Some(key) = self.json.next_key(&mut first)? {
            let is_list = self.json.text(&key).as_deref() == self.keys.get(level).copied();
            if !is_list {
                self.json.skip()?;
                continue;
            }
            self.twice |= seen;
            seen = true;
            if self.json.shape()? == Shape::Array {
                self.list(level)?;
            } else {
                self.json.skip()?;
            }
        }
        Ok(())
    }

    fn list(&mut self, level: usize) -> Result<(), Refusal> {
        self.json.shape()?;
        let list_start = self.json.at() + 1;
        self.open.push(Place {
            list_start,
            previous_end: None,
            element_start: 0,
            element_end: 0,
            list_end: 0,
        });
        let mut first = true;
        while self.json.next_element(&mut first)? {
            let element_start = self.json.at();
            self.open[level].element_start = element_start;
            self.value(level + 1)?;
            let end = self.json.at();
            self.open[level].previous_end = Some(end);
            self.note(level, |place| {
                if place.element_start == element_start {
                    place.element_end = end;
                }
            });
        }
        let end = self.json.at() - 1;
        self.note(level, |place| {
            if place.list_start == list_start {
                place.list_end = end;
            }
        });
        self.open.pop();
        Ok(())
    }

    fn unit(&mut self) {
        let decided = self.cut.as_ref().is_some_and(|cut| cut.final_one);
        if self.units > 0 && !decided {
            self.cut = Some(Cut {
                places: self.open.clone(),
                final_one: self.json.at() >= self.goal,
            });
        }
        self.units += 1;
    }

    fn note(&mut self, level: usize, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.cut.as_mut().and_then(|cut| cut.places.get_mut(level)) {
            change(place);
        }
    }
}
