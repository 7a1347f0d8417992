//! What only the platform knows, added where it is missing.

use std::collections::VecDeque;
use std::time::Duration;

use super::texts::Texts;

/// Invocations remembered, so that late spans find theirs.
pub const INVOCATIONS_LIMIT: usize = 64;

/// The value of an attribute that is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `stringValue`.
    Text(String),
    /// `intValue`.
    Integer(i64),
}

/// An attribute.
pub type Attribute = (&'static str, Value);

/// One invocation of the function, as far as spans show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// `AWSRequestID`.
    pub request_id: String,
    /// When it began, since the Unix epoch.
    pub started_at: Duration,
    /// Whether it is the first one of its sandbox.
    pub cold_start: bool,
}

impl Invocation {
    /// The invocation that Lambda told at `now`. Its handler may have begun before that, so it is counted back from its
    /// deadline: a timeout is a whole number of seconds.
    pub fn of(request_id: &str, deadline_epoch_ms: u64, now: Duration, cold_start: bool) -> Self {
        let deadline = Duration::from_millis(deadline_epoch_ms);
        let timeout = deadline.saturating_sub(now).as_millis().div_ceil(1000);
        let timeout = Duration::from_secs(u64::try_from(timeout).unwrap_or_default());
        Self {
            request_id: request_id.to_owned(),
            started_at: deadline.saturating_sub(timeout).min(now),
            cold_start,
        }
    }
}

/// What is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enrich {
    /// Attributes of the resource, by OpenTelemetry's conventions
    /// (<https://opentelemetry.io/docs/specs/semconv/resource/faas/>).
    pub resource: Vec<Attribute>,
    /// Whether spans and events get metadata of their invocation.
    pub invocation: bool,
    invocations: VecDeque<Invocation>,
}

/// What Langfuse shows as metadata of an observation begins so on a span.
const SPAN_METADATA: &str = "langfuse.observation.metadata.";
/// With this name OpenTelemetry's SDKs say that they were given none.
const UNKNOWN_SERVICE: &str = "unknown_service";
pub(super) const SERVICE_NAME: &str = "service.name";

impl Enrich {
    /// Adds `resource`, and metadata of invocations if asked for.
    pub fn new(resource: Vec<Attribute>, invocation: bool) -> Self {
        Self {
            resource,
            invocation,
            invocations: VecDeque::new(),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.resource.is_empty() && !self.invocation
    }

    pub(super) fn knows_no_invocation(&self) -> bool {
        self.invocations.is_empty()
    }

    /// An invocation begins.
    pub fn began(&mut self, invocation: Invocation) {
        if self.invocations.len() >= INVOCATIONS_LIMIT {
            self.invocations.pop_front();
        }
        self.invocations.push_back(invocation);
    }

    /// Whether a service's name is none.
    pub(super) fn replaces_service(&self, name: &str) -> bool {
        name.starts_with(UNKNOWN_SERVICE)
            && self.resource.iter().any(|(key, _)| *key == SERVICE_NAME)
    }

    /// The attributes of a resource that has those of `has`.
    pub(super) fn of_resource(
        &self,
        has: impl Fn(&str) -> bool,
        texts: &mut Texts<'_>,
    ) -> Vec<(String, Value)> {
        self.resource
            .iter()
            .filter(|(key, _)| !has(key))
            .map(|(key, value)| ((*key).to_owned(), permitted(key, value.clone(), texts)))
            .collect()
    }

    /// The attributes of a span that began at `started_at`.
    pub(super) fn of_span(
        &self,
        started_at: Option<Duration>,
        has: impl Fn(&str) -> bool,
        texts: &mut Texts<'_>,
    ) -> Vec<(String, Value)> {
        self.metadata(started_at)
            .into_iter()
            .map(|(key, value)| ([SPAN_METADATA, key].concat(), value))
            .filter(|(key, _)| !has(key))
            .map(|(key, value)| {
                let value = permitted(&key, Value::Text(value), texts);
                (key, value)
            })
            .collect()
    }

    /// What is known of the invocation in which something began: the latest that had begun by then.
    pub(super) fn metadata(&self, started_at: Option<Duration>) -> Vec<(&'static str, String)> {
        let Some(at) = started_at.filter(|_| self.invocation) else {
            return Vec::new();
        };
        let invocation = self.invocations.iter().rev().find(|it| it.started_at <= at);
        let Some(invocation) = invocation else {
            return Vec::new();
        };
        let cold_start = if invocation.cold_start {
            "true"
        } else {
            "false"
        };
        vec![
            ("aws_request_id", invocation.request_id.clone()),
            ("cold_start", cold_start.to_owned()),
        ]
    }
}

/// What we add is masked like everything else.
fn permitted(key: &str, value: Value, texts: &mut Texts<'_>) -> Value {
    let traits = texts.traits(key);
    let masked = match &value {
        Value::Text(text) => texts.value(traits, text, false),
        Value::Integer(number) => texts.number(traits, &number.to_string()),
    };
    masked.map_or(value, Value::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_began_a_whole_number_of_seconds_before_its_deadline() {
        let of = |now| Invocation::of("r", 103_000, Duration::from_millis(now), false).started_at;
        assert_eq!(of(100_000), Duration::from_secs(100));
        assert_eq!(of(100_040), Duration::from_secs(100));
        assert_eq!(of(104_000), Duration::from_secs(103));
    }

    #[test]
    fn a_span_belongs_to_the_latest_invocation_that_had_begun() {
        let mut enrich = Enrich::new(Vec::new(), true);
        for at in 0..=INVOCATIONS_LIMIT as u64 {
            enrich.began(Invocation {
                request_id: format!("request{at}"),
                started_at: Duration::from_secs(10 + at),
                cold_start: at == 0,
            });
        }
        let of = |millis| enrich.metadata(Some(Duration::from_millis(millis)));
        assert_eq!(of(10_999), []);
        assert_eq!(of(11_000)[0], ("aws_request_id", "request1".to_owned()));
        assert_eq!(of(99_000)[0].1, format!("request{INVOCATIONS_LIMIT}"));
        assert_eq!(enrich.metadata(None), []);
    }
}
