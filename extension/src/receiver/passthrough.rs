//! Everything else of Langfuse's API: prompts, media, projects, datasets. It waits for Langfuse, but not for long, and
//! not at all while Langfuse is known to be bad.
//!
//! A failure is answered 424, because SDKs retry a 5xx and block on it: `get_prompt` took 28 s with 504 and 6 s with 424.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use langfuse_extension_core::route::Credential;

use super::route::HOP_BY_HOP;
use super::{AnswerBody, Receiver, complete};
use crate::agent::{Event, Input};
use crate::config::Passthrough;

/// How long the head of Langfuse's answer is waited for.
pub const PASSTHROUGH_TIMEOUT: Duration = Duration::from_secs(2);

/// What an app may ask with the extension's keys: what SDKs ask at run time. More, and a request forged through the app
/// could read the whole project.
const SDK_CALLS: [(&Method, &str); 14] = [
    (&Method::GET, "v2/prompts"),
    (&Method::POST, "v2/prompts"),
    (&Method::PATCH, "v2/prompts"),
    (&Method::POST, "media"),
    (&Method::PATCH, "media"),
    (&Method::GET, "media"),
    (&Method::GET, "projects"),
    (&Method::GET, "v2/datasets"),
    (&Method::POST, "v2/datasets"),
    (&Method::GET, "datasets"),
    (&Method::GET, "dataset-items"),
    (&Method::POST, "dataset-items"),
    (&Method::POST, "dataset-run-items"),
    (&Method::GET, "health"),
];

impl Receiver {
    /// Asks Langfuse and streams its answer back.
    pub(super) async fn pass_through(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let Some(credential) = self.credential(request.headers()) else {
            return self.no_keys();
        };
        if !self.may_pass(request.method(), request.uri().path(), &credential) {
            return failed("LANGFUSE_EXTENSION_PASSTHROUGH does not let this request pass");
        }
        if self.inputs.ask(Input::IsLangfuseBad).await.unwrap_or(true) {
            return failed("Langfuse is not reachable at the moment");
        }
        match tokio::time::timeout(PASSTHROUGH_TIMEOUT, self.ask_langfuse(request, &credential))
            .await
        {
            Ok(Ok(response)) => {
                self.inputs.event(Event::PassedThrough { answered: true });
                response
            }
            Ok(Err(reason)) => {
                self.inputs.event(Event::PassedThrough { answered: false });
                failed(&reason)
            }
            Err(_) => {
                self.inputs.event(Event::PassedThrough { answered: false });
                failed("Langfuse did not answer in time")
            }
        }
    }

    fn may_pass(&self, method: &Method, path: &str, credential: &Credential) -> bool {
        match (self.passthrough, credential) {
            (Passthrough::Off, _) => false,
            (Passthrough::All, _) | (Passthrough::Sdk, Credential::Client(_)) => true,
            (Passthrough::Sdk, Credential::Configured) => is_sdk_call(method, path),
        }
    }

    async fn ask_langfuse(
        &self,
        request: Request<Incoming>,
        credential: &Credential,
    ) -> Result<Response<AnswerBody>, String> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = format!("/{}", path.trim_start_matches('/'));
        let url = self
            .upstream
            .url(&path)
            .ok_or("there is no address of Langfuse")?;
        let mut headers = end_to_end(&parts.headers);
        if *credential == Credential::Configured {
            self.upstream
                .keys()
                .ok_or("the extension's keys are not there yet")?
                .insert_into(&mut headers);
        }
        if let Some(length) = parts.headers.get(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, length.clone());
        }
        let client = self
            .upstream
            .client()
            .ok_or("the HTTPS client could not be set up")?;
        let mut asked = client.request(parts.method, url).headers(headers);
        if !hyper::body::Body::is_end_stream(&body) {
            asked = asked.body(reqwest::Body::wrap(body));
        }
        let response = asked
            .send()
            .await
            .map_err(|error| error.without_url().to_string())?;
        let mut answer = Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = end_to_end(response.headers());
        Ok(answer.map(|()| reqwest::Body::from(response).boxed()))
    }
}

/// Prompt names may hold anything, so only whole segments count, and nothing that climbs.
fn is_sdk_call(method: &Method, path: &str) -> bool {
    let path = path
        .trim_start_matches('/')
        .strip_prefix("api/public/")
        .unwrap_or_default();
    let climbs = path.split('/').any(|segment| {
        let decoded = segment.replace("%2e", ".").replace("%2E", ".");
        decoded == "." || decoded == ".."
    });
    let allowed = |(_, start): &&(&Method, &str)| {
        path.strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !climbs
        && SDK_CALLS
            .iter()
            .filter(allowed)
            .any(|(allowed, _)| **allowed == *method)
}

/// The headers that concern both ends, rather than one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named = headers
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let named: Vec<_> = named
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let passes = |name: &HeaderName| {
        !HOP_BY_HOP.contains(name)
            && *name != HOST
            && *name != CONTENT_LENGTH
            && name != "keep-alive"
            && name != "proxy-connection"
            && !named.iter().any(|other| other == name.as_str())
    };
    headers
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn failed(reason: &str) -> Response<AnswerBody> {
    tracing::debug!(reason, "a request could not be passed to Langfuse");
    let body = serde_json::json!({ "message": reason, "error": "FailedDependency" }).to_string();
    complete(
        StatusCode::FAILED_DEPENDENCY,
        "application/json",
        Bytes::from(body),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_injected_keys_only_what_sdks_ask_passes() {
        let passes = |method, path| is_sdk_call(&method, path);
        assert!(passes(Method::GET, "/api/public/v2/prompts/movie%2Fcritic"));
        assert!(passes(Method::GET, "//api/public/projects"));
        assert!(passes(Method::PATCH, "/api/public/media/abc"));
        for (method, path) in [
            (Method::GET, "/api/public/traces"),
            (Method::DELETE, "/api/public/v2/prompts/x"),
            (Method::GET, "/api/public/projects2"),
            (Method::GET, "/api/public/projects/../traces"),
            (Method::GET, "/api/public/projects/%2e%2E/traces"),
            (Method::GET, "/api/public/scores"),
        ] {
            assert!(!passes(method, path), "{path}");
        }
    }
}
