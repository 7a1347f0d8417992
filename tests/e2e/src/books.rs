//! What an invocation tells, and what the extension says of itself, as values to compare.

use std::collections::BTreeMap;
use std::ops::Deref;

use lambda_emulator::Invocation;
use serde::Deserialize;

/// One request that the function made.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answer {
    /// Where to.
    pub path: String,
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// How long the answer took.
    pub ms: f64,
    /// Its body, or what went wrong.
    pub answer: String,
}

/// An invocation of `tests/apps/raw/app.py` that is over.
#[derive(Debug)]
pub struct Ran {
    invocation: Invocation,
    /// The requests that it made before it answered.
    pub requests: Vec<Answer>,
    got: Option<Answer>,
}

impl Ran {
    pub(crate) fn new(invocation: Invocation) -> Self {
        #[derive(Default, Deserialize)]
        struct Result {
            requests: Vec<Answer>,
            got: Option<Answer>,
        }
        let result: Result = serde_json::from_str(&invocation.text()).unwrap_or_default();
        Self {
            invocation,
            requests: result.requests,
            got: result.got,
        }
    }

    /// What was asked for by `get`.
    pub fn got(&self) -> &Answer {
        self.got
            .as_ref()
            .unwrap_or_else(|| panic!("nothing was got: {:?}", self.invocation))
    }

    /// Every request was answered 200 (spans) or 207 (scores), and the invocation succeeded.
    pub fn assert_acknowledged(&self) {
        assert!(self.invocation.succeeded(), "{:?}", self.invocation);
        assert!(!self.requests.is_empty(), "{:?}", self.invocation);
        for request in &self.requests {
            assert!(matches!(request.status, 200 | 207), "{request:?}");
        }
    }

    /// The longest that the function waited for an answer, in milliseconds.
    pub fn slowest_ms(&self) -> f64 {
        self.requests
            .iter()
            .map(|request| request.ms)
            .fold(0.0, f64::max)
    }
}

impl Deref for Ran {
    type Target = Invocation;

    fn deref(&self) -> &Invocation {
        &self.invocation
    }
}

/// `GET /status`, or the line at SHUTDOWN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "as in the extension's own report")]
pub struct Books {
    pub invocations: u64,
    pub accepted: u64,
    pub recovered: u64,
    pub delivered: u64,
    pub held: u64,
    pub on_disk: u64,
    pub spooled: u64,
    pub dropped: u64,
    #[serde(deserialize_with = "by_reason")]
    pub dropped_by_reason: BTreeMap<String, u64>,
    pub filtered: u64,
    pub sampled_out: u64,
    pub masked: u64,
    pub stripped: u64,
    /// Requests that were not taken.
    pub refused: u64,
    pub maybe_doubled: u64,
    pub requests: u64,
    pub probes: u64,
    pub held_bytes: u64,
    pub langfuse_is_bad: bool,
}

/// An object, or the text of one, as logs have it.
fn by_reason<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, u64>, D::Error> {
    use serde::de::Error;
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => serde_json::from_str(&text),
        value => serde_json::from_value(value),
    }
    .map_err(D::Error::custom)
}

impl Books {
    /// Reads either form.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The equation that always holds.
    pub fn is_balanced(&self) -> bool {
        let gone = self.delivered + self.held + self.on_disk + self.spooled + self.dropped;
        let gone = gone + self.filtered + self.sampled_out;
        self.accepted + self.recovered == gone
            && self.dropped_by_reason.values().sum::<u64>() == self.dropped
    }

    /// The same as an assertion.
    pub fn assert_balanced(&self) {
        assert!(self.is_balanced(), "{self:?}");
    }
}
