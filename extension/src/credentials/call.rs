//! One bounded HTTP exchange: a time, a size, one retry.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::Request;
use tokio::time::{Instant, sleep, timeout};
use url::Url;
use zeroize::Zeroizing;

use super::reason::Reason;

/// All attempts at one call.
const ATTEMPTS_LIMIT: u32 = 2;
/// One attempt, from connecting to the last byte; enough for a TLS handshake on a fourteenth of a CPU.
const ATTEMPT_LIMIT_MS: u64 = 3_000;
/// Between two attempts.
const RETRY_PAUSE_MS: u64 = 100;
/// The largest answer, in bytes: a secret has at most 65,536, each of which JSON may escape into six.
pub(super) const ANSWER_LIMIT_BYTES: usize = 512 * 1024;

/// Sends requests until a deadline.
pub(super) struct Caller<'a> {
    http: &'a reqwest::Client,
    started: Instant,
    within: Duration,
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
    host: String,
}

impl<'a> Caller<'a> {
    pub(super) fn new(http: &'a reqwest::Client, within: Duration) -> Self {
        let started = Instant::now();
        Self {
            http,
            started,
            within,
        }
    }

    /// Builds, sends and reads a request, twice at most. It is built anew for each attempt, because a signature has a time in it.
    pub(super) async fn call<T>(
        &self,
        url: &Url,
        build: impl Fn() -> Result<Request<String>, Reason>,
        read: impl Fn(&Answer) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        let host = url.host_str().unwrap_or_default();
        let mut attempt = 1;
        loop {
            let outcome = self.attempt(host, build()?).await;
            let error = match outcome.and_then(|answer| read(&answer)) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let pause = Duration::from_millis(RETRY_PAUSE_MS);
            if attempt == ATTEMPTS_LIMIT || !error.is_passing() || self.left() <= pause {
                return Err(error);
            }
            attempt += 1;
            sleep(pause).await;
        }
    }

    async fn attempt(&self, host: &str, request: Request<String>) -> Result<Answer, Reason> {
        let limit = self.left().min(Duration::from_millis(ATTEMPT_LIMIT_MS));
        timeout(limit, self.exchange(host, request))
            .await
            .unwrap_or_else(|_| Err(self.timed_out(host)))
    }

    async fn exchange(&self, host: &str, request: Request<String>) -> Result<Answer, Reason> {
        let failed = |error: reqwest::Error| self.failed(host, error);
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let mut response = self.http.execute(request).await.map_err(failed)?;
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                return Err(Reason::AnswerTooLarge {
                    host: host.to_owned(),
                    limit: ANSWER_LIMIT_BYTES,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status().as_u16(),
            body,
            host: host.to_owned(),
        })
    }

    fn left(&self) -> Duration {
        self.within.saturating_sub(self.started.elapsed())
    }

    fn timed_out(&self, host: &str) -> Reason {
        Reason::TimedOut {
            host: host.to_owned(),
            waited: self.started.elapsed(),
        }
    }

    fn failed(&self, host: &str, error: reqwest::Error) -> Reason {
        if error.is_timeout() {
            return self.timed_out(host);
        }
        Reason::Unreachable {
            host: host.to_owned(),
            cause: innermost(&error.without_url()),
        }
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl Answer {
    /// The reason for an answer that cannot be read.
    pub(super) fn garbage(&self) -> Reason {
        Reason::Garbage {
            host: self.host.clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn new(status: u16, body: Vec<u8>, host: &str) -> Self {
        Self {
            status,
            body: Zeroizing::new(body),
            host: host.to_owned(),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} from {} (***)", self.status, self.host)
    }
}
