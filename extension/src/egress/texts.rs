//! What becomes of one text, wherever it stands and however it was written.

use super::counts::Counts;
use super::edits::Edits;
use super::json::{Manner, mask_values};
use super::mask::{MASKED, Mask, STRIPPED, Traits};
use super::truncate::shortened;

/// The rules for texts, and what they did.
pub(super) struct Texts<'a> {
    mask: &'a Mask,
    limit_bytes: Option<usize>,
    pub(super) counts: Counts,
}

impl<'a> Texts<'a> {
    pub(super) fn new(mask: &'a Mask, limit_bytes: Option<usize>) -> Self {
        Self {
            mask,
            limit_bytes,
            counts: Counts::default(),
        }
    }

    /// What the key of a value says about it.
    pub(super) fn traits(&self, key: &str) -> Traits {
        self.mask.traits(key)
    }

    /// Whether keys are worth reading.
    pub(super) fn reads_keys(&self) -> bool {
        self.mask.reads_keys()
    }

    /// The longest a value may be.
    pub(super) fn limit_bytes(&self) -> Option<usize> {
        self.limit_bytes
    }

    /// What stands for a value of any kind that must not leave.
    pub(super) fn whole(&mut self) -> &'static str {
        self.counts.masked += 1;
        MASKED
    }

    /// What stands for a value that nobody can read to the end.
    pub(super) fn stripped(&mut self) -> Option<&'static str> {
        if !self.mask.is_configured() {
            return None;
        }
        self.counts.stripped += 1;
        Some(STRIPPED)
    }

    /// A value. `None`: it may leave as it is.
    pub(super) fn value(&mut self, traits: Traits, text: &str, look_into: bool) -> Option<String> {
        let masked = self.masked(traits, text, look_into);
        let now = masked.as_deref().unwrap_or(text);
        match self
            .limit_bytes
            .and_then(|limit| shortened(now, limit, text.len()))
        {
            Some(short) => {
                self.counts.shortened += 1;
                // What was cut off may have been what a pattern did not want.
                let again = self.mask.text(traits, &short);
                Some(again.unwrap_or(short))
            }
            None => masked,
        }
    }

    /// The text of a key.
    pub(super) fn key(&mut self, text: &str) -> Option<String> {
        if self.mask.strips() {
            return None;
        }
        self.count(self.mask.text(Traits::default(), text))
    }

    /// A number, as it is written in decimal.
    pub(super) fn number(&mut self, traits: Traits, text: &str) -> Option<String> {
        self.count(self.mask.text(traits, text))
    }

    /// Bytes, which are searched as the text that they may be.
    pub(super) fn bytes(&mut self, traits: Traits, bytes: &[u8]) -> Option<Vec<u8>> {
        let text = String::from_utf8_lossy(bytes);
        self.masked(traits, &text, false).map(String::into_bytes)
    }

    fn masked(&mut self, traits: Traits, text: &str, look_into: bool) -> Option<String> {
        let looked_into = (look_into && !self.mask.strips() && !traits.masked && may_be_json(text))
            .then(|| self.looked_into(traits, text))
            .flatten();
        let now = looked_into.as_deref().unwrap_or(text);
        let masked = self.mask.text(traits, now);
        self.count(masked).or(looked_into)
    }

    /// JSON in a string, edited within.
    fn looked_into(&mut self, traits: Traits, text: &str) -> Option<String> {
        const WITHIN: Manner = Manner {
            look_into: false,
            numbers: true,
        };
        let mut edits = Edits::default();
        // A string is short enough or not as a whole.
        let limit = self.limit_bytes.take();
        mask_values(
            text.as_bytes(),
            &(0..text.len()),
            traits,
            WITHIN,
            self,
            &mut edits,
        );
        self.limit_bytes = limit;
        if edits.is_empty() {
            return None;
        }
        let edited = edits.apply(text.as_bytes(), 0..text.len());
        Some(String::from_utf8_lossy(&edited).into_owned())
    }

    fn count(&mut self, masked: Option<String>) -> Option<String> {
        match masked.as_deref() {
            Some(STRIPPED) => self.counts.stripped += 1,
            Some(_) => self.counts.masked += 1,
            None => {}
        }
        masked
    }
}

fn may_be_json(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    matches!(text.as_bytes().first(), Some(b'{' | b'[' | b'"'))
}
