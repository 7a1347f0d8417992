//! What goes wrong on demand, and for which requests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

/// Langfuse Cloud counts requests in fixed windows of this many milliseconds.
pub const RATE_LIMIT_WINDOW_MS: u64 = 60_000;

/// One way for Langfuse, or the network in front of it, to fail. In JSON (the control endpoint) a fault is
/// `{"kind": "latency", "ms": 250}`, its variant's name in snake case and its fields.
///
/// A dropped SYN is not among them: nothing answers for loopback but the kernel itself, which always does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// None. In front of other rules it exempts what its scope names.
    Healthy,
    /// The listener is closed and so is every connection: connecting is refused. The port stays reserved and opens
    /// again when the fault is cleared. Only the absence of a scope makes sense here.
    Refuse,
    /// Reads the request, stores nothing, never answers.
    HangBeforeAccepting,
    /// Stores what the request carries, never answers.
    HangAfterAccepting,
    /// Stores at once, answers after this time.
    Latency {
        /// From the end of the request to the answer's first byte.
        #[serde(rename = "ms", with = "milliseconds")]
        delay: Duration,
    },
    /// Stores at once and sends the answer, status line included, byte by byte.
    SlowDrip {
        /// Between two bytes.
        #[serde(rename = "ms_per_byte", with = "milliseconds")]
        interval: Duration,
    },
    /// Reads the request, then resets the connection (RST).
    ResetBeforeResponse {
        /// Whether what the request carries is stored first.
        #[serde(default)]
        accept: bool,
    },
    /// Stores, sends the head and half of the body, then resets the connection (RST).
    ResetMidResponse,
    /// Stores, sends the head and half of the body, then neither sends nor closes.
    StallMidResponse,
    /// Stores everything but the items that contain this text, and says so: in the 207 of `/ingestion` as an error per
    /// item, at the OTLP door as a `partialSuccess` (Langfuse itself has none; a collector in front of it has).
    RefuseItems {
        /// Looked for in an item's JSON text.
        containing: String,
        /// Of each error in a 207.
        #[serde(default = "bad_request")]
        status: u16,
    },
    /// Answers with this, as an edge, a load balancer or a broken Langfuse would.
    Status {
        /// HTTP status code.
        status: u16,
        /// Sent as they are, besides the content length.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// The whole body.
        #[serde(default)]
        body: String,
        /// Whether what the request carries is stored all the same (a gateway's timeout, for example).
        #[serde(default)]
        accept: bool,
    },
    /// What a TLS client cannot accept. Affects new connections, and closes the existing ones when it is set.
    /// Without TLS only [`TlsFailure::Garbage`] and [`TlsFailure::Hang`] can be told from health.
    Tls {
        /// In which way.
        failure: TlsFailure,
    },
    /// Langfuse Cloud's limits, counted by organisation and bucket, which, like the real ones, are off by one:
    /// of `requests` per window the last is already refused, with 429, `Retry-After` and `X-RateLimit-*`.
    RateLimit {
        /// Points per window for ingestion: OTLP and `/ingestion` share them.
        requests: u32,
        /// Points per window for `/scores` and what else is no ingestion; `None`: no limit.
        #[serde(default)]
        public_api_requests: Option<u32>,
        /// Length of the fixed window that starts with its first request.
        #[serde(
            rename = "window_ms",
            with = "milliseconds",
            default = "rate_limit_window"
        )]
        window: Duration,
    },
}

/// What an organisation pays Langfuse Cloud for, and so how many requests per minute it has.
/// <https://langfuse.com/faq/all/api-limits>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// 1,000 for ingestion, 30 for everything else.
    Hobby,
    /// 4,000 and 100.
    Core,
    /// 20,000 and 1,000, which is what the plans above it have as well.
    Pro,
}

/// In which way TLS fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsFailure {
    /// A certificate by the right CA for the right name that ended in 2001.
    Expired,
    /// A certificate by the right CA for `wrong.invalid`.
    WrongName,
    /// The right name by a CA that nobody was told about.
    UnknownAuthority,
    /// Plain bytes instead of a handshake, then the end of the connection.
    Garbage,
    /// Accepts the connection and never says anything.
    Hang,
}

impl Fault {
    /// [`Fault::Latency`].
    pub fn latency(delay: Duration) -> Self {
        Self::Latency { delay }
    }

    /// [`Fault::SlowDrip`].
    pub fn slow_drip(interval: Duration) -> Self {
        Self::SlowDrip { interval }
    }

    /// [`Fault::Tls`].
    pub fn tls(failure: TlsFailure) -> Self {
        Self::Tls { failure }
    }

    /// [`Fault::RateLimit`] of ingestion alone, with Cloud's window of a minute.
    pub fn rate_limit(requests: u32) -> Self {
        Self::RateLimit {
            requests,
            public_api_requests: None,
            window: rate_limit_window(),
        }
    }

    /// [`Fault::RateLimit`] with what an organisation on this plan has.
    pub fn plan(plan: Plan) -> Self {
        let (requests, public_api_requests) = match plan {
            Plan::Hobby => (1_000, 30),
            Plan::Core => (4_000, 100),
            Plan::Pro => (20_000, 1_000),
        };
        Self::RateLimit {
            requests,
            public_api_requests: Some(public_api_requests),
            window: rate_limit_window(),
        }
    }

    /// The page of a load balancer, a firewall or an ingress, never Langfuse's own words; nothing is stored.
    pub fn edge(status: u16) -> Self {
        Self::Status {
            status,
            headers: vec![("content-type".into(), "text/html".into())],
            body: super::reply::edge_page(status),
            accept: false,
        }
    }

    /// Somewhere else: an ingress during a roll-out, or a gateway that wants a login.
    pub fn redirect(status: u16, location: &str) -> Self {
        let mut fault = Self::edge(status);
        if let Self::Status { headers, .. } = &mut fault {
            headers.push(("location".into(), location.into()));
        }
        fault
    }

    /// The answer Langfuse, or the edge before it, is known to give with this status; nothing is stored.
    pub fn status(status: u16) -> Self {
        let (content_type, body) = body_for(status);
        Self::Status {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            body,
            accept: false,
        }
    }

    /// 429 with `Retry-After` in whole seconds.
    pub fn too_many_requests(retry_after_s: u32) -> Self {
        let mut fault = Self::status(429);
        if let Self::Status { headers, .. } = &mut fault {
            headers.push(("retry-after".into(), retry_after_s.to_string()));
        }
        fault
    }

    /// 403 as for a free plan that has used up all its units.
    pub fn suspended() -> Self {
        Self::status(403)
    }

    /// The same answer, but what the request carries is stored first.
    #[must_use]
    pub fn after_accepting(mut self) -> Self {
        if let Self::Status { accept, .. } | Self::ResetBeforeResponse { accept } = &mut self {
            *accept = true;
        }
        self
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Refuse => "refuse",
            Self::HangBeforeAccepting => "hang_before_accepting",
            Self::HangAfterAccepting => "hang_after_accepting",
            Self::Latency { .. } => "latency",
            Self::SlowDrip { .. } => "slow_drip",
            Self::ResetBeforeResponse { .. } => "reset_before_response",
            Self::ResetMidResponse => "reset_mid_response",
            Self::StallMidResponse => "stall_mid_response",
            Self::RefuseItems { .. } => "refuse_items",
            Self::Status { .. } => "status",
            Self::Tls { .. } => "tls",
            Self::RateLimit { .. } => "rate_limit",
        }
    }

    /// Faults that act on connections or accounts rather than on one request.
    fn acts_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Refuse | Self::Tls { .. } | Self::RateLimit { .. }
        )
    }
}

fn body_for(status: u16) -> (&'static str, String) {
    let json = |value: serde_json::Value| ("application/json; charset=utf-8", value.to_string());
    match status {
        401 => json(
            json!({"message": "Invalid credentials. Confirm that you've configured the correct host."}),
        ),
        403 => json(json!({"message": super::auth::SUSPENDED, "error": "ForbiddenError"})),
        429 => {
            json(json!({"message": "Rate limit exceeded", "code": "rate_limited", "details": {}}))
        }
        500 => json(
            json!({"message": "Internal Server Error", "error": "Failed to upload JSON to S3"}),
        ),
        503 => json(json!({"message": "Service Unavailable"})),
        _ => ("text/html", super::reply::edge_page(status)),
    }
}

/// Which requests a rule is about. The default is all of them, until cleared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultScope {
    /// Only raw paths (base path included) that begin so.
    pub path_prefix: Option<String>,
    /// Only this method.
    pub method: Option<String>,
    /// Only requests that carry at least one span, event or score; an empty OTLP request, a probe, is not one.
    pub data_bearing_only: bool,
    /// Only requests whose body, inflated, contains this text; case matters.
    pub containing: Option<String>,
    /// Only the first so many requests that match the rest (for [`Fault::Tls`]: connections).
    pub first_requests: Option<u64>,
}

/// A fault and its scope. In JSON the scope is the fault's field `scope`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRule {
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
    /// To which requests.
    #[serde(default)]
    pub scope: FaultScope,
}

impl FaultRule {
    /// Only raw paths that begin so.
    #[must_use]
    pub fn on_path(mut self, prefix: &str) -> Self {
        self.scope.path_prefix = Some(prefix.into());
        self
    }

    /// Only requests with this method.
    #[must_use]
    pub fn on_method(mut self, method: &str) -> Self {
        self.scope.method = Some(method.into());
        self
    }

    /// Only requests that carry data.
    #[must_use]
    pub fn on_data(mut self) -> Self {
        self.scope.data_bearing_only = true;
        self
    }

    /// Only requests whose body contains this text, as a firewall's rule.
    #[must_use]
    pub fn on_content(mut self, text: &str) -> Self {
        self.scope.containing = Some(text.into());
        self
    }

    /// Langfuse's object store or queue is gone: data draws 500, while an empty export, answered before either is touched,
    /// goes on drawing 200.
    pub fn storage_down() -> Self {
        Self::from(Fault::status(500)).on_data()
    }

    /// The same with a store that hangs: so does data, and an empty export does not.
    pub fn storage_hung() -> Self {
        Self::from(Fault::HangBeforeAccepting).on_data()
    }

    /// Only the first `count` matching requests.
    #[must_use]
    pub fn first(mut self, count: u64) -> Self {
        self.scope.first_requests = Some(count);
        self
    }
}

impl From<Fault> for FaultRule {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            scope: FaultScope::default(),
        }
    }
}

/// The rules in force, first match wins.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: Vec<ActiveRule>,
}

#[derive(Debug)]
struct ActiveRule {
    rule: FaultRule,
    matched_count: u64,
    windows: HashMap<Account, (Instant, u32)>,
}

/// What a limit counts by: the organisation's id, and the bucket.
pub(super) type Account = (String, Bucket);

/// Which of an organisation's two limits a route takes its points from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bucket {
    Ingestion,
    PublicApi,
}

/// What a scope can look at.
pub(super) struct Facts<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) data_bearing: bool,
    /// The inflated body, for the rules that look at it.
    pub(super) content: Box<dyn Fn() -> Cow<'a, [u8]> + 'a>,
}

/// What a rate limit says about one request that it refuses.
pub(super) struct RateLimited {
    pub(super) limit: u32,
    pub(super) until_reset: Duration,
}

impl Faults {
    pub(super) fn clear(&mut self) {
        self.active.clear();
    }

    pub(super) fn add(&mut self, rule: FaultRule) {
        self.active.push(ActiveRule {
            rule,
            matched_count: 0,
            windows: HashMap::new(),
        });
    }

    pub(super) fn rules(&self) -> Vec<FaultRule> {
        self.active
            .iter()
            .map(|active| active.rule.clone())
            .collect()
    }

    pub(super) fn refuses(&self) -> bool {
        self.active
            .iter()
            .any(|active| active.rule.fault == Fault::Refuse)
    }

    pub(super) fn has_tls_failure(&self) -> bool {
        self.active
            .iter()
            .any(|active| matches!(active.rule.fault, Fault::Tls { .. }))
    }

    /// The fault for one request, counted.
    pub(super) fn for_request(&mut self, facts: &Facts<'_>) -> Fault {
        self.active
            .iter_mut()
            .filter(|active| !active.rule.fault.acts_elsewhere() && active.rule.scope.covers(facts))
            .find_map(|active| active.counts().then(|| active.rule.fault.clone()))
            .unwrap_or(Fault::Healthy)
    }

    /// The failure for one new connection, counted.
    pub(super) fn for_connection(&mut self) -> Option<TlsFailure> {
        self.active.iter_mut().find_map(|active| {
            let Fault::Tls { failure } = active.rule.fault else {
                return None;
            };
            active.counts().then_some(failure)
        })
    }

    /// Takes one point of this account.
    pub(super) fn take_point(
        &mut self,
        facts: &Facts<'_>,
        account: &Account,
        now: Instant,
    ) -> Option<RateLimited> {
        self.active.iter_mut().find_map(|active| {
            let Fault::RateLimit {
                requests,
                public_api_requests,
                window,
            } = active.rule.fault
            else {
                return None;
            };
            if !active.rule.scope.covers(facts) {
                return None;
            }
            let limit = match account.1 {
                Bucket::Ingestion => requests,
                Bucket::PublicApi => public_api_requests?,
            };
            active.take_point(account, limit, window, now)
        })
    }
}

impl ActiveRule {
    fn counts(&mut self) -> bool {
        let within = self
            .rule
            .scope
            .first_requests
            .is_none_or(|limit| self.matched_count < limit);
        if within {
            self.matched_count += 1;
        }
        within
    }

    fn take_point(
        &mut self,
        account: &Account,
        limit: u32,
        window: Duration,
        now: Instant,
    ) -> Option<RateLimited> {
        let (opened, used_count) = match self.windows.get(account) {
            Some((opened, used_count)) if now < *opened + window => (*opened, *used_count),
            _ => (now, 0),
        };
        let used_count = used_count.saturating_add(1);
        self.windows.insert(account.clone(), (opened, used_count));
        (used_count >= limit).then(|| RateLimited {
            limit,
            until_reset: (opened + window).saturating_duration_since(now),
        })
    }
}

impl FaultScope {
    fn covers(&self, facts: &Facts<'_>) -> bool {
        self.path_prefix
            .as_deref()
            .is_none_or(|prefix| facts.path.starts_with(prefix))
            && self
                .method
                .as_deref()
                .is_none_or(|method| facts.method.eq_ignore_ascii_case(method))
            && (facts.data_bearing || !self.data_bearing_only)
            && self
                .containing
                .as_deref()
                .is_none_or(|text| contains(&(facts.content)(), text))
    }
}

/// Whether this text is somewhere in these bytes.
pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    text.is_empty()
        || bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
}

fn bad_request() -> u16 {
    400
}

fn rate_limit_window() -> Duration {
    Duration::from_millis(RATE_LIMIT_WINDOW_MS)
}

/// Durations as whole milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
